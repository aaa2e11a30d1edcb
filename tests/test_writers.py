import json

import numpy as np
import pytest

from mrl_jax import writers


def test_values_read_back_bit_identical(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    writer = writers.JsonLines(path)
    for step, value in enumerate(values):
        writer.write(step, {"train/loss": float(value)})
    writer.close()
    assert [np.float32(line["train/loss"]) for line in writers.read_lines(path)] == list(values)


def test_resume_drops_what_lies_beyond_and_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    writers.JsonLines(path, first_step=2).close()
    assert writers.read_lines(path) == [{"step": 1}, {"step": 2}]


def test_a_fresh_start_drops_everything(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n')
    writers.JsonLines(path, first_step=0).close()
    assert writers.read_lines(path) == []


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        writers.read_lines(path)


@pytest.mark.parametrize("line", ['{"loss": 1.0}', "[]", "3"])
def test_a_line_without_a_step_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl has a line without a step, .*: move the file away") as error:
        writers.JsonLines(path, first_step=2)
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("[]", ValueError, "holds no JSON object"),
        ('{"a"', ValueError, "is not valid JSON"),
        (None, OSError, "cannot be read"),
    ],
)
def test_a_damaged_object_or_a_folder_is_told_with_its_remedy(tmp_path, content, kind, message):
    path = tmp_path / "x"
    path.write_text(content) if content else path.mkdir()
    with pytest.raises(kind, match=rf"/x {message}.*: restore it"):
        writers.read_object(path, "restore it")
    if content is None:
        with pytest.raises(kind, match=r"/x cannot be read \(Is a directory\): move it away"):
            writers.JsonLines(path)


def test_what_is_not_finite_is_null(tmp_path):
    writer = writers.JsonLines(tmp_path / "m.jsonl")
    writer.write(1, {"a": float("nan"), "b": 1.0})
    writer.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"step": 1, "a": None, "b": 1.0}


def test_json_is_written_whole(tmp_path):
    writers.write_json(tmp_path / "deep" / "x.json", {"a": 1})
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == {"a": 1}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("tensorboardX", lambda path: writers.TensorBoard(path)),
        ("wandb", lambda path: writers.WandB(path, "project", {})),
    ],
)
def test_optional_writers_name_the_extra(tmp_path, monkeypatch, module, make):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'mrl_jax\[log\]'"):
        make(tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'mrl_jax\[log\]'"):
        writers.check({"tensorboard": module == "tensorboardX", "wandb": "p" if module == "wandb" else ""})
    writers.check({"tensorboard": False, "wandb": ""})


@pytest.mark.parametrize(("first_step", "purged"), [(0, 0), (2, 3)])
def test_optional_writers_get_the_scalars(tmp_path, monkeypatch, first_step, purged):
    import types

    seen = []

    class SummaryWriter:
        def __init__(self, directory, purge_step):
            seen.append((directory, purge_step))

        def add_scalar(self, *arguments):
            seen.append(arguments)

        def close(self):
            seen.append("closed")

    class Run:
        def log(self, values, step):
            seen.append((values, step))

        def finish(self):
            seen.append("finished")

    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    monkeypatch.setitem(modules, "wandb", types.SimpleNamespace(init=lambda **_: Run()))
    writer = writers.open_all({"tensorboard": True, "wandb": "p"}, tmp_path, {}, first_step=first_step)
    writer.write(3, {"train/loss": 0.5})
    writer.close()
    assert seen == [
        (str(tmp_path / "tensorboard"), purged),
        ("train/loss", 0.5, 3),
        ({"train/loss": 0.5}, 3),
        "closed",
        "finished",
    ]
