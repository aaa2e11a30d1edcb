import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.nesting import Nesting, truncate


def test_constructors():
    assert Nesting.halving(2048, 8).dims == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert Nesting.halving(768, 12).dims == (12, 24, 48, 96, 192, 384, 768)
    assert Nesting.uniform(100, 32).dims == (32, 64, 96, 100)
    assert Nesting.uniform(64, 32).dims == (32, 64)
    assert Nesting.fixed(64) == Nesting((64,))
    assert Nesting((2, 4)).weights == (1.0, 1.0)
    assert Nesting((2, 4)).full == 4
    assert len(Nesting((2, 4))) == 2


def test_is_hashable_and_static_under_jit():
    assert hash(Nesting((2, 4))) == hash(Nesting([2, 4], [1, 1]))
    double = jax.jit(lambda x, n: x * n.full, static_argnums=1)
    assert double(1.0, Nesting((2, 4))) == 4.0


@pytest.mark.parametrize(
    ("dims", "weights", "message"),
    [
        ((), None, "empty"),
        ((8, 4), None, "strictly increasing"),
        ((4, 4), None, "strictly increasing"),
        ((0, 4), None, "positive integer"),
        ((2.5, 4), None, "positive integer"),
        ((True, 4), None, "positive integer"),
        ((2, 4), (1.0,), "1 entries for 2 dims"),
        ((2, 4), (1.0, -1.0), "not negative"),
        ((2, 4), (0.0, 0.0), "not all zero"),
        ((2, 4), (1.0, float("nan")), "finite"),
    ],
)
def test_refuses(dims, weights, message):
    with pytest.raises(ValueError, match=message):
        Nesting(dims, weights)


def test_halving_that_misses_is_refused():
    with pytest.raises(ValueError, match="never reaches"):
        Nesting.halving(100, 8)


def test_truncates_then_normalises():
    z = jax.random.normal(jax.random.key(0), (5, 8))
    np.testing.assert_allclose(jnp.linalg.norm(truncate(z, 3), axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(truncate(z, 3, normalize=False), z[:, :3])
    np.testing.assert_allclose(truncate(truncate(z, 8), 3), truncate(z, 3), rtol=1e-6)


def test_zero_vectors_stay_zero_with_finite_gradient():
    z = jnp.zeros((2, 4))
    assert not truncate(z, 2).any()
    assert jnp.isfinite(jax.grad(lambda z: truncate(z, 2).sum())(z)).all()


def test_truncate_refuses_a_dim_beyond_the_embedding():
    with pytest.raises(ValueError, match=r"dim=9 is not in 1\.\.8"):
        truncate(jnp.ones((1, 8)), 9)
