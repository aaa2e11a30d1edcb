"""The masked-language-model loss against the loop, and that slots which are not used count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mrl_jax import losses, sharding
from mrl_jax.losses import reference
from mrl_jax.nesting import Nesting

NESTING = Nesting((2, 6, 12), (1.0, 0.5, 2.0))
TEXTS, SLOTS, VOCABULARY = 3, 4, 23


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(TEXTS, SLOTS, NESTING.full)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(VOCABULARY, NESTING.full)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=VOCABULARY), jnp.float32)
    targets = np.array(rng.integers(0, VOCABULARY, (TEXTS, SLOTS)), np.int32)
    targets[0, 2:], targets[2] = -1, -1
    return (z, table, bias), jnp.asarray(targets)


def of_total(loss, arguments, targets, **options):
    def total(arguments):
        z, table, bias = arguments
        nested = loss(z, table.T, bias, targets, NESTING, **options)
        return nested.total + nested.per_dim @ jnp.arange(1.0, 4.0), nested

    return jax.value_and_grad(total, has_aux=True)(arguments)


@pytest.mark.parametrize("chunk", [None, 5])
def test_equals_the_loop_over_the_places_that_are_used(problem, chunk):
    arguments, targets = problem
    (value, nested), grads = of_total(losses.nested_masked_lm, arguments, targets, chunk=chunk)
    (value_, nested_), grads_ = of_total(reference.nested_masked_lm, arguments, targets)
    np.testing.assert_allclose(value, value_, rtol=1e-6)
    np.testing.assert_allclose(nested.per_dim, nested_.per_dim, rtol=1e-6)
    np.testing.assert_allclose(nested.accuracy, nested_.accuracy, rtol=1e-6)
    for a, b in zip(grads, grads_):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    unused = np.asarray(targets) < 0
    assert (np.asarray(grads[0])[unused] == 0).all()


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("mesh", [(4, 1, 1), (2, 1, 4), (1, 1, 4)], ids=["texts", "both", "vocabulary"])
def test_sharded_texts_and_vocabulary_equal_one_device(problem, mesh, chunk):
    (z, table, bias), targets = (jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), one) for one in problem)
    z, targets = z[:, :3], targets[:, :3]  # as many places as features: logits are kept
    expected = of_total(reference.nested_masked_lm, (z, table, bias), targets)
    mesh = sharding.make_mesh(*mesh, devices=jax.devices()[: np.prod(mesh)])
    texts, kernel = NamedSharding(mesh, P("data")), NamedSharding(mesh, P("model"))
    placed = tuple(jax.device_put(x, s) for x, s in zip((z, table, bias), (texts, kernel, kernel)))
    with jax.set_mesh(mesh):
        found = jax.jit(lambda a, t: of_total(losses.nested_masked_lm, a, t, chunk=chunk))(
            placed, jax.device_put(targets, texts)
        )
    (value, nested), grads = found
    np.testing.assert_allclose(value, expected[0][0], rtol=1e-6)
    np.testing.assert_allclose(nested.accuracy, expected[0][1].accuracy, rtol=1e-6)
    for a, b in zip(grads, expected[1]):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_neither_the_table_nor_its_gradient_is_turned():
    rows, vocabulary = 16, 20_000
    z, table = jnp.ones((2, rows // 2, 64)), jnp.ones((vocabulary, 64))
    targets = jnp.zeros((2, rows // 2), jnp.int32)

    def total(z, table, targets):
        return losses.nested_masked_lm(z, table.T, None, targets, Nesting((16, 32, 64)), chunk=500).total

    step = jax.jit(jax.grad(total, argnums=(0, 1))).lower(z, table, targets).compile()
    assert step.memory_analysis().temp_size_in_bytes < table.nbytes / 2


def test_many_even_levels_take_the_loop_over_levels(problem):
    (z, table, bias), targets = problem
    dense = Nesting.uniform(NESTING.full, 1)

    def total(loss):
        return jax.value_and_grad(lambda z: loss(z, table.T, bias, targets, dense).total)(z)

    (value, grad), (value_, grad_) = total(losses.nested_masked_lm), total(reference.nested_masked_lm)
    np.testing.assert_allclose(value, value_, rtol=1e-6)
    np.testing.assert_allclose(grad, grad_, rtol=1e-5, atol=1e-6)


def test_no_place_at_all_is_a_loss_of_zero(problem):
    arguments, targets = problem
    (value, nested), grads = of_total(losses.nested_masked_lm, arguments, jnp.full_like(targets, -1))
    assert value == 0
    assert (nested.accuracy == 0).all()
    assert all((np.asarray(g) == 0).all() for g in grads)


def test_bad_shapes_are_named(problem):
    (z, table, bias), targets = problem
    with pytest.raises(ValueError, match=r"must be \(B, S, D\), and targets"):
        losses.nested_masked_lm(z[0], table.T, bias, targets, NESTING)
    with pytest.raises(ValueError, match="must be integers"):
        losses.nested_masked_lm(z, table.T, bias, targets.astype(jnp.float32), NESTING)
