"""The whole of a preparation: damage, kills, changed options; equal bytes however the work was shared."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest
import raw
from PIL import Image

from mrl_jax.data import array_records, pictures, sources
from mrl_jax.data.preparing import plan as plans
from mrl_jax.data.preparing import running, shards
from mrl_jax.data.preparing.spec import parse_splits

OPTIONS = {"shards": 5, "seed": 3}


@pytest.fixture
def source(tmp_path):
    """Twelve images of three classes."""
    return raw.folder(tmp_path / "source")


def damage(source, which=4):
    path = sorted(source.rglob("*.jpg"))[which]
    path.write_bytes(path.read_bytes()[:-30])
    return path


def test_equal_bytes_for_any_number_of_workers_after_an_error_too(source, tmp_path):
    raw.prepare(source, tmp_path / "one", **OPTIONS)
    path = sorted(source.rglob("*.jpg"))[4]
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="1 of 12 examples are undecodable"):
        raw.prepare(source, tmp_path / "two", workers=2, **OPTIONS)
    assert not multiprocessing.active_children()
    path.write_bytes(whole)
    raw.prepare(source, tmp_path / "two", workers=2, **OPTIONS)
    assert raw.files(tmp_path / "one") == raw.files(tmp_path / "two")
    assert len(raw.files(tmp_path / "one")) == 5 + 2
    assert not multiprocessing.active_children()


def test_seeds_shuffle_over_all_shards(source, tmp_path):
    raw.prepare(source, tmp_path / "kept")
    raw.prepare(source, tmp_path / "a", seed=1)
    raw.prepare(source, tmp_path / "b", seed=2)
    kept, a, b = (raw.found(tmp_path / name) for name in ("kept", "a", "b"))
    assert [label for _, label in kept] == sorted(label for _, label in kept)
    assert sorted(a) == sorted(b) == sorted(kept)
    assert a != b != kept != a


class Killed(BaseException):
    """What stands for a kill in this process."""


@pytest.mark.parametrize("after", [0, 1, 3, 4])
@pytest.mark.parametrize("where", ["write", "rename", "note"])
def test_a_preparation_that_was_killed_goes_on_to_equal_bytes(source, tmp_path, monkeypatch, after, where):
    raw.prepare(source, tmp_path / "whole", **OPTIONS)
    calls = []

    def dies(function, leave_something=None):
        def wrapped(*args):
            calls.append(args)
            if len(calls) > after:
                if leave_something:
                    leave_something(*args)
                raise Killed
            return function(*args)

        return wrapped

    def half(path, examples):
        path.write_bytes(b"half a shard")
        monkeypatch.setattr("pathlib.Path.unlink", lambda *a, **k: None)  # a killed process does not tidy up

    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(array_records, "write_shard", dies(array_records.write_shard, half))
        elif where == "rename":
            patch.setattr(shards.os, "fsync", dies(shards.os.fsync))
        else:
            patch.setattr(plans.Plan, "done", dies(plans.Plan.done))
        with pytest.raises(Killed):
            raw.prepare(source, tmp_path / "d", **OPTIONS)
    monkeypatch.undo()
    assert array_records.MANIFEST not in raw.files(tmp_path / "d")
    with pytest.raises(FileNotFoundError, match=r"there is no manifest.json"):
        sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".")
    raw.prepare(source, tmp_path / "d", **OPTIONS)
    assert raw.files(tmp_path / "d") == raw.files(tmp_path / "whole")
    assert not (tmp_path / "d" / plans.FOLDER).exists()


def test_finished_shards_are_not_written_again(source, tmp_path, monkeypatch):
    written = []
    write = array_records.write_shard

    def stop_at_third(path, examples):
        written.append(path.name)
        if len(written) == 3:
            raise Killed
        return write(path, examples)

    monkeypatch.setattr(array_records, "write_shard", stop_at_third)
    with pytest.raises(Killed):
        raw.prepare(source, tmp_path / "d", **OPTIONS)
    raw.prepare(source, tmp_path / "d", **OPTIONS)
    assert len(written) == 3 + 3
    raw.prepare(source, tmp_path / "d", **OPTIONS)  # complete: nothing at all
    assert len(written) == 6


def test_a_shard_that_was_cut_is_written_again(source, tmp_path, monkeypatch):
    raw.prepare(source, tmp_path / "whole", **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(running, "_finish", lambda plan: {})
        raw.prepare(source, tmp_path / "d", **OPTIONS)
    path = tmp_path / "d" / "train-00002-of-00005.array_record"
    path.write_bytes(path.read_bytes()[:-1])
    raw.prepare(source, tmp_path / "d", **OPTIONS)
    assert raw.files(tmp_path / "d") == raw.files(tmp_path / "whole")


@pytest.mark.parametrize("finished", [True, False])
def test_another_dataset_is_not_overwritten(source, tmp_path, monkeypatch, finished):
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(running, "_finish", lambda plan: {})
        raw.prepare(source, tmp_path / "d", **OPTIONS)
    before = raw.files(tmp_path / "d")
    (tmp_path / "other").mkdir()
    raw.folder(tmp_path / "other", 3)
    for other, options, message in (
        (source, OPTIONS | {"seed": 4}, "seed: 3 there, 4 asked for"),
        (source, OPTIONS | {"max_size": 8}, "max_size: 0 there, 8 asked for"),
        (tmp_path / "other", OPTIONS, "source: .*other' asked for"),
    ):
        with pytest.raises(ValueError, match=rf"d holds another dataset \(.*{message}.*choose another --data_dir"):
            raw.prepare(other, tmp_path / "d", **options)
    assert raw.files(tmp_path / "d") == before


def test_a_changed_source_is_not_mixed_with_what_is_there(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(running, "_finish", lambda plan: {})
        raw.prepare(source, tmp_path / "d")
    next(source.rglob("*.jpg")).unlink()
    with pytest.raises(ValueError, match=r"source has changed .*12 examples then, 11 now.*delete .*\.prepare"):
        raw.prepare(source, tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / plans.FOLDER)
    with pytest.raises(ValueError, match="holds other files already"):
        raw.prepare(source, tmp_path / "d")


def test_folders_that_are_not_for_datasets(source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="full holds other files already"):
        raw.prepare(source, tmp_path / "full")
    with pytest.raises(ValueError, match="lies within the source"):
        raw.prepare(source, source / "prepared")
    assert sorted(p.name for p in source.iterdir()) == ["cat", "dog", "owl"]


def test_two_at_once_are_refused(source, tmp_path):
    with (
        running._owned(tmp_path / "d"),
        pytest.raises(RuntimeError, match="is being prepared by another process"),
    ):
        raw.prepare(source, tmp_path / "d")
    raw.prepare(source, tmp_path / "d")


def test_a_truncated_jpeg_is_named_and_its_repair_goes_on(source, tmp_path):
    whole = {path: path.read_bytes() for path in source.rglob("*.jpg")}
    path = damage(source)
    name = f"train dog/{path.name}: OSError: "
    with pytest.raises(ValueError, match=rf"1 of 12 examples are undecodable.*skip_fraction=0 allows \({name}"):
        raw.prepare(source, tmp_path / "d", **OPTIONS)
    assert array_records.MANIFEST not in raw.files(tmp_path / "d")
    path.write_bytes(whole[path])
    raw.prepare(source, tmp_path / "d", **OPTIONS)
    raw.prepare(source, tmp_path / "whole", **OPTIONS)
    assert raw.files(tmp_path / "d") == raw.files(tmp_path / "whole")


def test_damaged_examples_are_counted_listed_and_skipped_up_to_the_fraction(source, tmp_path):
    paths = [damage(source, which) for which in (1, 5)]
    with pytest.raises(ValueError, match=r"2 of 12 examples .* more than --skip_fraction=0.1 allows"):
        raw.prepare(source, tmp_path / "d", skip_fraction=0.1)
    result = raw.prepare(source, tmp_path / "d", skip_fraction=2 / 12)
    assert result["dropped"] == {"train": {"undecodable": 2}}
    assert result["class_counts"] == {"train": [3, 3, 4]}
    assert [row["key"] for row in raw.dropped(tmp_path / "d")] == [str(p.relative_to(source)) for p in paths]
    assert {row["reason"] for row in raw.dropped(tmp_path / "d")} == {"undecodable"}
    assert len(raw.found(tmp_path / "d")) == 10


def test_a_shard_with_nothing_left_is_read_as_empty(source, tmp_path):
    damage(source, 0)
    raw.prepare(source, tmp_path / "d", shards=12, skip_fraction=0.5)
    assert len(raw.found(tmp_path / "d")) == 11
    for path in source.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="nothing is left of split 'train'"):
        raw.prepare(source, tmp_path / "e", skip_fraction=1.0)


@pytest.mark.parametrize(("side", "size"), [("short", (100, 102)), ("long", (98, 100))])
def test_large_images_are_made_smaller_and_small_ones_left_alone(tmp_path, side, size):
    folder = tmp_path / "s" / "a"
    folder.mkdir(parents=True)
    large, small = raw.picture(1, 200), raw.picture(2, 80)
    (folder / "large.jpg").write_bytes(raw.jpeg(large))
    (folder / "small.jpg").write_bytes(raw.jpeg(small))
    raw.prepare(tmp_path / "s", tmp_path / "d", max_size=100, side=side)
    records = sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".").records
    shrunk = pictures.read(records[0]["image"])
    assert shrunk.shape[:2] == size
    expected = np.asarray(Image.fromarray(large).resize(size[::-1], Image.Resampling.LANCZOS))
    assert np.abs(shrunk.astype(int) - expected).mean() < 4
    assert records[1]["image"] == (folder / "small.jpg").read_bytes()
    raw.prepare(tmp_path / "s", tmp_path / "worse", max_size=100, side=side, quality=20)
    worse = sources.load(f"array_record:{tmp_path / 'worse'}", "train", data_dir=".").records
    assert len(worse[0]["image"]) < len(records[0]["image"])


def test_arrays_stay_arrays_when_made_smaller(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.stack([raw.picture(i)[:, :, 0] for i in range(2)]), labels=np.arange(2))
    raw.prepare(tmp_path / "a.npz", tmp_path / "d", max_size=8)
    records = sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".").records
    assert (records[1]["image"].shape, records[1]["image"].dtype) == ((8, 9, 1), np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": -1}, "--shards=-1 must be in"),
        ({"max_size": -5}, "--max_size=-5"),
        ({"quality": 0}, "--quality=0 must be in 1..100"),
        ({"hash_distance": 16}, r"--hash_distance=16 must be in 0\.\.15"),
        ({"seed": -2}, "--seed=-2 must not be negative"),
        ({"splits": {"a": 0.5, "b": 0.6}}, "the fractions sum to 1.1, not to 1"),
        ({"skip_fraction": 1.5}, "--skip_fraction=1.5"),
        ({"workers": 0}, "--workers=0"),
        ({"exclude_near": ("nowhere",), "hash_distance": 3}, "--exclude_near=nowhere: no dataset is in nowhere"),
    ],
)
def test_wrong_options_are_named_at_once(source, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        raw.prepare(source, tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_one_pixel_and_odd_modes_pass_through(tmp_path):
    folder = tmp_path / "s" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(folder / "0.png")
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(folder / "1.jpg")
    Image.fromarray(np.full((3, 3), 65535, np.uint16)).save(folder / "2.png")
    Image.new("P", (2, 2)).save(folder / "3.gif")
    raw.prepare(tmp_path / "s", tmp_path / "d")
    records = sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".").records
    shown = [pictures.read(records[i]["image"]) for i in range(4)]
    assert [image.shape for image in shown] == [(1, 1, 3), (4, 4, 3), (3, 3, 3), (2, 2, 3)]
    assert np.abs(shown[1][0, 0] - np.array([255, 0, 0])).max() < 8
    assert (shown[2] == 255).all()


def test_the_notes_of_a_plan_are_json(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(running, "_finish", lambda plan: {})
        raw.prepare(source, tmp_path / "d", **OPTIONS)
    notes = [json.loads(path.read_text()) for path in (tmp_path / "d" / plans.FOLDER / "done").iterdir()]
    assert sum(note["entry"]["examples"] for note in notes) == 12


def test_splits_are_names_or_fractions():
    assert parse_splits([]) == ()
    assert parse_splits(["train", "val-2"]) == ("train", "val-2")
    assert parse_splits(["train:0.9", "test:.1"]) == {"train": 0.9, "test": 0.1}
    for words in (["train:0.5", "test"], ["a", "a"], ["a:2"], ["../a"], ["a:x", "b:0.5"], ["a:0", "b:1"]):
        with pytest.raises(ValueError, match="give names, as in train,test, or fractions"):
            parse_splits(words)
