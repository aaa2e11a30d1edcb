"""Our weights file: what goes in comes out, and anything else is refused in words."""

import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from mrl_jax import trees, weights


def about():
    return {
        "model": {"name": "vit", "variant": "mu/8"},
        "head": "mrl",
        "nesting": {"dims": [4, 8], "weights": [1.0, 2.0]},
        "num_classes": 3,
        "mean": [0.5],
        "std": [0.25],
        "grid": [2, 2],
        "source": {"format": "test"},
    }


def variables():
    rng = np.random.default_rng(0)
    return {
        "params": {
            "head": {"kernel_4": rng.normal(size=(4, 3)).astype(np.float32), "scale": np.float32(2.5)},
            "turned": np.asfortranarray(rng.normal(size=(5, 2)).astype(np.float16)),
        },
        "batch_stats": {"bn": {"mean": np.zeros((0,), np.float32)}},
    }


def test_round_trip(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, variables(), about())
    found, described = weights.load(path)
    assert described == about()
    old, new = trees.flatten(variables()), trees.flatten(found)
    assert set(old) == set(new)
    for name, value in old.items():
        assert new[name].dtype == value.dtype
        np.testing.assert_array_equal(new[name], value)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_any_reader_finds_names_and_description(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, variables(), about())
    with safe_open(path, framework="numpy") as file:
        assert "params/head/kernel_4" in set(file.keys())
        assert json.loads(file.metadata()["about"])["num_classes"] == 3


@pytest.mark.parametrize("cut", [1, 100, 400])
def test_a_file_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "w.safetensors"
    weights.save(path, variables(), about())
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"w\.safetensors .*damaged or cut short"):
        weights.load(path)


def test_a_changed_byte_is_found(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, variables(), about())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its content differs"):
        weights.load(path)


def test_a_changed_description_is_found(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, variables(), about())
    path.write_bytes(path.read_bytes().replace(b"mu/8", b"mu/4"))
    with pytest.raises(ValueError, match="is damaged: its content differs"):
        weights.load(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, path)
    assert not weights.is_ours(path)
    with pytest.raises(ValueError, match=r"not one of this project's weights files.*mrl_jax\.convert"):
        weights.load(path)
    path.write_bytes(b"PK\x03\x04 this is a zip")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        weights.load(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        weights.load(tmp_path / "absent.safetensors")


def test_a_failed_save_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, variables(), about())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="num_classes"):
        weights.save(path, variables(), {"head": "mrl"})
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever the library raises for text)
        weights.save(path, {"params": {"x": np.array(["text"])}}, about())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]
    with pytest.raises(FileNotFoundError, match="missing is not a folder"):
        weights.save(tmp_path / "missing" / "w.safetensors", variables(), about())
