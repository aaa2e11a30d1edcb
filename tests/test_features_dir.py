"""The one door to features, and the writer that a kill cannot hurt."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mrl_jax import features_dir
from mrl_jax.features_dir import open_features
from mrl_jax.features_writer import FeaturesWriter, Layout

ROWS, DIM, BLOCK = 23, 4, 5
LAYOUT = Layout(ROWS, DIM, "float16", (), 7, None, (2, 4))
IDENTITY = {"checkpoint": {"step": 3}, "dataset": {"name": "x"}, "dtype": "float16"}
Z = np.arange(ROWS * DIM, dtype=np.float16).reshape(ROWS, DIM)
Y = np.arange(ROWS, dtype=np.int32) % 7


def write(path, stop=ROWS, batch=3, identity=IDENTITY, layout=LAYOUT, z=Z, block_rows=BLOCK):
    """Feeds batches of 3 up to row `stop`; returns the rows that the writer asked for."""
    writer = FeaturesWriter(path, identity, layout, block_rows)
    asked = writer.missing.copy()
    for first in range(0, stop, batch):
        filled = np.zeros((batch, DIM), np.float16), np.zeros(batch, np.int32)
        for values, source in zip(filled, (z, Y)):
            values[: len(source[first : first + batch])] = source[first : first + batch]
        writer.put(first, *filled)
    writer.close() if stop == ROWS else writer.abandon()
    return asked


def content(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole")
    return tmp_path / "whole"


def test_what_is_written_reads_back(whole):
    z, labels, info = open_features(whole, verify=True)
    np.testing.assert_array_equal(z, Z)
    np.testing.assert_array_equal(labels, Y)
    assert (z.dtype, labels.dtype, info.num_classes, info.dims) == (np.float16, np.int32, 7, (2, 4))
    assert info.identity == IDENTITY
    assert isinstance(z, np.memmap)
    assert sorted(content(whole)) == ["features.npy", "labels.npy", "manifest.json"]


@pytest.mark.parametrize("stop", [0, 3, 9, 12, 21])
def test_continued_wherever_it_stopped_it_ends_in_the_same_bytes(whole, tmp_path, stop):
    path = tmp_path / "stopped"
    write(path, stop)
    with pytest.raises(ValueError, match="is unfinished: run the same"):
        open_features(path)
    asked = write(path)
    assert asked.tolist() == [i >= stop // BLOCK for i in range(5)], "whole blocks are not computed again"
    assert content(path) == content(whole)


def test_another_batch_size_and_block_size_continue_too(whole, tmp_path):
    path = tmp_path / "stopped"
    write(path, 9)
    write(path, batch=4, block_rows=999)
    assert content(path) == content(whole)


def test_a_journal_cut_short_loses_its_last_block_only(whole, tmp_path):
    path = tmp_path / "stopped"
    write(path, 15)
    journal = path / features_dir.JOURNAL
    journal.write_bytes(journal.read_bytes()[:-10])
    assert write(path).tolist() == [False, False, True, True, True]
    assert content(path) == content(whole)


@pytest.mark.parametrize("name", ["features.npy", "labels.npy"])
def test_a_changed_byte_is_found_and_its_block_written_again(whole, tmp_path, name):
    before = content(whole)
    data = bytearray(before[name])
    data[-1] ^= 1
    (whole / name).write_bytes(bytes(data))
    with pytest.raises(ValueError, match="1 blocks of rows have changed since they were written, the first at row 20"):
        open_features(whole, verify=True)
    assert write(whole).tolist() == [False] * 4 + [True]
    assert content(whole) == before


def test_a_file_cut_short_is_found(whole):
    before = content(whole)
    os.truncate(whole / "features.npy", 200)
    with pytest.raises(ValueError, match=r"features\.npy is not a whole \.npy file"):
        open_features(whole)
    assert write(whole).all()
    assert content(whole) == before


@pytest.mark.parametrize("stop", [9, ROWS])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": IDENTITY | {"checkpoint": {"step": 4}}}, r"identity\.checkpoint\.step: 3 there, 4 here"),
        ({"identity": IDENTITY | {"dataset": {"name": "y"}}}, r"identity\.dataset\.name: x there, y here"),
        ({"layout": LAYOUT._replace(dtype="float32")}, "dtype: float16 there, float32 here"),
        ({"layout": LAYOUT._replace(rows=24)}, "rows: 23 there, 24 here"),
        ({"layout": LAYOUT._replace(labels=(3,))}, "labels"),
    ],
)
def test_a_folder_of_other_features_is_refused_untouched(tmp_path, stop, change, message):
    path = tmp_path / "other"
    write(path, stop)
    before = content(path)
    with pytest.raises(ValueError, match=f"holds other features .*{message}.*choose another --out"):
        write(path, **change)
    assert content(path) == before


def test_files_that_are_not_ours_are_not_overwritten(tmp_path):
    np.save(tmp_path / "features.npy", Z)
    with pytest.raises(ValueError, match="not ours"):
        write(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), Z)


def test_values_that_float16_cannot_hold_are_an_error(tmp_path):
    z = Z.copy()
    z[7, 2] = np.inf
    with pytest.raises(ValueError, match=r"row 7 are not finite as float16.*--dtype=float32"):
        write(tmp_path / "x", z=z)


def test_a_disk_without_room_is_an_error_before_any_work(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"needs 0\.00 GiB \(No space left on device\)"):
        write(tmp_path / "x")


def test_several_labels_per_row(tmp_path):
    writer = FeaturesWriter(tmp_path / "x", IDENTITY, LAYOUT._replace(rows=3, labels=(2,)), 2)
    labels = np.array([[1, -1], [2, 3], [0, 6]], np.int32)
    writer.put(0, Z[:3], labels)
    writer.close()
    np.testing.assert_array_equal(open_features(tmp_path / "x", verify=True).labels, labels)


@pytest.fixture
def pair(tmp_path):
    np.save(tmp_path / "z.npy", Z.astype(np.float32))
    np.save(tmp_path / "y.npy", Y.astype(np.int64))
    save_file({"features": Z.astype(ml_dtypes.bfloat16), "labels": Y}, tmp_path / "both.safetensors")
    save_file({"embedding": Z}, tmp_path / "z.safetensors", metadata={"a": "b"})
    (tmp_path / "plain").mkdir()
    np.save(tmp_path / "plain" / "features.npy", Z)
    np.save(tmp_path / "plain" / "labels.npy", np.stack([Y, np.full(ROWS, -1)], axis=1))
    return tmp_path


@pytest.mark.parametrize(
    "names",
    [("z.npy", "y.npy"), ("z.safetensors", "y.npy"), ("both.safetensors",), ("plain",)],
    ids=lambda names: "+".join(names),
)
def test_files_that_a_user_brings(pair, names):
    z, labels, info = open_features(*[pair / name for name in names])
    np.testing.assert_array_equal(np.asarray(z, np.float32), Z)
    np.testing.assert_array_equal(labels.reshape(ROWS, -1)[:, 0], Y)
    assert (info.num_classes, info.dims, dict(info.identity)) == (7, (), {})
    assert isinstance(z, np.memmap)


def test_a_pair_in_one_string(pair):
    np.testing.assert_array_equal(open_features(f"{pair}/z.npy,{pair}/y.npy").labels, Y)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("nowhere",), "does not exist: name a directory"),
        (("z.npy",), r"comes without labels: write .*z\.npy,LABELS\.npy"),
        (("z.npy", "z.npy"), "labels are float32; they must be integers"),
        (("y.npy", "y.npy"), "must be floats of shape"),
        (("z.npy", "short.npy"), r"labels have shape \(22,\) for 23 rows"),
        (("z.npy", "negative.npy"), "smallest label is -1; labels count from 0"),
        (("objects.npy", "y.npy"), "not a whole .npy file of numbers"),
        (("cut.safetensors", "y.npy"), "not a whole .safetensors file"),
        (("long.safetensors", "y.npy"), "not a whole .safetensors file"),
        (("splits",), r"holds the splits \['test'\]: name one of them"),
        (("empty",), "no features are there"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_bad_files_are_one_clear_error(pair, files, message):
    np.save(pair / "short.npy", Y[1:])
    np.save(pair / "negative.npy", Y - 1)
    np.save(pair / "objects.npy", np.array([{}], object), allow_pickle=True)
    (pair / "cut.safetensors").write_bytes((pair / "z.safetensors").read_bytes()[:-1])
    (pair / "long.safetensors").write_bytes(b"\xff" * 64)
    (pair / "empty").mkdir()
    write(pair / "splits" / "test")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_features(*[pair / name for name in files])


def test_cameras_of_ones_own(tmp_path):
    np.save(tmp_path / "features.npy", Z)
    np.save(tmp_path / "labels.npy", Y)
    assert open_features(tmp_path).info.fields == {}
    np.save(tmp_path / "cameras.npy", Y)
    np.testing.assert_array_equal(open_features(tmp_path).info.fields["camera"], Y)
    for wrong in (Y[1:], Y.astype(float)):
        np.save(tmp_path / "cameras.npy", wrong)
        with pytest.raises(ValueError, match=r"cameras.npy holds .*: it must be integers of shape \(23,\)"):
            open_features(tmp_path)


def test_a_manifest_that_is_none(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    (whole / "manifest.json").write_text(json.dumps(manifest | {"dim": 3}))
    with pytest.raises(ValueError, match="the manifest says"):
        open_features(whole)
    (whole / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="not a manifest of features of format 1"):
        open_features(whole)
