"""Probes against scikit-learn on the same features, at every prefix."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge

from mrl_jax.evals import baselines, linear_probe, lockstep, logistic, projections, ridge, sgd_probe, streams
from mrl_jax.evals.linear_heads import Heads, accuracy
from mrl_jax.evals.moments import accumulate
from mrl_jax.evals.problem import make_problem, projection
from mrl_jax.evals.streams import Stream

DIMS, CLASSES = (2, 5, 12), 4


def features(rows=600, seed=0, noise=2.0):
    """Correlated features of unequal scale, far from zero, that tell the classes apart a little."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows).astype(np.int32)
    means = np.random.default_rng(99).normal(size=(CLASSES, 12))
    z = (means[labels] + noise * rng.normal(size=(rows, 12))) @ np.random.default_rng(98).normal(size=(12, 12))
    return (z * np.geomspace(1, 0.1, 12) + 5).astype(np.float32), labels


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_ROWS", 128)


@pytest.fixture(scope="module")
def data():
    return features(), features(300, 1)


@pytest.fixture
def problem(data):
    return make_problem(*data, CLASSES, DIMS)


def onehot(labels):
    return np.eye(CLASSES)[labels]


def test_moments_equal_those_of_numpy_in_float64_however_far_the_mean(tmp_path):
    z, labels = features()
    z = z.astype(np.float16)
    np.save(tmp_path / "z.npy", z)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    found, exact = accumulate(Stream(mapped, labels), CLASSES), z.astype(np.float64)
    centred = exact - exact.mean(axis=0)
    gram, cross = found.centred()
    np.testing.assert_allclose(gram, centred.T @ centred, rtol=1e-6, atol=1e-5 * np.abs(gram).max())
    np.testing.assert_allclose(cross, centred.T @ onehot(labels), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found.mean_z, exact.mean(axis=0), rtol=1e-6)


def test_panels_make_the_whole_gram_matrix(data, monkeypatch):
    (z, labels), _ = data
    whole = accumulate(Stream(z, labels), CLASSES).gram
    monkeypatch.setattr("mrl_jax.evals.moments.PANEL", 5)
    np.testing.assert_allclose(accumulate(Stream(z[:300], labels[:300]), CLASSES, np.zeros(12)).gram.shape, (12, 12))
    parts = [
        accumulate(Stream(z, labels, index), CLASSES, z[:128].mean(axis=0)) for index in np.split(np.arange(600), 3)
    ]
    np.testing.assert_allclose((parts[0] + parts[1] + parts[2]).gram, whole, rtol=1e-5, atol=1e-5 * whole.max())


def test_sums_keep_what_float32_would_lose():
    total = streams.zeros_like(np.zeros(1, np.float32))
    for x in [1e8, *[1.0] * 1000, -1e8]:
        total = streams.compensated(total, np.array([x], np.float32))
    assert streams.value(total) == 1000


