"""The cascade against the loop over thresholds and examples, and on data of which the best thresholds are known."""

import json

import numpy as np
import pytest
import scipy.special

from mrl_jax.evals import adaptive, cascade_curve
from mrl_jax.policy import Policy

DIMS = (8, 16, 32, 64)
NEGATIVE = (np.arange(400) == 7)[:, None] * np.array([-1.0, 1.0, 0, 0, 0])


def softmax(seed=0, rows=400, classes=5, round_to=None):
    """Probabilities (4, N, C) that get better with the dim, and labels; rounded, they tie and fall onto the grid."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(4, rows, classes)) + np.array([0.5, 1, 1.5, 2])[:, None, None] * np.eye(classes)[labels]
    probs = scipy.special.softmax(logits, axis=2)
    if round_to is not None:
        probs, top = np.round(probs, round_to), probs.argmax(axis=2)[..., None]
        rest = 1 - probs.sum(axis=2, keepdims=True)
        np.put_along_axis(probs, top, np.round(np.take_along_axis(probs, top, 2) + rest, round_to), 2)
    return probs, labels


def naive_confidence(row, name):
    ordered = sorted(row, reverse=True)
    if name == "max_softmax":
        return ordered[0]
    if name == "margin":
        return ordered[0] - ordered[1]
    return 1 + sum(p * np.log(p) for p in row if p > 0) / np.log(len(row))


def naive_thresholds(probs, labels, grid, name):
    found = []
    for small, large in zip(probs, probs[1:]):
        best = (-1, None)
        for t in grid:
            right = 0
            for a, b, label in zip(small, large, labels):
                right += int(np.argmax(a if naive_confidence(a, name) > t else b)) == label
            if right > best[0]:
                best = (right, t)
        found.append(best[1])
    return found


@pytest.mark.parametrize("name", adaptive.CONFIDENCES)
@pytest.mark.parametrize("round_to", [None, 1])
def test_thresholds_and_cascade_equal_the_loops(name, round_to):
    probs, labels = softmax(rows=120, round_to=round_to)
    grid = np.linspace(0.1, 1, 10)
    thresholds = adaptive.learn_thresholds(probs, labels, grid, name)
    assert thresholds.tolist() == naive_thresholds(probs, labels, grid, name)
    answers, used = adaptive.apply_cascade(probs, thresholds, DIMS, name)
    for n in range(len(labels)):
        level = next((g for g in range(3) if naive_confidence(probs[g, n], name) > thresholds[g]), 3)
        assert (answers[n], used[n]) == (np.argmax(probs[level, n]), DIMS[level])


def test_a_known_optimum_is_found():
    # The first dim is right exactly where its confidence is above 0.7, the second one exactly where it is not.
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, 10_000)
    right = top > 0.7
    labels = np.where(right, 0, 1)
    small = np.stack([top, 1 - top], axis=1)
    large = np.where(right[:, None], [0.2, 0.8], [0.3, 0.7])
    thresholds = adaptive.learn_thresholds(np.stack([small, large]), labels)
    # Of the thresholds between the last confidence at or below 0.7 and the first above it, the smallest of the grid.
    below = adaptive.GRID[top[~right].max() <= adaptive.GRID]
    assert thresholds.tolist() == [below[0]]
    answers, used = adaptive.apply_cascade(np.stack([small, large]), thresholds, (8, 16))
    assert np.mean(answers == labels) > 0.97
    assert np.mean(used == 8) == pytest.approx(np.mean(top > thresholds[0]))
    fine = np.linspace(0, 1, 100_001)
    assert adaptive.learn_thresholds(np.stack([small, large]), labels, fine)[0] == pytest.approx(0.7, abs=1e-3)


def test_of_equally_good_thresholds_the_smallest_wins_in_any_order_of_the_grid():
    probs, labels = softmax()
    same = np.stack([probs[0], probs[0]])
    assert adaptive.learn_thresholds(same, labels, np.array([0.9, 0.3, 0.6]))[0] == 0.3


def test_a_confidence_on_the_threshold_is_not_above_it():
    probs = np.array([[[0.5, 0.5]], [[0.25, 0.75]]])
    assert adaptive.apply_cascade(probs, [0.5], (8, 16))[1].tolist() == [16]
    assert adaptive.apply_cascade(probs, [np.nextafter(0.5, 0)], (8, 16))[1].tolist() == [8]


def test_costs_count_the_last_dim_or_all_on_the_way():
    levels = np.array([0, 0, 2, 1])
    assert adaptive.expected_dim(levels, DIMS) == (8 + 8 + 32 + 16) / 4
    assert adaptive.expected_dim(levels, DIMS, "cumulative") == (8 + 8 + 56 + 24) / 4
    with pytest.raises(ValueError, match="did you mean 'final'"):
        adaptive.expected_dim(levels, DIMS, "finel")


def test_the_curve_repeats_learning_and_testing_on_each_split():
    probs, labels = softmax(rows=300)
    found = adaptive.decide(probs)
    right = adaptive.correct(found.predicted_GxN, labels)
    curve = cascade_curve.curve(found.confidence_GxN, right, DIMS, splits=3, learn_rows=100, seed=5)
    rng, accuracy, costs, learned = np.random.default_rng(5), [], [], []
    for _ in range(3):
        order = rng.permutation(300)
        learned.append(adaptive.learn_thresholds(probs[:, order[:100]], labels[order[:100]]))
        row = []
        for cap in range(2, 5):
            test = order[100:]
            answers, used = adaptive.apply_cascade(probs[:cap, test], learned[-1][: cap - 1], DIMS[:cap])
            row.append((np.mean(answers == labels[test]), np.mean(used)))
        accuracy.append([a for a, _ in row])
        costs.append([c for _, c in row])
    assert curve.caps == DIMS[1:]
    np.testing.assert_allclose(curve.accuracy, [np.mean(accuracy, axis=0), np.std(accuracy, axis=0)])
    np.testing.assert_allclose(curve.expected_dim["final"], [np.mean(costs, axis=0), np.std(costs, axis=0)])
    np.testing.assert_allclose(curve.thresholds[0], np.mean(learned, axis=0))
    assert (curve.expected_dim["cumulative"][0] > curve.expected_dim["final"][0]).all()


@pytest.mark.parametrize("name", adaptive.CONFIDENCES)
def test_a_policy_comes_back_from_its_file_and_serves_what_it_applies(tmp_path, name):
    probs, labels = softmax()
    learned = adaptive.learn_thresholds(probs, labels, confidence=name)
    path = tmp_path / "policies" / "p.json"
    Policy(DIMS, learned, name, {"rows": 400}).save(path)
    policy = Policy.load(path)
    assert policy == Policy(DIMS, tuple(learned), name, {"rows": 400})
    asked = {}

    def logits(rows, dim):
        asked[dim] = len(rows)
        return np.log(probs[DIMS.index(dim), rows])

    answers, used = policy.serve(logits, len(labels))
    expected, dims_used = policy.apply(probs)
    np.testing.assert_array_equal(used, dims_used)
    np.testing.assert_array_equal(answers, expected)
    assert asked[8] == 400 > asked[16] == np.sum(used > 8)


def test_files_that_are_no_policy_are_refused(tmp_path):
    path = tmp_path / "p.json"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Policy.load(path)
    for text in ("{", "[]", json.dumps({"format": 1, "dims": [8, 16]}), json.dumps({"format": 9})):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a policy"):
            Policy.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, y: adaptive.learn_thresholds(p, y[:-1]), "labels have shape"),
        (lambda p, y: adaptive.learn_thresholds(p[0], y), "shape .dims, examples, classes"),
        (lambda p, y: adaptive.learn_thresholds(p[:1], y), "at least two"),
        (lambda p, y: adaptive.learn_thresholds(np.where(p > 0.9, np.nan, p), y), "finite and in 0..1"),
        (lambda p, y: adaptive.learn_thresholds(10 * p, y), "softmax of the logits"),
        (lambda p, y: adaptive.decide(0.2 * p), r"probs\[0, 0\] sums to 0\.2"),
        (lambda p, y: adaptive.decide(p + NEGATIVE), r"probs\[0, 7\] .*smallest is -0"),
        (lambda p, y: adaptive.learn_thresholds(p, y, []), "at least one threshold"),
        (lambda p, y: adaptive.learn_thresholds(p, y, confidence="margins"), "did you mean 'margin'"),
        (lambda p, y: adaptive.apply_cascade(p, [0.5], DIMS), "give 3, one for all dims but the last"),
        (lambda p, y: adaptive.apply_cascade(p, [0.5] * 3, (8, 32, 16, 64)), "increasing"),
        (lambda p, y: Policy(DIMS, (0.5, 0.5, np.nan), "margin"), "one finite number"),
        (lambda p, y: cascade_curve.curve(p[:, :, 0], p[:, :, 0] > 0, DIMS, learn_rows=400), "learn_rows=400"),
    ],
)
def test_bad_input_is_one_clear_error(change, message):
    with pytest.raises(ValueError, match=message):
        change(*softmax())


def test_probabilities_in_half_precision_are_taken():
    probs = softmax(classes=1000)[0].astype(np.float16)
    np.testing.assert_array_equal(adaptive.decide(probs).predicted_GxN, probs.argmax(axis=2))
