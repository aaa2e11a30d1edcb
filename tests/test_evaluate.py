"""What evaluate refuses before it evaluates."""

import json

import pytest

from mrl_jax import evaluate


def test_only_runs_of_one_dim_stand_beside_a_nested_one(tmp_path):
    for name, head in (("ff8", "ff"), ("mrl", "mrl_e")):
        (tmp_path / name / "results").mkdir(parents=True)
        result = {"head": head, "trained_dims": [8], "values": {"top1@8": 0.5}}
        (tmp_path / name / "results" / "knn.json").write_text(json.dumps(result))
    evaluate.check_alone([str(tmp_path / "ff8")])
    with pytest.raises(ValueError, match=r"--ff=.*mrl is a run of head 'mrl_e': name runs of head 'ff'"):
        evaluate.check_alone([str(tmp_path / "ff8"), str(tmp_path / "mrl")])
    with pytest.raises(FileNotFoundError, match="nowhere/results is empty"):
        evaluate.check_alone([str(tmp_path / "nowhere")])
