"""Robustness of a checkpoint: every number against the features it comes from."""

import types

import command
import numpy as np
import pytest
from test_embed import save_checkpoint

from mrl_jax import results, robustness, step
from mrl_jax.data import corruptions, sources
from mrl_jax.features_dir import open_features
from mrl_jax.models import heads

DIMS = (4, 32)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    run, state = save_checkpoint(path)
    return robustness.open_subject(path, None, DIMS, None), run, state


def test_corrupted_images_are_those_of_the_eval_split_and_accuracy_is_that_of_their_features(subject):
    subject, run, state = subject
    values, details = robustness.corrupted(subject, ["contrast"], (2, 5), {})
    path = subject.path / "features" / "3"
    source = sources.load(run.config.data.name, "test", data_dir=".")
    clean, spoilt = (open_features(path / name) for name in ("test", "corrupted-contrast-5"))
    assert spoilt.info.identity["dataset"]["split"] == "test"
    image = corruptions.corrupt(source.records[0]["image"], np.random.default_rng(0), "contrast", 5)
    z, _ = run.model.apply(step.variables_of(state), {"image": image[None]}, train=False)
    np.testing.assert_allclose(spoilt.z[:1], z, rtol=1e-3, atol=1e-4)
    for dim in DIMS:
        logits = heads.logits(clean.z, subject.tensors, subject.nesting, dim)
        assert values[f"clean_top1@{dim}"] == pytest.approx(np.mean(np.argmax(logits, axis=1) == clean.labels))
        kind = np.array(details["errors"]["top1"])[0, :, DIMS.index(dim)]
        assert values[f"contrast_top1@{dim}"] == pytest.approx(1 - kind.mean())
        assert values[f"mean_error_top1@{dim}"] == pytest.approx(kind.mean())


def test_another_set_of_the_same_classes_and_the_error_of_one_without_names(subject):
    subject, *_ = subject
    name = "synthetic:size=16,channels=1,classes=6,examples=20@train"
    values, details = robustness.shifted(subject, [name])
    label = name.replace("@", "_")
    assert details[label]["rows"] == 20
    assert set(values) == {
        f"{label}_{m}@{d}" for m in ("top1", "top5", "knn_top1", "map@10", "precision@10") for d in DIMS
    }
    with pytest.raises(ValueError, match=r"has 5 classes without names, training 6"):
        robustness.shifted(subject, ["synthetic:size=16,channels=1,classes=5,examples=20"])


def test_flips_add_the_logits_of_corrupted_images_and_of_their_mirror_images(subject):
    plain, run, state = subject
    mirrored = robustness.open_subject(plain.path, None, DIMS, None, mirror=True)
    values, details = robustness.corrupted(mirrored, ["contrast"], (5,), {})
    found = sources.load(run.config.data.name, "test", data_dir=".").records
    records = [found[i] for i in range(len(found))]
    labels = np.array([r["label"] for r in records])
    images = np.stack([corruptions.corrupt(r["image"], np.random.default_rng(0), "contrast", 5) for r in records])
    views = [
        run.model.apply(step.variables_of(state), {"image": x}, train=False)[0] for x in (images, images[:, :, ::-1])
    ]
    assert np.abs(views[0] - views[1]).max() > 1e-3
    found = open_features(plain.path / "features" / "3" / "corrupted-contrast-5_flips")
    np.testing.assert_allclose(found.z, (views[0] + views[1]) / 2, rtol=1e-3, atol=1e-4)
    assert mirrored.gallery.info.identity["views"] == 2, "neighbours are looked for among features of the same kind"
    for dim in DIMS:
        summed = sum(heads.logits(z, plain.tensors, plain.nesting, dim) for z in views)
        assert values[f"contrast_top1@{dim}"] == pytest.approx(np.mean(np.argmax(summed, axis=1) == labels))
    robustness.report(mirrored, "corruptions", values, details, ("_top1",))
    written = results.read(plain.path)
    assert written.keys() == {"corruptions_flips"}, "those of one view are left as they are"
    assert written["corruptions_flips"]["views"] == 2
    errors = robustness.read_baseline(plain.path, ["contrast"], (5,), mirror=True)
    assert errors["top1"] == pytest.approx(1 - values[f"contrast_top1@{DIMS[-1]}"])
    with pytest.raises(FileNotFoundError, match=r"results/corruptions\.json is not there"):
        robustness.read_baseline(plain.path, ["contrast"], (5,))


def test_names_of_sets(subject):
    assert robustness.locate("imagenet_a", "val") == ("tfds:imagenet_a", "test")
    assert robustness.locate("array_record:x@y", "val") == ("array_record:x", "y")
    assert robustness.locate("tfds:z", "val") == ("tfds:z", "val")
    with pytest.raises(ValueError, match=r"'imagenet_s' is neither.*did you mean"):
        robustness.locate("imagenet_s", "val")


def test_a_set_that_is_not_there_is_told_before_anything_is_embedded(subject, monkeypatch):
    given = {"workdir": subject[0].path, "step": None, "set": ["synthetic", "array_record:none@test"], "dims": []}
    given |= {"corruptions": [], "severities": ["1"], "baseline": None, "data_dir": "nowhere", "flips": False}
    monkeypatch.setattr(robustness.flags, "FLAGS", types.SimpleNamespace(**given))
    monkeypatch.setattr(robustness, "open_subject", None)
    with pytest.raises(FileNotFoundError, match=r"'array_record:none': there is no .* in nowhere/none\. Make it with"):
        robustness.main([])


@pytest.mark.slow
def test_the_command_writes_results_and_tells_errors_in_units_of_a_baseline(tmp_path):
    save_checkpoint(tmp_path)
    arguments = [f"--workdir={tmp_path}", "--corruptions=jpeg", "--severities=1"]
    command.finish(command.start("mrl_jax.robustness", *arguments))
    output = command.finish(command.start("mrl_jax.robustness", *arguments, f"--baseline={tmp_path}"))
    assert "makes no error by ['knn_top1']" in output, "which are easy to tell apart by their neighbours"
    assert results.read(tmp_path)["corruptions"]["values"]["relative_error_top1@32"] == pytest.approx(1)
    failed = command.finish(command.start("mrl_jax.robustness", f"--workdir={tmp_path}", "--set=x"), expect=1)
    assert "error: --set='x' is neither" in failed
    wrong = command.start("mrl_jax.robustness", *arguments[:2], "--severities=2", f"--baseline={tmp_path}")
    assert "was measured with --corruptions=jpeg --severities=1" in command.finish(wrong, expect=1)
