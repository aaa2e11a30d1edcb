import dataclasses
import itertools
import multiprocessing
import pathlib
import time

import numpy as np
import pytest

from mrl_jax.data import images, pipeline, sampling, sources

N = 50
AUGMENT = images.parse("decode|random_shift(2)|flip_lr")
PLAIN = images.parse("decode")


@pytest.fixture(scope="module")
def source():
    return sources.load(f"synthetic:size=8,examples={N}", "train", data_dir="unused")


def take(batches, count):
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def train(source, count=6, transform=AUGMENT, batch_size=16, seed=1, **kwargs):
    return take(pipeline.train_batches(source, transform, batch_size=batch_size, seed=seed, **kwargs), count)


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def join(parts):
    """The global batches from those of each process."""
    return [{name: np.concatenate([b[name] for b in batches]) for name in batches[0]} for batches in zip(*parts)]


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Records whose image is their index."""

    n: int

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        return {"image": np.array([[[index % 256, index // 256]]], np.uint8), "label": index % 3}


def numbered(n):
    return sources.Source("numbered", "train", Numbered(n), 3)


def numbers(batch):
    return batch["image"][:, 0, 0, 0] + 256 * batch["image"][:, 0, 0, 1].astype(int)


def test_batch_types(source):
    (batch,) = train(source, 1)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "image": ((16, 8, 8, 3), np.uint8),
        "label": ((16,), np.int32),
    }


def test_same_seed_same_batches_other_seed_others(source):
    assert_equal(train(source), train(source))
    other = train(source, seed=2)
    assert not any(np.array_equal(a["image"], b["image"]) for a, b in zip(train(source), other))


def test_starting_late_is_skipping(source):
    assert_equal(train(source, 4, start_step=5), train(source, 9)[5:])


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_global_batches(source, process_count):
    parts = [train(source, rows=rows) for rows in np.split(np.arange(16), process_count)]
    assert all(len(batch["label"]) == 16 // process_count for part in parts for batch in part)
    assert_equal(join(parts), train(source))


def test_rows_need_not_be_neighbours(source):
    rows = [1, 2, 9, 14]
    expected = [{name: values[rows] for name, values in batch.items()} for batch in train(source)]
    assert_equal(train(source, rows=rows), expected)
    (batch,) = pipeline.eval_batches(numbered(12), PLAIN, batch_size=16, rows=rows)
    assert batch["index"].tolist() == [1, 2, 9, -1]


def test_batch_size_does_not_change_the_stream(source):
    one, other = (np.concatenate([b["image"] for b in train(source, 96 // size, batch_size=size)]) for size in (16, 24))
    np.testing.assert_array_equal(one, other)


def test_workers_do_not_change_the_batches(source):
    expected = train(source, 7, start_step=3)
    for workers in (1, 2):
        assert_equal(train(source, 7, start_step=3, workers=workers), expected)
    one_pass = list(pipeline.eval_batches(source, PLAIN, batch_size=16))
    assert_equal(list(pipeline.eval_batches(source, PLAIN, batch_size=16, workers=2)), one_pass)
    (short,) = pipeline.eval_batches(source, PLAIN, batch_size=64, workers=2)
    assert short["mask"].sum() == N


@pytest.mark.skipif(not pathlib.Path("/dev/shm").is_dir(), reason="the system has no /dev/shm")
@pytest.mark.parametrize("room", [True, False], ids=["shared memory", "pipes"])
def test_batches_travel_by_shared_memory_where_it_has_room_and_leave_none_behind(source, monkeypatch, tmp_path, room):
    def blocks():
        return {path.name for path in pathlib.Path("/dev/shm").glob("psm_*")}

    expected, before = train(source, 3), blocks()
    monkeypatch.setattr(pipeline, "_SHARED_FROM", 0)
    if not room:
        monkeypatch.setattr(pipeline, "_SHARED", tmp_path / "none")
    found = train(source, 3, workers=2)
    assert (type(found[0]["image"]) is not np.ndarray) is room
    assert_equal(found, expected)
    del found
    deadline = time.monotonic() + 30
    while blocks() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not blocks() - before


def test_close_ends_the_workers(source):
    batches = pipeline.train_batches(source, PLAIN, batch_size=16, seed=0, workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    deadline = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_prefetch_and_memory_do_not_change_the_batches(source, monkeypatch):
    expected = train(source)
    assert_equal(train(source, prefetch=1), expected)
    for room in (0, N * 8 * 8 * 3 - 1):
        monkeypatch.setattr(pipeline, "KEEP_BYTES", room)
        assert_equal(train(source), expected)


def test_small_datasets_are_read_once(monkeypatch):
    reads = []
    read = Numbered.__getitem__
    monkeypatch.setattr(Numbered, "__getitem__", lambda self, index: reads.append(index) or read(self, index))
    train(numbered(20), 10, PLAIN)
    assert sorted(set(reads)) == list(range(20))
    assert len(reads) <= 21  # one more, to learn the size
    monkeypatch.setattr(pipeline, "KEEP_BYTES", 39)
    train(numbered(20), 10, PLAIN)
    assert len(reads) > 160


@pytest.mark.parametrize("in_memory", [0, 2**22])
@pytest.mark.parametrize("n", [1, 2, 7, 256, 1000])
def test_each_epoch_is_a_permutation(n, in_memory, monkeypatch):
    monkeypatch.setattr(sampling, "_SHUFFLE_IN_MEMORY", in_memory)
    epochs = [[sampling.order(5, e * n + i, n) for i in range(n)] for e in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert all(type(i) is int for i in epochs[0])
    if n > 100:
        others = [*epochs[1:], list(range(n)), [sampling.order(6, i, n) for i in range(n)]]
        # Epoch 1 of seed 5 must not be epoch 0 of seed 6.
        assert epochs[1] != others[-1]
        for other in others:
            assert np.mean(np.array(epochs[0]) == other) < 0.05
        assert abs(np.corrcoef(epochs[0], range(n))[0, 1]) < 0.2


def test_order_is_pinned():
    """A changed order changes every run that is resumed: this test failing means a note to users."""
    assert [sampling.order(0, p, 10) for p in range(10)] == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    assert [sampling.order(0, p, 2**23) for p in range(4)] == [4623698, 2504779, 7543402, 424041]


def test_the_stream_covers_each_epoch():
    # 3 epochs of 40 in batches of 16, which straddle their bounds.
    seen = np.concatenate([numbers(b) for b in train(numbered(40), 8, PLAIN)])
    for epoch in range(3):
        assert sorted(seen[epoch * 40 : (epoch + 1) * 40]) == list(range(40))
    (batch,) = train(numbered(3), 1, PLAIN, batch_size=16)
    assert np.bincount(numbers(batch)).min() >= 5


def test_augmentation_differs_between_epochs_and_rows():
    image = np.arange(100, dtype=np.uint8).reshape(10, 10, 1)
    one = sources.Source("one", "train", [{"image": image, "label": 0}], 1)
    drawn = {row.tobytes() for batch in train(one, 8) for row in batch["image"]}
    assert len(drawn) >= 40  # of 5 x 5 shifts x 2


def test_eval_covers_the_dataset_once_in_order():
    batches = list(pipeline.eval_batches(numbered(300), PLAIN, batch_size=64))
    assert len(batches) == 5
    masks = np.concatenate([b["mask"] for b in batches])
    index = np.concatenate([b["index"] for b in batches])
    assert masks.dtype == bool
    assert index.dtype == np.int64
    np.testing.assert_array_equal(masks, np.arange(320) < 300)
    np.testing.assert_array_equal(index, [*range(300), *[-1] * 20])
    np.testing.assert_array_equal(np.concatenate([numbers(b) for b in batches])[masks], range(300))
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches])[masks], np.arange(300) % 3)
    assert not batches[-1]["image"][~batches[-1]["mask"]].any()
    assert not batches[-1]["label"][~batches[-1]["mask"]].any()


@pytest.mark.parametrize("process_count", [2, 4])
def test_eval_is_the_same_on_many_processes(process_count):
    # 33 = 2 x 16 + 1: all but the first process end with nothing but filling.
    parts = [
        list(pipeline.eval_batches(numbered(33), PLAIN, batch_size=16, rows=rows))
        for rows in np.split(np.arange(16), process_count)
    ]
    assert_equal(join(parts), list(pipeline.eval_batches(numbered(33), PLAIN, batch_size=16)))
    assert not parts[-1][-1]["mask"].any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rows": [0, 16]}, r"rows=\[0, 16\] must be some of the rows 0..15 of a batch"),
        ({"rows": []}, r"rows=\[\] must be some of the rows"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"prefetch": 0}, "prefetch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"start_step": -1}, "start_step=-1"),
    ],
)
def test_bad_arguments_are_named_at_once(source, kwargs, message):
    with pytest.raises(ValueError, match=message):
        pipeline.train_batches(source, PLAIN, **({"batch_size": 16, "seed": 0} | kwargs))


def test_an_empty_dataset_is_refused():
    for make in (pipeline.eval_batches, lambda *a, **k: pipeline.train_batches(*a, seed=0, **k)):
        with pytest.raises(ValueError, match="dataset 'numbered' split 'train' has no records"):
            make(numbered(0), PLAIN, batch_size=4)


GOOD = {"image": np.zeros((4, 4, 1), np.uint8), "label": 0}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"label": 3}, r"dataset 'bad' split 'test': record 5 has the label 3, not in .*=3\); prepare .* all its"),
        ({"label": -1}, "record 5 has the label -1"),
        ({"image": b"\xff\xd8\xff no JPEG"}, "dataset 'bad' split 'test': record 5 cannot be read"),
    ],
)
def test_bad_records_are_named(bad, message, workers):
    records = [GOOD] * 5 + [GOOD | bad] + [GOOD] * 2
    source = sources.Source("bad", "test", records, 3)
    batches = pipeline.eval_batches(source, PLAIN, batch_size=4, workers=workers)
    next(batches)  # the batch before is whole
    with pytest.raises(ValueError, match=message):
        next(batches)
    batches.close()
    with pytest.raises(ValueError, match=message):
        train(source, 1, PLAIN, batch_size=8)


def test_several_labels_are_filled_up():
    labels = [[2], [0, 1, 2], [1, 0]]
    source = sources.Source("several", "test", [GOOD | {"label": n} for n in labels], 3, max_labels=4)
    (batch,) = pipeline.eval_batches(source, PLAIN, batch_size=4)
    assert batch["label"].dtype == np.int32
    assert batch["label"][batch["mask"]].tolist() == [[2, -1, -1, -1], [0, 1, 2, -1], [1, 0, -1, -1]]
    (trained,) = train(source, 1, PLAIN, batch_size=3)
    assert sorted(trained["label"].tolist()) == sorted(batch["label"][:3].tolist())


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 3], r"record 0 has the label \[0, 3\], not in \[0, num_classes=3\)"),
        ([-1], "not in"),
        ([], "has 0 labels, and its dataset says 1 to 2; prepare"),
        ([0, 1, 2], "has 3 labels"),
    ],
)
def test_several_bad_labels_are_named(label, message):
    source = sources.Source("several", "test", [GOOD | {"label": label}], 3, max_labels=2)
    with pytest.raises(ValueError, match=message):
        train(source, 1, PLAIN, batch_size=1)


def test_images_of_several_sizes_are_named():
    records = [GOOD, {"image": np.zeros((4, 5, 1), np.uint8), "label": 0}]
    with pytest.raises(ValueError, match=r"shapes \(4, 4, 1\), \(4, 5, 1\): end the transform with a crop"):
        train(sources.Source("mixed", "train", records, 1), 1, PLAIN, batch_size=2)
