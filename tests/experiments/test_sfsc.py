"""The study of several widths: which runs it asks for, and what it says of their matrices."""

import pathlib

import numpy as np
import pytest
from absl import flags

from experiments import sfsc


@pytest.fixture
def asked(monkeypatch, tmp_path):
    flags.FLAGS(["test"])
    monkeypatch.setattr(flags.FLAGS["workdir"], "value", str(tmp_path))
    commands = []
    monkeypatch.setattr(sfsc, "call", lambda module, *options: commands.append((module, options)))
    return commands


def option(options, name):
    return next((o.split("=", 1)[1] for o in options if o.startswith(f"--{name}=")), None)


def test_a_method_of_one_run_gives_all_widths_and_may_start_from_the_full_one(asked):
    runs = sfsc.models("joint_from_full", "1")
    assert [width for _, width in runs] == [0.25, 0.5, 0.75, 1.0]
    assert len({run for run, _ in runs}) == 1
    first, second = (options for _, options in asked)
    assert option(first, "config") == "configs/sfsc_resnet.py:independent=1,ff=128"
    assert option(second, "config") == "configs/sfsc_resnet.py:joint,ff=128"
    assert option(second, "config.init.path") == option(first, "workdir")


def test_pairwise_training_ends_in_the_full_width_that_it_began_with(asked):
    runs = [pathlib.Path(run).name for run, _ in sfsc.models("bct", "0")]
    assert runs == ["bct0.25_seed0", "bct0.5_seed0", "bct0.75_seed0", "independent1_seed0"]
    assert all(option(options, "config.init.path") for _, options in asked if ":bct" in option(options, "config"))


def test_a_finished_run_is_not_trained_again(asked, tmp_path):
    (tmp_path / "joint_seed0").mkdir()
    (tmp_path / "joint_seed0" / "report.html").touch()
    assert sfsc.models("joint", "0")[0] == (tmp_path / "joint_seed0", 0.25)
    assert not asked


def test_recalibrated_features_lie_beside_those_that_are_not(asked, monkeypatch, tmp_path):
    extracted = []
    for name, value in (("choose_step", 3), ("config_of", None), ("over", None)):
        monkeypatch.setattr(sfsc.trained, name, lambda *a, found=value: found)
    monkeypatch.setattr(sfsc.extract, "extract", lambda *a, **own: extracted.append(own))
    plain = sfsc.embed(tmp_path, 0.25)
    monkeypatch.setattr(flags.FLAGS["recalibrate"], "value", 20)
    assert set(sfsc.embed(tmp_path, 0.25).values()).isdisjoint(plain.values())
    assert [own["recalibrate"] for own in extracted] == [0, 0, 20, 20]


def test_summary_tells_self_from_cross_and_counts_compatible_pairs():
    matrix = np.array([[0.1, 0.2, 0.2, 0.2], [0.2, 0.3, 0.3, 0.3], [0.2, 0.2, 0.4, 0.4], [0.2, 0.4, 0.5, 0.6]])
    found = sfsc.summary([matrix, matrix + 0.02])
    assert found["self"]["w0.5"] == {"mean": 31.0, "std": 1.41}
    assert found["cross"]["mean"] == pytest.approx(100 * (matrix.sum() - 1.4) / 12 + 1, abs=0.01)
    # The width of 0.75 finds less with the gallery of 0.5 than that one does itself.
    assert found["upgraded"] == [5, 5]
    assert found["pairs"] == 6
    assert "[5, 5] of 6" in sfsc.table({"joint": found})[1]