@pytest.mark.parametrize("alpha", [1e-2, 10.0])
def test_ridge_equals_independent_solves_at_every_prefix(data, alpha):
    (z, labels), _ = data
    heads = ridge.solve(accumulate(Stream(z, labels), CLASSES), DIMS, alpha)
    for m, kernel, bias in zip(DIMS, *heads):
        reference = Ridge(alpha=alpha, solver="cholesky").fit(z[:, :m].astype(np.float64), onehot(labels))
        np.testing.assert_allclose(kernel, reference.coef_.T, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(bias, reference.intercept_, rtol=1e-3, atol=1e-5)


def test_one_factor_holds_those_of_all_prefixes(data):
    gram, _ = accumulate(Stream(*data[0]), CLASSES).centred()
    lower = ridge.factor(gram, 0.5)
    for m in DIMS:
        np.testing.assert_allclose(lower[:m, :m], np.linalg.cholesky(gram[:m, :m] + 0.5 * np.eye(m)), rtol=1e-9)


def test_ridge_chooses_the_penalty_by_held_out_accuracy_per_dim(problem, data):
    (z, labels), (z_test, labels_test) = data
    found = linear_probe.by_ridge(problem)
    fit, held = problem.fit.index, problem.held.index
    assert sorted([*fit, *held]) == list(range(600))
    for g, m in enumerate(DIMS):
        x = z[:, :m].astype(np.float64)
        scores = []
        for ratio in ridge.GRID:
            alpha = ratio * np.trace(np.cov(z[fit].T.astype(np.float64))) * (len(fit) - 1) / 12
            model = Ridge(alpha=alpha).fit(x[fit], onehot(labels)[fit])
            scores.append(np.mean(model.predict(x[held]).argmax(axis=1) == labels[held]))
        ratio = ridge.GRID[int(np.argmax(scores))]
        assert found.details["penalty"][g] == ratio
        model = Ridge(alpha=ratio * np.trace(np.cov(z.T.astype(np.float64))) * 599 / 12).fit(x, onehot(labels))
        expected = np.mean(model.predict(z_test[:, :m]).argmax(axis=1) == labels_test)
        assert found.top1[g] == pytest.approx(expected, abs=1e-9)
    assert found.top1[2] > found.top1[0] + 0.05


def test_several_labels_per_row(data):
    (z, labels), (z_test, labels_test) = data
    second = np.where(np.arange(600) % 3 == 0, (labels + 1) % CLASSES, -1).astype(np.int32)
    both = np.stack([labels, second], axis=1)
    targets = onehot(labels) + np.where(second[:, None] >= 0, onehot(second), 0)
    heads = ridge.solve(accumulate(Stream(z, both), CLASSES), DIMS, 1.0)
    reference = Ridge(alpha=1.0).fit(z.astype(np.float64), targets)
    np.testing.assert_allclose(heads.kernels[-1], reference.coef_.T, rtol=1e-3, atol=1e-5)
    problem = make_problem((z, both), (z_test, labels_test), CLASSES, DIMS)
    with pytest.raises(ValueError, match=r"several classes per row: 'logistic' needs one; use the ridge probe"):
        baselines.probe(problem, ["ridge", "logistic"])


def test_accuracy_counts_any_label_and_leaves_unlabelled_rows_out():
    heads = Heads([np.eye(3, dtype=np.float32)], [np.zeros(3, np.float32)])
    z = np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1], [1, 1, 0]], np.float32)
    labels = np.array([[1, 0], [1, 2], [-1, -1], [1, -1]])
    top1, top5 = accuracy(Stream(z, labels), heads)
    assert top1.tolist() == [pytest.approx(1 / 3)], "of the tie in the last row class 0 comes first"
    assert top5.tolist() == [1.0]


def test_baselines_equal_the_same_ridge_on_transformed_features(problem, data):
    (z, labels), _ = data
    whole = problem.fit_moments + problem.held_moments
    chosen = np.random.default_rng(7).permutation(12)[:5]
    drawn = projections.random_features(problem._replace(seed=7))[0].matrix
    heads = ridge.solve(whole.projected(drawn), (5,), 1.0)
    reference = Ridge(alpha=1.0).fit(z[:, chosen].astype(np.float64), onehot(labels))
    np.testing.assert_allclose(heads.kernels[0], reference.coef_.T, rtol=1e-3, atol=1e-5)
    heads = ridge.solve(whole.projected(projections.principal_components(problem)[0].matrix), (5,), 1.0)
    components = PCA(5, svd_solver="full").fit(z.astype(np.float64))
    reference = Ridge(alpha=1.0).fit(components.transform(z), onehot(labels))
    np.testing.assert_allclose(np.abs(heads.kernels[0]), np.abs(reference.coef_.T), rtol=1e-2, atol=1e-4)


