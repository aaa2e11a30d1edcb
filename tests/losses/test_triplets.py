"""Triplets across two models, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.losses import nested_triplet
from mrl_jax.nesting import Nesting

NESTING = Nesting((2, 6), weights=(0.5, 2.0))
Z, T = (np.random.default_rng(i).normal(size=(7, 6)).astype(np.float32) for i in range(2))
LABELS = np.array([0, 0, 1, 1, 1, 2, 2])


def of_row(i, z, t, labels, margin):
    """Loss and correctness of one row."""
    z, t = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (z, t))
    distance = [np.linalg.norm(z[i] - t[j]) for j in range(len(t))]
    positive = [d for j, d in enumerate(distance) if labels[j] == labels[i]]
    negative = [d for j, d in enumerate(distance) if labels[j] != labels[i]]
    return max(0.0, margin + max(positive) - min(negative)), min(positive) < min(negative)


@pytest.mark.parametrize("margin", [0.3, 0.0])
def test_the_hardest_of_the_batch_at_every_dim(margin):
    found = nested_triplet(Z, T, LABELS, NESTING, margin=margin)
    for g, m in enumerate(NESTING.dims):
        loss, correct = zip(*(of_row(i, Z[:, :m], T[:, :m], LABELS, margin) for i in range(len(Z))))
        np.testing.assert_allclose(found.per_dim[g], np.mean(loss), rtol=1e-5)
        np.testing.assert_array_equal(found.correct[g], correct)
    np.testing.assert_allclose(found.total, 0.5 * found.per_dim[0] + 2.0 * found.per_dim[1], rtol=1e-6)


def test_gradients_reach_the_student_alone_and_are_finite_where_both_agree():
    own, teachers = jax.grad(lambda z, t: nested_triplet(z, t, LABELS, NESTING).total, argnums=(0, 1))(Z, T)
    assert np.abs(own).max() > 0
    assert not np.any(teachers)
    same = jax.grad(lambda z: nested_triplet(z, jnp.asarray(T), LABELS, NESTING).total)(jnp.asarray(T))
    assert np.isfinite(same).all()


@pytest.mark.parametrize("size", [2.0**-60, 2.0**60])
def test_the_size_of_the_features_has_no_part(size):
    def loss(z, t):
        return nested_triplet(z, t, LABELS, NESTING).per_dim

    np.testing.assert_allclose(loss(Z * size, T * size), loss(Z, T), rtol=1e-5)
    slopes, expected = (jax.jacobian(loss)(z, T) * x for z, x in ((Z * size, size), (Z, 1)))
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_of_one_label_has_nothing_to_learn():
    found, slope = jax.value_and_grad(lambda z: nested_triplet(z, T, np.zeros(7, int), NESTING).total)(Z)
    assert found == 0
    assert not np.any(slope)
    assert nested_triplet(Z, T, np.zeros(7, int), NESTING).correct.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Z, T[:, :4], LABELS), r"\(B, 6\)"),
        ((Z, T, LABELS[:3]), r"labels have shape \(3,\)"),
        ((Z, T, LABELS, 3.0), r"margin=3\.0 must be in 0\.\.2"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    margin = {"margin": arguments[3]} if len(arguments) > 3 else {}
    with pytest.raises(ValueError, match=message):
        nested_triplet(*arguments[:3], NESTING, **margin)
