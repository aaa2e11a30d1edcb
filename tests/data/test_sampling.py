"""Mixtures and balanced classes: the shares they promise, as functions of seed and position."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import tiny
from test_pipeline import PLAIN, Numbered, assert_equal, join, numbered, take

from mrl_jax import parts
from mrl_jax.data import array_records, labels, pipeline, sampling, sources

COUNTS = np.array([500, 100, 20, 4])  # of the classes of a long tail


@dataclasses.dataclass(frozen=True)
class Tail(Numbered):
    """Records whose image is their index, of classes of the sizes COUNTS, mixed."""

    def __getitem__(self, index):
        label = int(np.searchsorted(np.cumsum(COUNTS), (index * 7) % self.n, side="right"))
        return super().__getitem__(index) | {"label": label}


TAIL = sources.Source("tail", "train", Tail(int(COUNTS.sum())), len(COUNTS))


def drawn(sampler, count, seed=0):
    return np.array([sampler(seed, p) for p in range(count)])


@pytest.mark.parametrize(("balance", "share"), [(1.0, COUNTS**0.0), (0.5, COUNTS**0.5), (0.25, COUNTS**0.75)])
def test_balance_gives_classes_their_shares(balance, share):
    label_N = labels.read(TAIL)
    np.testing.assert_array_equal(np.bincount(label_N), COUNTS)
    found = drawn(sampling.make(TAIL, balance=balance), 6000)
    np.testing.assert_allclose(np.bincount(label_N[found]) / 6000, share / share.sum(), atol=0.025)
    inside = np.bincount(found[label_N[found] == 1], minlength=len(label_N))[label_N == 1]
    assert inside.min() > 0, "every record of a class is drawn"
    # Draws within a class are even: the variance of a count is about its mean.
    assert inside.var() < 2 * inside.mean()


def test_no_balance_is_the_natural_order():
    sampler = sampling.make(TAIL, balance=0.0)
    assert sorted(drawn(sampler, 624)) == list(range(624))
    np.testing.assert_array_equal(drawn(sampler, 50), [sampling.order(0, p, 624) for p in range(50)])


def test_draws_depend_on_the_seed_and_travel_to_workers():
    sampler = sampling.make(TAIL, balance=1.0)
    np.testing.assert_array_equal(drawn(sampler, 50), drawn(pickle.loads(pickle.dumps(sampler)), 50))
    assert (drawn(sampler, 500) == drawn(sampler, 500, seed=1)).mean() < 0.1
    assert (drawn(sampler, 500)[1:] == drawn(sampler, 500, seed=1)[:-1]).mean() < 0.1


@pytest.fixture
def mixture():
    return sources.concatenate([numbered(300), numbered(50), numbered(7)])


def test_a_mixture_keeps_its_weights_in_every_block(mixture):
    sampler = sampling.make(mixture, weights=(5.0, 4.0, 1.0))
    found = drawn(sampler, 4096)
    part = np.searchsorted([300, 350], found, side="right")
    for block in part.reshape(4, 1024):
        np.testing.assert_allclose(np.bincount(block), 1024 * np.array([0.5, 0.4, 0.1]), atol=1)
    assert (part[:1024] != part[1024:2048]).any()
    # Each part goes through its own epochs.
    for low, n, own in ((0, 300, 0), (300, 50, 1), (350, 7, 2)):
        stream = found[part == own] - low
        for epoch in range(len(stream) // n):
            assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_a_tiny_weight_still_has_its_turn(mixture):
    found = drawn(sampling.make(mixture, weights=(1.0, 1e-6, 1.0)), 2048)
    assert ((found >= 300) & (found < 350)).sum() == 2


def test_parts_of_a_mixture_are_balanced_each(mixture):
    both = sources.concatenate([TAIL, TAIL])
    found = drawn(sampling.make(both, weights=(1, 1), balance=1.0), 4096)
    share = np.bincount(labels.read(TAIL)[found % 624]) / 4096
    np.testing.assert_allclose(share, 0.25, atol=0.03)
    assert abs((found >= 624).mean() - 0.5) < 0.01


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_batches_are_the_same_on_two_hosts_and_after_a_resume(balance):
    both = sources.concatenate([TAIL, TAIL])
    sampler = sampling.make(both, weights=(3, 1), balance=balance)

    def batches(count, **options):
        return take(pipeline.train_batches(both, PLAIN, batch_size=16, seed=1, sampler=sampler, **options), count)

    one = batches(6)
    assert_equal(join([batches(6, rows=range(first, first + 8)) for first in (0, 8)]), one)
    assert_equal(batches(2, start_step=4), one[4:])
    assert_equal(batches(3, workers=1), one[:3])


@pytest.fixture
def shards(tmp_path):
    image = np.zeros((2, 2, 1), np.uint8)
    made = [
        array_records.write_shard(tmp_path / f"{k}.array_record", [{"image": image, "label": k} for _ in range(n)])
        for k, n in enumerate((40, 8))
    ]
    manifest = {"name": "x", "num_classes": 2, "label_names": ["a", "b"], "splits": {"train": made}}
    array_records.write_manifest(tmp_path, manifest)
    return tmp_path


def test_labels_of_shards_are_kept_beside_them(shards, monkeypatch):
    def load():
        return sources.load(f"array_record:{shards}", "train", data_dir=shards)

    expected = [0] * 40 + [1] * 8
    np.testing.assert_array_equal(labels.read(load()), expected)
    with monkeypatch.context() as patched:
        patched.setattr(array_records.Records, "__getitem__", lambda *_: pytest.fail("read again"))
        np.testing.assert_array_equal(labels.read(load()), expected)
    (kept,) = shards.glob(".labels-*.npy")
    kept.write_bytes(kept.read_bytes()[:-4])
    np.testing.assert_array_equal(labels.read(load()), expected)
    array_records.write_shard(shards / "1.array_record", [{"image": np.zeros((2, 2, 1), np.uint8), "label": 0}] * 8)
    np.testing.assert_array_equal(labels.read(load()), [0] * 48)


def test_kept_labels_are_held_against_the_classes_of_today(shards):
    path = shards / array_records.MANIFEST
    labels.read(sources.load(f"array_record:{shards}", "train", data_dir=shards))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_classes": 1, "label_names": ["a"]}))
    with pytest.raises(ValueError, match=r"record 40 has the label 1, not in \[0, num_classes=1\)"):
        labels.read(sources.load(f"array_record:{shards}", "train", data_dir=shards))


def test_labels_of_a_folder_that_cannot_be_written_are_read_each_time(shards, monkeypatch):
    def save(*_):
        raise OSError("read-only")

    monkeypatch.setattr(labels.np, "save", save)
    source = sources.load(f"array_record:{shards}", "train", data_dir=shards)
    assert labels.read(source).sum() == 8
    assert not list(shards.glob(".labels-*"))
    labels.check(source)
    monkeypatch.setattr(array_records.Records, "__getitem__", lambda *_: pytest.fail("read again"))
    labels.check(sources.load(f"array_record:{shards}", "train", data_dir=shards))


def test_a_label_out_of_range_is_named():
    source = sources.Source("bad", "train", [{"image": None, "label": 0}, {"image": None, "label": 5}], 2)
    with pytest.raises(ValueError, match="dataset 'bad' split 'train': record 1 has the label 5"):
        labels.read(source)


def test_a_record_of_several_classes_counts_as_the_rarest():
    records = [{"image": None, "label": label} for label in ([0], [0, 1], [0, 1, 2])]
    assert labels.read(sources.Source("several", "train", records, 3)).tolist() == [0, 1, 2]


SYNTHETIC = "synthetic:size=16,channels=1,classes=6,examples=48"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__balance": 1.5}, r"data\.balance=1\.5 must be in 0\.\.1"),
        ({"data__mixture": ((SYNTHETIC, "train"),)}, r"must be \(name, split, weight\)"),
        ({"data__mixture": ((SYNTHETIC, "train", 0),)}, "positive weight"),
        ({"data__mixture": ((SYNTHETIC, "train", 1.0), ("synthetic:size=16,channels=1", "test", 1.0))}, "has 10"),
    ],
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(tiny.config(**change))


def test_names_of_classes_must_agree():
    one, other = (dataclasses.replace(TAIL, label_names=tuple(names)) for names in ("abcd", "abce"))
    with pytest.raises(ValueError, match="their names differ"):
        sources.concatenate([one, other])
    assert sources.concatenate([one, TAIL]).num_classes == 4
    with pytest.raises(ValueError, match="has no records"):
        sources.concatenate([numbered(3), numbered(0)])


def test_the_config_reaches_the_batches():
    other = SYNTHETIC.replace("examples=48", "examples=6")
    mixture = ((SYNTHETIC, "train", 1.0), (other, "test", 3.0))
    runs = [
        parts.assemble(tiny.config(**change))
        for change in ({}, {"data__balance": 1.0}, {"data__mixture": mixture}, {"data__mixture": mixture[:1]})
    ]
    assert [len(run.train_source.records) for run in runs] == [48, 48, 54, 48]
    plain, balanced, mixed, alone = (next(parts.train_batches(run, 0))["image"] for run in runs)
    np.testing.assert_array_equal(plain, alone)
    assert not np.array_equal(plain, balanced)
    assert not np.array_equal(plain, mixed)
