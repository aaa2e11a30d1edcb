"""Sets that share classes with training: matched by name, classified among the classes that they show."""

import numpy as np
import pytest

from mrl_jax.evals import robustness

NAMES = ("ant", "bee", "cat", "dog", "elk")


def test_classes_are_matched_by_name_and_never_by_number():
    classes = robustness.match_classes(("dog", "ant", "fox"), 3, NAMES, 5, "x")
    assert classes.tolist() == [3, 0, -1]
    labels = robustness.trained_labels(np.array([0, 1, 1]), classes, ("dog", "ant", "fox"), "x")
    assert labels.tolist() == [3, 0, 0]
    with pytest.raises(ValueError, match=r"--set=x has 1 classes that training does not have, such as \['fox'\]"):
        robustness.trained_labels(np.array([0, 2]), classes, ("dog", "ant", "fox"), "--set=x")
    assert robustness.match_classes(None, 5, None, 5, "x").tolist() == [0, 1, 2, 3, 4]
    for names, count, own in ((None, 5, NAMES), (NAMES, 5, None), (None, 4, None)):
        with pytest.raises(ValueError, match="names on both sides"):
            robustness.match_classes(names, count, own, 5, "x")
    with pytest.raises(ValueError, match="several labels"):
        robustness.trained_labels(np.array([[0, 1]]), classes, NAMES, "x")


def test_only_the_classes_of_the_set_compete():
    rng = np.random.default_rng(0)
    z, gallery = (rng.normal(size=(n, 8)).astype(np.float32) for n in (60, 90))
    labels, gallery_labels = rng.choice([0, 3, 4], 60), rng.integers(0, 5, 90)
    kernel = rng.normal(size=(8, 5)).astype(np.float32)
    found = robustness.accuracies(z, labels, gallery, gallery_labels, lambda z, dim: z[:, :dim] @ kernel[:dim], (2, 8))
    for g, m in enumerate((2, 8)):
        logits = z[:, :m] @ kernel[:m]
        logits[:, [1, 2]] = -np.inf
        assert found.top1[g] == pytest.approx(np.mean(logits.argmax(axis=1) == labels))
        unit = [x[:, :m] / np.linalg.norm(x[:, :m], axis=1, keepdims=True) for x in (z, gallery)]
        order = np.argsort(-(unit[0] @ unit[1].T), axis=1)[:, :10]
        hits = gallery_labels[order] == labels[:, None]
        assert found.nearest[g] == pytest.approx(hits[:, 0].mean())
        assert found.precision[g] == pytest.approx(hits.mean())
        precisions = np.cumsum(hits, axis=1) / np.arange(1, 11) * hits  # there are more than 10 rows of each class
        assert found.map[g] == pytest.approx(precisions.sum(axis=1).mean() / 10)
    assert found.top5 == [1.0, 1.0], "of three classes one is always among five"


def test_mean_corruption_error_averages_severities_and_then_kinds_in_units_of_the_baseline():
    own, other = np.array([[0.2, 0.4], [0.5, 0.7]]), np.array([[0.6, 0.6], [0.2, 0.4]])
    assert robustness.mean_corruption_error(own) == pytest.approx(0.45)
    assert robustness.mean_corruption_error(own, other) == pytest.approx((0.5 + 2.0) / 2)
    assert robustness.mean_corruption_error(own, own) == pytest.approx(1)
    with pytest.raises(ValueError, match="above 0"):
        robustness.mean_corruption_error(own, np.zeros((2, 2)))
