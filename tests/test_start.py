"""A run that is done, started again."""

import json
import shutil

import pytest
import tiny

from mrl_jax import checkpoints, results, train

KNN = {"name": "knn", "every": 0, "split": "", "gallery": "train", "k": 1, "dims": ()}
HEADS = {"name": "classification", "every": 0, "split": "", "dims": ()}
FINISHED = {"total_steps": 2, "checkpoint__every": 100}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    assert train.train(tiny.config(**FINISHED, evals={"knn": KNN, "heads": HEADS}), path)
    return path


@pytest.mark.parametrize(
    ("evals", "split", "owed"),
    [
        ({"knn": KNN, "heads": HEADS}, "test", set()),
        ({"knn": {**KNN, "every": 1, "split": "test"}}, "test", set()),
        ({"knn": {**KNN, "k": 3}, "heads": HEADS, "more": KNN}, "test", {"knn", "more"}),
        ({"knn": {**KNN, "split": "test"}, "heads": HEADS}, "train", {"heads"}),
    ],
)
def test_a_finished_run_evaluates_what_is_new_or_changed_once(
    finished, evals, split, owed, tmp_path, monkeypatch, capfd
):
    drawn = []
    monkeypatch.setattr(results, "plot", lambda path, values, *rest: drawn.append(set(values)))
    finished = shutil.copytree(finished, tmp_path / "run")
    config = tiny.config(**FINISHED, evals=evals, data__eval_split=split)
    before, digest = (finished / "metrics.jsonl").read_text(), checkpoints.digest(finished / "checkpoints", 2)
    assert train.train(config, finished)
    after = (finished / "metrics.jsonl").read_text()
    added = [json.loads(line) for line in after.removeprefix(before).splitlines()]
    assert {name.split("/")[0] for line in added for name in line} - {"step"} == owed
    assert all(line["step"] == 2 for line in added)
    assert ("to evaluate what is new or changed: " in "".join(capfd.readouterr())) == bool(owed)
    assert drawn == ([set(evals)] if owed else []), "the others stay in the picture"
    assert all((finished / "results" / f"{name}.json").exists() for name in owed)
    assert checkpoints.digest(finished / "checkpoints", 2) == digest
    assert train.train(config, finished)
    assert (finished / "metrics.jsonl").read_text() == after
