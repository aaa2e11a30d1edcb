"""Progressive resizing: which size when, one compiled update per size, and the same after a resume."""

import shutil

import jax
import numpy as np
import pytest
import tiny
from command import logged, state

from mrl_jax import export, extract, features_dir, metrics, parts, step, train, trained
from mrl_jax.data import resolution

PAPER = ((29 / 40, 160), (34 / 40, 192))
CHANGES = {
    "data__train_ops": "decode|random_resized_crop({size})",
    "data__resolution": {"points": ((0.25, 16), (0.75, 32)), "multiple": 8},
    "model__posemb": "sincos2d",
}


def test_the_published_recipe_has_two_sizes():
    assert resolution.sizes(PAPER, 32, 4000) == ((0, 160), (3150, 192))


def test_the_line_is_rounded_to_multiples():
    stages = resolution.sizes(((0.0, 64), (0.5, 128), (1.0, 64)), 32, 100)
    assert stages == ((0, 64), (13, 96), (38, 128), (63, 96), (88, 64))
    assert resolution.sizes(((0.5, 100),), 1, 10) == ((0, 100),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data__resolution": {"points": (), "multiple": 8}},
            "train_ops='decode.random_resized.*give both",
        ),
        ({"data__train_ops": "decode"}, "give both"),
        ({"data__resolution": {"points": ((0.5, 16), (0.2, 32)), "multiple": 8}}, "rising in 0..1"),
        ({"data__resolution": {"points": ((0.0, 16), (2.0, 32)), "multiple": 8}}, "rising in 0..1"),
        ({"data__resolution": {"points": ((0.5, 16),), "multiple": 32}}, "multiple=32 must be positive and at most"),
        (
            {"model__posemb": "learn"},
            r"made for images of \(16, 16, 1\) does not take \(24, 24, 1\).*posemb='sincos2d'",
        ),
    ],
    ids=range(6),
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(tiny.config(**CHANGES | change))


def test_batches_have_the_size_of_their_step():
    assembled = parts.assemble(tiny.config(**CHANGES))
    batches = parts.train_batches(assembled, 0)
    assert [next(batches)["image"].shape[1] for _ in range(6)] == [16, 16, 16, 24, 32, 32]
    resumed, fourth = parts.train_batches(assembled, 3), parts.train_batches(assembled, 0)
    for _ in range(3):
        next(fourth)
    np.testing.assert_array_equal(next(resumed)["image"], next(fourth)["image"])


def test_one_update_is_compiled_per_size_and_a_resume_changes_nothing(tmp_path, monkeypatch):
    traced, costs = [], []
    make, switch = step.make_train_step, metrics.Recorder.switch

    def counting(*args, **kwargs):
        update = make(*args, **kwargs)
        return lambda state, batch: traced.append(batch["image"].shape[1]) or update(state, batch)

    def recording(recorder, step, count):
        costs.append((step, count))
        switch(recorder, step, count)

    monkeypatch.setattr(step, "make_train_step", counting)
    monkeypatch.setattr(metrics.Recorder, "switch", recording)
    points = {"points": ((0.0, 16), (0.5, 32), (1.0, 16)), "multiple": 16}
    config = tiny.config(**CHANGES | {"data__resolution": points}, evals={}, total_steps=6)
    assert train.train(config, tmp_path)
    assert traced == [16, 32], "back at a size seen before, nothing is compiled"
    assert [at for at, _ in costs] == [0, 2, 5]
    assert 3.0 < costs[1][1] / costs[0][1] < 5.0, "four times the patches"
    assert costs[2][1] == costs[0][1]
    whole, lines = state(tmp_path, 6), logged(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    assert train.train(config, tmp_path)
    assert traced == [16, 32, 32, 16]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, state(tmp_path, 6), strict=True))
    assert logged(tmp_path) == lines


def test_features_and_exports_are_of_the_size_of_evaluation(tmp_path):
    points = {"points": ((0.25, 32), (0.75, 16)), "multiple": 16}
    run = tmp_path / "run"
    assert train.train(tiny.config(**CHANGES | {"data__resolution": points}, evals={}, total_steps=2), run)
    config = trained.over(trained.config_of(run, 2), None, "test", None, None)
    extract.extract(run, 2, config, tmp_path / "features")
    assert len(features_dir.open_features(tmp_path / "features").z) > 0
    export.export(run, 2, 1.0, 8, tmp_path / "alone", rows=1)
    call = jax.export.deserialize((tmp_path / "alone" / "model.jax_export").read_bytes()).call
    assert call(np.zeros((3, 16, 16, 1), np.uint8))["embedding"].shape == (3, 8)
