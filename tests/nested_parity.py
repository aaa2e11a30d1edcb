"""Value and gradient of a nested loss, and whether those of two are the same."""

import jax
import jax.numpy as jnp
import numpy as np


def value_and_grad(loss, arguments, labels, *positional, **options):
    def total(arguments):
        nested = loss(*arguments, labels, *positional, **options)
        return nested.total, nested

    return jax.jit(jax.value_and_grad(total, has_aux=True))(arguments)


def assert_same(found, expected):
    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5 * float(jnp.abs(b).max()))

    jax.tree.map(same, found, expected)
