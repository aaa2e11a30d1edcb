"""The study of sets that have changed while their classes have not."""

import numpy as np
import pytest

from mrl_jax import feature_pairs
from mrl_jax.evals.robustness import DEPTH
from mrl_jax.features_dir import Features, Info
from mrl_jax.studies import KINDS
from mrl_jax.studies.subject import Subject

FULL, CLASSES = 12, 6


def features(rng, means, rows, noise, classes=range(CLASSES), names=None):
    own = np.asarray(classes)
    number = np.arange(rows) % len(own)
    z = (means[own[number]] + noise * rng.normal(size=(rows, FULL))).astype(np.float32)
    return Features(z, number if names else own[number], Info(len(own) if names else CLASSES, label_names=names))


def save(path, found):
    np.save(path / "z.npy", found.z)
    np.save(path / "labels.npy", found.labels)
    return f"{path / 'z.npy'},{path / 'labels.npy'}"


@pytest.fixture
def about(tmp_path):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES, FULL))
    train, test = (features(rng, means, rows, 0.7) for rows in (240, 120))
    pair = feature_pairs.pair(train, test)
    return means, Subject(pair, (4, 12), 0, "ridge", None, None, tmp_path)


def test_a_set_of_the_same_rows_equals_the_clean_one_and_a_noisy_one_is_below_it(about, tmp_path):
    means, subject = about
    noisy = features(np.random.default_rng(1), means, 90, 2.0, classes=(1, 4))
    for name, found in (("same", subject.pair.test), ("noisy", noisy)):
        (tmp_path / name).mkdir()
        save(tmp_path / name, found)
    sets = [f"{name}={tmp_path / name / 'z.npy'},{tmp_path / name / 'labels.npy'}" for name in ("same", "noisy")]
    found = KINDS["robustness"](subject, shifted=sets)
    metrics = ("top1", "top5", "knn_top1", f"map@{DEPTH}", f"precision@{DEPTH}")
    for dim in subject.dims:
        for metric in metrics:
            assert found.values[f"same_{metric}@{dim}"] == found.values[f"clean_{metric}@{dim}"]
            assert found.values[f"noisy_{metric}@{dim}"] < 1 or metric == "top5"
        assert found.values[f"clean_top1@{dim}"] == pytest.approx(subject.correct[subject.dims.index(dim)].mean())
        assert found.values[f"noisy_knn_top1@{dim}"] < found.values[f"clean_knn_top1@{dim}"]
        assert found.values[f"noisy_top5@{dim}"] == 1, "only the two classes that the set shows are asked for"
    assert found.details["sets"]["noisy"] == {"rows": 90, "classes": 2, "matched_by": "number"}


def test_classes_are_matched_by_name(about, monkeypatch):
    means, subject = about
    named = [f._replace(info=f.info.__class__(CLASSES, label_names=tuple("abcdef"))) for f in subject.pair[:2]]
    subject = Subject(feature_pairs.pair(*named), (12,), 0, "ridge", None, None, subject.out)
    other = features(np.random.default_rng(1), means, 60, 0.1, classes=(4, 1), names=("e", "b"))
    monkeypatch.setattr("mrl_jax.features_dir.open_features", lambda path, verify: other)
    found = KINDS["robustness"](subject, shifted=["some=x"])
    assert found.values["some_knn_top1@12"] == 1, "class 0 of the set is class 4 of training"
    bare = features(np.random.default_rng(1), means, 60, 0.1, classes=(4, 1))
    monkeypatch.setattr("mrl_jax.features_dir.open_features", lambda path, verify: bare)
    found = KINDS["robustness"](subject, shifted=["some=x"])
    assert found.values["some_knn_top1@12"] == 1, "bare arrays have the numbers of training"
    strange = other._replace(info=Info(2, label_names=("e", "z")))
    monkeypatch.setattr("mrl_jax.features_dir.open_features", lambda path, verify: strange)
    with pytest.raises(ValueError, match=r"1 classes that training does not have, such as \['z'\]"):
        KINDS["robustness"](subject, shifted=["some=x"])


def test_sets_that_do_not_fit_are_named(about, tmp_path):
    _, subject = about
    path = save(tmp_path, subject.pair.test)
    np.save(tmp_path / "wide.npy", np.ones((4, FULL + 1), np.float32))
    np.save(tmp_path / "four.npy", np.arange(4) + CLASSES - 3)
    np.save(tmp_path / "narrow.npy", np.ones((4, FULL), np.float32))
    for sets, message in (
        ([path], "must be NAME=FEATURES"),
        ([f"clean={path}"], r"none of \['clean'\]"),
        ([f"a={path}", f"a={path}"], r"none of \['clean', 'a'\]"),
        ([f"a={tmp_path}/wide.npy,{tmp_path}/four.npy"], "--train has 12 features, --shifted=a 13"),
        ([f"a={tmp_path}/narrow.npy,{tmp_path}/four.npy"], "--shifted=a has labels up to 6, training 6 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            KINDS["robustness"](subject, shifted=sets)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        KINDS["robustness"](subject, shifted=["a=nowhere"])
