"""What evaluate refuses before it evaluates."""

import json

import numpy as np
import pytest
import tiny
from test_embed import save_checkpoint

from mrl_jax import evaluate, report, results, train, trained, workdir
from mrl_jax.data import sources
from mrl_jax.models import heads
from mrl_jax.nesting import Nesting
from mrl_jax.step import variables_of


def test_only_runs_of_one_dim_stand_beside_a_nested_one(tmp_path):
    for name, head in (("ff8", "ff"), ("mrl", "mrl_e")):
        (tmp_path / name / "results").mkdir(parents=True)
        result = {"head": head, "trained_dims": [8], "values": {"top1@8": 0.5}}
        (tmp_path / name / "results" / "knn.json").write_text(json.dumps(result))
    study = {"head": None, "trained_dims": [8, 16], "values": {"top1@16": 0.5}}
    (tmp_path / "ff8" / "results" / "probe.json").write_text(json.dumps(study))
    evaluate.check_alone([str(tmp_path / "ff8")])
    assert [(dim, value) for _, _, dim, value in evaluate._beside([str(tmp_path / "ff8")])] == [(8, 0.5)]
    with pytest.raises(ValueError, match=r"--ff=.*mrl is a run of head 'mrl_e': name runs of head 'ff'"):
        evaluate.check_alone([str(tmp_path / "ff8"), str(tmp_path / "mrl")])
    with pytest.raises(FileNotFoundError, match="nowhere/results is empty"):
        evaluate.check_alone([str(tmp_path / "nowhere")])


def test_flips_are_results_of_their_own(tmp_path):
    run, state = save_checkpoint(tmp_path, evals={"heads": {"name": "classification", "split": "test", "every": 0}})
    config = trained.config_of(tmp_path, 3, ("4", "32"))
    values = evaluate.evaluate(tmp_path, config, 3, ["heads"], mirror=True)
    records = sources.load(config.data.name, "test", data_dir=config.data.dir).records
    images, labels = (np.stack([records[i][name] for i in range(len(records))]) for name in ("image", "label"))
    views = [run.model.apply(variables_of(state), {"image": x}, train=False)[0] for x in (images, images[:, :, ::-1])]
    for dim in (4, 32):
        logits = sum(heads.logits(z, trained.head(tmp_path, 3), run.nesting, dim) for z in views)
        expected = np.mean(np.argmax(logits, axis=1) == labels)
        assert values["heads_flips"][f"top1@{dim}"] == pytest.approx(expected)
    evaluate.evaluate(tmp_path, config, 3, ["heads"])
    found = results.read(tmp_path)
    assert {name: result.get("views", 1) for name, result in found.items()} == {"heads": 1, "heads_flips": 2}
    assert found["heads"]["values"] != found["heads_flips"]["values"]


def test_other_dims_of_the_same_model_stay_in_the_file(tmp_path, monkeypatch):
    about = {"step": 5, "nesting": Nesting((8, 16)), "head": "mrl", "recalibrated": 0}

    def run(argument, values, **other):
        monkeypatch.setattr("sys.argv", ["x", argument])
        return evaluate._write(tmp_path, "knn", values, about | other)

    run("--dims=8,16", {"top1@8": 0.5, "top1@16": 0.7})
    assert run("--dims=8,12", {"top1@8": 0.4, "top1@12": 0.6}) == {"top1@8": 0.4, "top1@12": 0.6, "top1@16": 0.7}
    run("--dims=8,12", {"top1@8": 0.4, "top1@12": 0.6})
    found = results.read_one(tmp_path / "results" / "knn.json")
    assert found["untrained_dims"] == [12]
    assert [line[-11:] for line in found["command"].split("\n")] == ["--dims=8,16", "--dims=8,12"]
    for other in ({"recalibrated": 3}, {"step": 6}):
        assert run("--dims=16", {"top1@16": 0.1}, **other) == {"top1@16": 0.1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results", "", r"/results is no folder: move it away"),
        ("plots", "", r"/plots is no folder: move it away"),
        ("results/knn.json", '{"values"', r"knn\.json is not valid JSON .*: move it away"),
        ("results/knn.json", "[]", r"knn\.json holds no JSON object: move it away"),
        ("results/knn.json", "{}", r"knn\.json holds no values: move it away"),
    ],
)
def test_where_results_cannot_be_written_nothing_is_begun(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setattr(train, "begin", None)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, OSError), match=message):
        train.train(tiny.config(), tmp_path)


def test_a_damaged_config_is_told_with_its_remedy(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json holds no JSON object: restore it"):
        workdir.read_config(tmp_path)
    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match=r"config\.json holds no JSON object: move it away"):
        report.refresh(tmp_path)
