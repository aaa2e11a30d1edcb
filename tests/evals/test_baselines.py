"""Linear maps of features as rivals of prefixes: each against an independent computation, or a case of known answer."""

import numpy as np
import pytest

from mrl_jax.evals import baselines, linear_probe, projections, sgd_probe
from mrl_jax.evals.problem import make_problem, projected

DIMS, CLASSES = (2, 3, 6), 3


def features(rows, seed):
    """Loud directions that say nothing; the classes lie in two quiet ones; far from zero."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows).astype(np.int32)
    quiet = np.array([[0.0, 1.0], [0.9, -0.5], [-0.9, -0.5]])[labels] + 0.1 * rng.normal(size=(rows, 2))
    z = np.concatenate([4 * rng.normal(size=(rows, 4)), quiet], axis=1)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    return (z @ rotation + 3).astype(np.float32), labels


@pytest.fixture(scope="module")
def data():
    return features(400, 0), features(200, 1)


@pytest.fixture(scope="module")
def problem(data):
    return make_problem(*data, CLASSES, DIMS)


def nearest_labels(queries, gallery, labels):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries.astype(float), gallery.astype(float))]
    return labels[np.argmax(unit[0] @ unit[1].T, axis=1)]


def test_nearest_neighbours_of_prefixes_svd_and_pca_equal_brute_force(problem, data):
    (z, labels), (z_test, labels_test) = data
    mean = z.mean(axis=0, dtype=float)
    maps = {
        "knn": (0.0, np.eye(6)),
        "svd_knn": (0.0, np.linalg.svd(z.astype(float))[2].T),
        "pca_knn": (mean, np.linalg.svd(z - mean)[2].T),
    }
    values, _ = baselines.probe(problem, list(maps))
    for method, (offset, matrix) in maps.items():
        for m in DIMS:
            found = nearest_labels((z_test - offset) @ matrix[:, :m], (z - offset) @ matrix[:, :m], labels)
            assert values[f"{method}_top1@{m}"] == pytest.approx(np.mean(found == labels_test), abs=0.011), (method, m)
    assert not any("top5" in name for name in values)


def test_a_learned_map_finds_what_the_principal_components_miss(data, monkeypatch):
    problem = make_problem(*data, CLASSES, (2, 6))
    monkeypatch.setattr(sgd_probe, "LEAST_STEPS", 150)
    methods = ["pca_knn", "learned_knn", "learned_head", "learned_apart_head"]
    values, details = baselines.probe(problem, methods)
    assert values["pca_knn_top1@2"] < 0.6
    for method in methods[1:]:
        assert values[f"{method}_top1@2"] > 0.9, method
    assert details["learned_knn"]["rate"] == details["learned_head"]["rate"]
    assert len(details["learned_apart_head"]["parts"]) == 2


def test_a_probe_of_a_map_is_the_probe_of_the_mapped_features(problem, data, monkeypatch):
    monkeypatch.setattr(sgd_probe, "LEAST_STEPS", 100)
    part = projections.random_projection(problem)[0]
    by_map = projected(problem, part.matrix, DIMS)
    (z, labels), (z_test, labels_test) = data
    mapped = [(x @ part.matrix).astype(np.float32) for x in (z, z_test)]
    by_hand = make_problem((mapped[0], labels), (mapped[1], labels_test), CLASSES, DIMS)
    for kind in (linear_probe.by_ridge, linear_probe.by_sgd):
        np.testing.assert_allclose(kind(by_map).top1, kind(by_hand).top1, atol=0.03, err_msg=str(kind))


def test_svd_of_the_head_is_the_best_of_its_rank_and_keeps_the_bias(data):
    z_test, labels_test = data[1]
    rng = np.random.default_rng(2)
    kernel, bias = rng.normal(size=(6, 5)), rng.normal(size=5)
    problem = make_problem(*data, CLASSES, DIMS, head=(kernel, bias))
    values, details = baselines.probe(problem, ["head_svd"])
    u, s, vt = np.linalg.svd(kernel)
    for m in DIMS:
        cut = sum(s[i] * np.outer(u[:, i], vt[i]) for i in range(min(m, 5)))
        found = np.mean((z_test @ cut + bias).argmax(axis=1) == labels_test)
        assert values[f"head_svd_top1@{m}"] == pytest.approx(found, abs=0.006)
    assert details["head_svd"]["singular_values"][0] == pytest.approx(s[DIMS[0] - 1], rel=1e-5)


def test_mistakes_are_found_before_any_work(problem, data):
    with pytest.raises(ValueError, match="head_svd needs the classifier"):
        baselines.probe(problem, ["head_svd"])
    with pytest.raises(ValueError, match="did you mean 'pca_knn'"):
        baselines.probe(problem, ["pca_kn"])
    with pytest.raises(ValueError, match=r"kernel \(5, 3\).* do not fit 6 features"):
        make_problem(*data, CLASSES, DIMS, head=(np.zeros((5, 3)), np.zeros(3)))
