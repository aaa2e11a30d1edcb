"""The command: from a run's folder and from files, and what it refuses."""

import pathlib
import subprocess
import sys

import command
import jax
import numpy as np
import pytest
import tiny

from mrl_jax import checkpoints, convert, parts, trees, weights
from mrl_jax import config as configs
from mrl_jax.conversion import torch_files
from mrl_jax.conversion.request import Request


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a checkpoint of parameters split over devices, and its variables."""
    path = tmp_path_factory.mktemp("run")
    model = {**configs.resnet("10"), "base_width": 4, "blurpool": True}
    options = {"model": model, "nesting__dims": (8, 32), "nesting__weights": (2.0, 1.0)}
    config = tiny.config(**options, data__name="synthetic:size=32,channels=3,classes=6,examples=32")
    config.mesh, config.sharding.fsdp_min_size = {"data": 4, "fsdp": 2, "model": 1}, 64
    made = parts.assemble(config)
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jax.device_put(np.asarray(rng.normal(size=leaf.shape), leaf.dtype), leaf.sharding)

    state = jax.tree.map(draw, made.abstract_state)
    saver = checkpoints.Checkpoints(path / "checkpoints", keep=2, keep_period=0)
    nesting = {"dims": made.nesting.dims, "weights": made.nesting.weights}
    record = {"config": configs.to_json(config), "nesting": nesting, "num_classes": 6}
    saver.save(3, state, record)
    saver.close()
    return path, {"params": jax.device_get(state.params), "batch_stats": jax.device_get(state.batch_stats)}


def write(src, dst, layout="ours", step=None, name="", **request):
    return convert.convert(
        pathlib.Path(src), pathlib.Path(dst), Request(**request), name=name, layout=layout, step=step
    )


def test_a_run_becomes_a_weights_file(run, tmp_path):
    path, variables = run
    text = write(path, tmp_path / "w.safetensors")
    found, about = weights.load(tmp_path / "w.safetensors")
    old, new = trees.flatten(variables), trees.flatten(found)
    assert set(old) == set(new)
    for name, value in old.items():
        np.testing.assert_array_equal(new[name], value, err_msg=name)
    assert about["nesting"] == {"dims": [8, 32], "weights": [2.0, 1.0]}
    assert about["model"] == {**configs.resnet("10"), "base_width": 4, "blurpool": True, "widths": []}
    assert about["source"] == {"file": path.name, "format": "run", "step": 3}
    assert f"{trees.count(variables['params']):,} parameters" in text
    assert f"--config.init.path={tmp_path}/w.safetensors" in text
    assert "--config.model.base_width=4 --config.model.blurpool=True" in text


def test_a_run_and_its_weights_file_become_the_same_state_dict(run, tmp_path):
    path, variables = run
    write(path, tmp_path / "w.safetensors")
    write(path, tmp_path / "a.pt", "torchvision")
    write(tmp_path / "w.safetensors", tmp_path / "b.safetensors", "torchvision")
    a = torch_files.read(tmp_path / "a.pt")
    b, _ = weights.read_tensors(tmp_path / "b.safetensors")
    assert set(a) == set(b)
    for name, value in a.items():
        np.testing.assert_array_equal(b[name], value, err_msg=name)
    write(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    again, about = weights.load(tmp_path / "c.safetensors")
    assert about["source"]["format"] == "torchvision"
    jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.asarray, variables))


@pytest.mark.parametrize(
    ("dst", "options", "error", "match"),
    [
        ("w.bin", {}, ValueError, r"must end in one of \.safetensors, \.pt"),
        ("w.pt", {}, ValueError, "give --to=torchvision"),
        ("none/w.safetensors", {}, FileNotFoundError, "none is not a folder"),
        ("w.safetensors", {"step": 7}, FileNotFoundError, r"--step=7 is not in .*\[3\]"),
        ("w.safetensors", {"head": "ff"}, ValueError, "describes itself"),
        ("w.safetensors", {"name": "hf_vit"}, ValueError, "describes itself"),
        ("w.safetensors", {"layout": "tochvision"}, ValueError, "did you mean 'torchvision'"),
    ],
)
def test_mistakes_are_named(run, tmp_path, dst, options, error, match):
    with pytest.raises(error, match=match):
        write(run[0], tmp_path / dst, **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(run, tmp_path):
    dst = tmp_path / "w.safetensors"
    dst.write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is left as it is"):
        write(run[0], dst)
    assert dst.read_text() == "precious"


def test_sources_that_are_none(tmp_path):
    dst = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write(tmp_path / "absent.pt", dst)
    with pytest.raises(FileNotFoundError, match=r"neither the checkpoints of a run nor model\.safetensors"):
        write(tmp_path, dst)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"tensors of no known model \(a, \.\.\.\)"):
        write(tmp_path / "other.npz", dst)
    with pytest.raises(ValueError, match=r"as big_vision.*3 missing: embedding/kernel"):
        write(tmp_path / "other.npz", dst, name="big_vision")
    with pytest.raises(ValueError, match="leave --step out"):
        write(tmp_path / "other.npz", dst, step=1)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no finished checkpoint"):
        write(tmp_path, dst)
    assert not dst.exists()


def test_the_command(run, tmp_path):
    arguments = (f"--src={run[0]}", f"--dst={tmp_path}/r10.pt")
    output = command.finish(command.start("mrl_jax.convert", *arguments))
    assert "head mrl of dims (8, 32), 6 classes" in output
    assert "torch.load(" in output
    again = command.finish(command.start("mrl_jax.convert", *arguments), expect=1)
    assert again.startswith("error: --dst=")
    assert len(again.splitlines()) == 1


def test_no_other_framework_is_imported():
    code = "import sys, mrl_jax.convert; assert not {'torch', 'tensorflow', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=command.ROOT)
