"""Few-shot trials against one trial at a time in plain numpy, and the long tail's splits and groups."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

from mrl_jax.evals import fewshot, longtail

DIMS = (2, 5, 12)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(7), [3, 9, 12, 20, 20, 25, 31]))
    means = rng.normal(size=(7, 12))
    return (means[labels] + rng.normal(size=(120, 12))).astype(np.float32), labels


def test_trials_draw_rows_of_their_classes_without_repetition(data):
    _, labels = data
    found = fewshot.draw(labels, ways=4, shots=5, trials=50, queries=9, seed=1)
    assert found.support_TxKxS.shape == (50, 4, 5)
    assert found.query_TxKxQ.shape == (50, 4, 4), "the smallest eligible class has 9 rows"
    both = np.concatenate([*found], axis=2)
    own = labels[both]
    assert (own == own[:, :, :1]).all()
    assert all(len(set(trial.ravel())) == trial.size for trial in both)
    assert all(len(set(trial)) == 4 for trial in own[:, :, 0])
    assert 0 not in own, "a class of 3 rows cannot give 5"
    assert set(own.ravel()) == {1, 2, 3, 4, 5, 6}
    assert len({tuple(np.sort(t)) for t in own[:, :, 0]}) > 5, "other classes in other trials"
    np.testing.assert_array_equal(
        both, np.concatenate([*fewshot.draw(labels, ways=4, shots=5, trials=50, queries=9, seed=1)], axis=2)
    )


def test_every_row_is_drawn_equally_often(data, monkeypatch):
    _, labels = data
    monkeypatch.setattr(fewshot, "_KEYS", 1000)
    found = fewshot.draw(labels, ways=0, shots=1, trials=4000, queries=1, seed=2)
    counts = np.bincount(found.support_TxKxS.ravel(), minlength=len(labels))
    expected = 4000 / np.bincount(labels)[labels]
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()


def test_nearest_mean_equals_scikit_learn_trial_by_trial(data):
    z, labels = data
    episodes = fewshot.draw(labels, ways=3, shots=4, trials=20, queries=5)
    found = fewshot.nearest_mean(z, episodes, DIMS)
    for g, m in enumerate(DIMS):
        x = z[:, :m] / np.linalg.norm(z[:, :m], axis=1, keepdims=True)
        for t, (support, query) in enumerate(zip(*episodes)):
            model = NearestCentroid().fit(x[support.ravel()], np.arange(3).repeat(4))
            right = model.predict(x[query.ravel()]) == np.arange(3).repeat(query.shape[1])
            assert found[g, t] == pytest.approx(right.mean())


def test_ridge_equals_scikit_learn_trial_by_trial(data):
    z, labels = data
    episodes = fewshot.draw(labels, ways=3, shots=2, trials=10, queries=5)
    found = fewshot.by_ridge(z, episodes, DIMS, penalty=0.3)
    for t, (support, query) in enumerate(zip(*episodes)):
        x = z[support.ravel()].astype(np.float64)
        alpha = 0.3 * np.sum((x - x.mean(axis=0)) ** 2) / 12
        for g, m in enumerate(DIMS):
            model = Ridge(alpha=alpha).fit(x[:, :m], np.eye(3).repeat(2, axis=0))
            right = model.predict(z[query.ravel()][:, :m]).argmax(axis=1) == np.arange(3).repeat(query.shape[1])
            assert found[g, t] == pytest.approx(right.mean())


def test_the_interval_covers_the_mean_of_many_trials(data):
    z, labels = data
    many, _ = fewshot.summary(fewshot.nearest_mean(z, fewshot.draw(labels, ways=3, shots=1, trials=4000), (5,)))
    mean, half = fewshot.summary(
        fewshot.nearest_mean(z, fewshot.draw(labels, ways=3, shots=1, trials=100, seed=9), (5,))
    )
    assert abs(mean[0] - many[0]) < 2 * half[0]
    assert 0 < half[0] < 0.1
    assert np.isnan(fewshot.summary(np.ones((2, 1)))[1]).all()


def test_class_means_answer_with_classes_that_were_seen(data):
    z, labels = data
    train = labels != 3
    (found,) = fewshot.class_mean_answers((z[train], labels[train]), z, (5,), block=50)
    x = z[:, :5] / np.linalg.norm(z[:, :5], axis=1, keepdims=True)
    np.testing.assert_array_equal(found, NearestCentroid().fit(x[train], labels[train]).predict(x))


def test_the_tail_shrinks_exponentially():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(11), 200))
    rows = longtail.imbalanced(labels, 100, seed=3)
    assert (np.diff(rows) > 0).all()
    counts = np.sort(np.bincount(labels[rows]))[::-1]
    np.testing.assert_array_equal(counts, np.round(200 * 100 ** (-np.arange(11) / 10)))
    assert not np.array_equal(rows, longtail.imbalanced(labels, 100, seed=4))
    np.testing.assert_array_equal(rows, longtail.imbalanced(labels, 100, seed=3))
    np.testing.assert_array_equal(longtail.imbalanced(labels, 1), np.arange(2200))


def test_what_is_imbalanced_already_keeps_its_order(data):
    _, labels = data
    counts = np.bincount(labels[longtail.imbalanced(labels, 10)], minlength=7)
    assert (np.diff(counts[[1, 2, 3, 5, 6]]) >= 0).all()
    assert (counts <= np.bincount(labels)).all()
    np.testing.assert_array_equal(longtail.imbalanced(labels, 1), np.arange(120))


def test_groups_by_training_rows():
    counts = np.array([19, 20, 100, 101])
    assert [longtail.GROUPS[g] for g in longtail.group_of(counts)] == ["tail", "medium", "medium", "head"]
    labels, predicted = np.array([0, 0, 1, 2, 3, 3]), np.array([[0, 1, 1, 0, 3, 0], [0, 0, 0, 0, 0, 0]])
    found = longtail.accuracy_by_group(predicted, labels, counts)
    assert {k: v.tolist() for k, v in found.items()} == {
        "all": [0.5, 1 / 3],
        "head": [0.5, 0.0],
        "medium": [0.5, 0.0],
        "tail": [0.5, 1.0],
    }
    assert set(longtail.accuracy_by_group(predicted[:, :2], labels[:2], counts)) == {"all", "tail"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y: fewshot.draw(y, ways=7, shots=3, trials=1), "6 classes have more than shots=3 rows"),
        (lambda y: fewshot.draw(y, ways=1, shots=3, trials=1), "ways=1"),
        (lambda y: fewshot.draw(y, ways=0, shots=40, trials=1), "3 to 31 rows"),
        (lambda y: fewshot.draw(y, ways=3, shots=0, trials=1), "shots=0 must be at least 1"),
        (lambda y: longtail.imbalanced(y, 0.5), "imbalance=0.5 must be in 1..31"),
        (lambda y: longtail.imbalanced(y, 100), "must be in 1..31"),
        (lambda y: longtail.group_of(y, (100, 20)), "two increasing"),
        (lambda y: fewshot.by_ridge(y, None, DIMS, penalty=0.0), "penalty=0.0 must be positive"),
    ],
)
def test_bad_input_is_one_clear_error(data, call, message):
    with pytest.raises(ValueError, match=message):
        call(data[1])
