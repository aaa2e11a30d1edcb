"""The exponential of the losses against that of NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.losses.exponentials import exp


def test_is_as_exact_as_its_argument_can_be():
    x = np.concatenate([np.linspace(-87.3, 88, 20001), -np.logspace(-8, 1, 2001), [0.0]]).astype(np.float32)
    error = np.asarray(jax.jit(exp)(x)) / np.exp(x.astype(np.float64)) - 1
    assert (np.abs(error) <= 3e-7 + 1e-7 * np.abs(x)).all()


def test_ends_of_the_range():
    found = np.asarray(jax.jit(exp)(np.array([-np.inf, -1e30, -88, 89, 1e30, np.inf, np.nan], np.float32)))
    np.testing.assert_array_equal(found[:3], 0)
    assert (found[3:6] > 1e38).all()
    assert np.isnan(found[6])


@pytest.mark.parametrize("order", [1, 2])
def test_is_its_own_derivative(order):
    f = lambda x: exp(2 * x)  # noqa: E731
    for _ in range(order):
        f = jax.grad(f)
    np.testing.assert_allclose(f(0.5), 2**order * np.e, rtol=1e-6)


def test_other_dtypes_keep_their_own():
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.linspace(-5, 5, 101, dtype=dtype)
        np.testing.assert_array_equal(exp(x), jnp.exp(x))