def test_projected_streams_see_what_the_moments_say(problem):
    matrix = projections.random_projection(problem._replace(seed=3))[0].matrix
    projected = problem.held.projected(projection(matrix))
    found = accumulate(projected, CLASSES, np.zeros(12))
    np.testing.assert_allclose(found.mean_z, problem.held_moments.mean_z @ matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("l2", [1e-2])
def test_logistic_equals_scikit_learn_at_every_prefix(data, l2):
    (z, labels), (z_test, _) = data
    stream = Stream(z, labels)
    fitted, _ = logistic.fit(stream, accumulate(stream, CLASSES), DIMS, [l2] * 3, tolerance=1e-10)
    for g, m in enumerate(DIMS):
        reference = LogisticRegression(C=1 / (l2 * len(z)), tol=1e-9, solver="newton-cholesky")
        reference.fit(z[:, :m].astype(np.float64), labels)
        kernel, bias = fitted.heads.kernels[g], fitted.heads.biases[g]
        np.testing.assert_allclose(kernel, reference.coef_.T, rtol=2e-2, atol=2e-3)
        agree = (z_test[:, :m] @ kernel + bias).argmax(axis=1) == reference.predict(z_test[:, :m])
        assert agree.mean() > 0.99
    assert all(fitted.converged)


def test_preconditioning_saves_passes_and_keeps_the_optimum(data):
    (z, labels), _ = data
    stream = Stream(z, labels)
    moments = accumulate(stream, CLASSES)
    ours, _ = logistic.fit(stream, moments, DIMS, [1e-4] * 3)
    plain, _ = logistic.fit(stream, moments, DIMS, [1e-4] * 3, precondition=False)
    assert 2 * max(ours.iterations) < max(plain.iterations)
    np.testing.assert_allclose(ours.heads.kernels[0], plain.heads.kernels[0], rtol=0.1, atol=0.02)


def test_dims_that_have_converged_are_left_out_once_that_halves_the_work(data, monkeypatch):
    assert logistic._to_compile([0, 1, 2], [1, 2], DIMS, 10**12) == [0, 1, 2]
    assert logistic._to_compile([0, 1, 2], [1], DIMS, 10**12) == [1]
    assert logistic._to_compile([0, 1, 2], [1], DIMS, 1) == [0, 1, 2]
    stream = Stream(*data[0])
    moments = accumulate(stream, CLASSES)
    whole, _ = logistic.fit(stream, moments, DIMS, [1e-3] * 3)
    monkeypatch.setattr(logistic, "_SMALL_PASS", 0)
    left_out, _ = logistic.fit(stream, moments, DIMS, [1e-3] * 3)
    for a, b in zip(whole.heads.kernels, left_out.heads.kernels):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def test_lockstep_minimises_each_function_and_hands_on_errors():
    calls = []

    def evaluate(points):
        calls.append(tuple(points))
        return {g: (float(np.sum((x - g) ** 2)), 2 * (x - g)) for g, x in points.items()}

    found = lockstep.minimise(evaluate, [np.ones(3), np.ones(2), np.zeros(2)], max_iterations=50, tolerance=1e-12)
    for g, minimum in enumerate(found):
        np.testing.assert_allclose(minimum.x, g, atol=1e-5)
    assert calls[0] == (0, 1, 2), "one call answers all"
    assert len(calls[-1]) < 3, "what has ended asks no more"

    def broken(points):
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        lockstep.minimise(broken, [np.ones(2)], max_iterations=5, tolerance=1e-9)


def test_sgd_comes_near_the_optimum_and_repeats_itself(problem, data, monkeypatch):
    monkeypatch.setattr(sgd_probe, "LEAST_STEPS", 200)
    monkeypatch.setattr(sgd_probe, "BATCH_ROWS", 64)
    monkeypatch.setattr(sgd_probe, "_SWEEP", 7)
    found, again = linear_probe.by_sgd(problem), linear_probe.by_sgd(problem)
    assert found == again
    np.testing.assert_allclose(found.top1, linear_probe.by_ridge(problem).top1, atol=0.06)


def test_minibatches_are_epochs_without_repetition(data):
    (z, labels), _ = data
    index = np.arange(0, 600, 2)
    batches = list(sgd_probe.minibatches(Stream(z, labels, index), sgd_probe.Schedule(50, 12), 0))
    assert len(batches) == 12
    for epoch in (batches[:6], batches[6:]):
        seen = np.concatenate([b[0] for b in epoch])
        np.testing.assert_array_equal(np.unique(seen, axis=0), np.unique(z[index], axis=0))
    for x, y in batches:
        np.testing.assert_array_equal(labels[[np.flatnonzero((z == row).all(axis=1))[0] for row in x]], y)


def test_features_that_never_change_are_no_obstacle(data):
    (z, labels), (z_test, labels_test) = data
    z, z_test = z.copy(), z_test.copy()
    z[:, [1, 7]], z_test[:, [1, 7]] = 3.0, 3.0
    problem = make_problem((z, labels), (z_test, labels_test), CLASSES, DIMS)
    values, _ = baselines.probe(problem, ["ridge", "pca"])
    assert min(values.values()) > 0.3
    whole = problem.fit_moments + problem.held_moments
    fitted, _ = logistic.fit(problem.whole, whole, DIMS, [1e-3] * 3)
    assert accuracy(problem.test, fitted.heads)[0].min() > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y: (z[:1], y[:1]), "1 training rows"),
        (lambda z, y: (z, y[:-1]), "do not fit"),
        (lambda z, y: (np.where(np.arange(12) == 3, np.nan, z), y), "feature 3 is not finite"),
        (lambda z, y: (z, y + 1), "training labels reach 4, beyond the 4 classes"),
    ],
)
def test_bad_features_are_one_clear_error(data, change, message):
    with pytest.raises(ValueError, match=message):
        make_problem(change(*data[0]), data[1], CLASSES, DIMS)


def test_constant_features_and_unknown_methods(data):
    (z, labels), _ = data
    problem = make_problem((np.ones_like(z), labels), (z, labels), CLASSES, DIMS)
    with pytest.raises(ValueError, match="nothing to probe"):
        linear_probe.by_ridge(problem)
    with pytest.raises(ValueError, match="did you mean 'logistic'"):
        baselines.probe(problem, ["logistics"])
