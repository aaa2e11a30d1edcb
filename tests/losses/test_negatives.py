"""Hard negatives in the contrastive loss: against a loop in float64, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mrl_jax import losses
from mrl_jax.losses import reference
from mrl_jax.nesting import Nesting

NESTING = Nesting((2, 5, 12), (1.0, 0.5, 2.0))
ROWS, K = 10, 3
IDS = np.asarray([0, 1, 2, 0, 4, 5, 2, 0, 8, 9])
# Of row 1 one negative is the match itself, of row 2 all; those of row 3 have the id of another row.
OWN_IDS = np.full((ROWS, K), 99)
OWN_IDS[1, 0], OWN_IDS[2], OWN_IDS[3] = 1, 2, 1


def problem(rows=ROWS, scale=7.0, opposite=False):
    """u, v, negatives and scale, float64."""
    rng = np.random.default_rng(rows)
    u = rng.normal(size=(rows, NESTING.full))
    v = u + rng.normal(size=u.shape)
    x = u[:, None] + rng.normal(size=(rows, K, NESTING.full))
    if opposite:  # cosines near -1 with all rows of v, of both signs with the negatives
        u, v = 1 + 0.1 * u, -1 + 0.1 * v
    return u, v, x, np.float64(scale)


def loop(u, v, x, scale, ids, own_ids):
    """Total and losses per dim, as anyone would write it: a loop over dims, with matrices of all candidates."""

    def unit(z):
        return z / jnp.sqrt((z * z).sum(axis=-1, keepdims=True))

    hidden = (ids[:, None] == ids[None]) & ~np.eye(len(u), dtype=bool)
    total, per_dim = 0.0, []
    for weight, m in zip(NESTING.weights, NESTING.dims):
        a, b, c = (unit(z[..., :m]) for z in (u, v, x))
        square = jnp.where(hidden, -jnp.inf, scale * a @ b.T)
        more = jnp.where(own_ids == ids[:, None], -jnp.inf, scale * (a[:, None] * c).sum(axis=2))
        row = jax.nn.logsumexp(jnp.concatenate([square, more], axis=1), axis=1)
        column = jax.nn.logsumexp(square, axis=0)
        per_dim.append((0.5 * (row + column) - jnp.diagonal(square)).mean())
        total += weight * per_dim[-1]
    return total, jnp.stack(per_dim)


EXACT = jax.jit(jax.value_and_grad(lambda a, ids, own_ids: loop(*a, ids, own_ids), has_aux=True))


def exact(arguments, ids, own_ids):
    """Value and gradients of `loop` in float64."""
    with jax.enable_x64(True):
        arguments = tuple(jnp.asarray(a, jnp.float64) for a in arguments)
        return jax.device_get(EXACT(arguments, ids, own_ids))


@functools.cache
def compiled(chunk, masked):
    def total(arguments):
        u, v, x, scale = arguments
        ids = {"ids_B": jnp.asarray(IDS), "negative_ids_BxK": jnp.asarray(OWN_IDS)} if masked else {}
        nested = losses.nested_contrastive(u, v, scale, NESTING, chunk=chunk, negatives_BxKxD=x, **ids)
        return nested.total, nested

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def assert_same(found, expected, rtol):
    ((value, nested), grads), ((value_, per_dim), grads_) = found, expected
    np.testing.assert_allclose(value, value_, rtol=rtol)
    np.testing.assert_allclose(nested.per_dim, per_dim, rtol=rtol)
    for a, b in zip(grads, grads_, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max() + 1e-7)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("scale", "opposite", "rtol"), [(7.0, False, 1e-5), (100.0, False, 1e-4), (200.0, True, 1e-3)])
def test_value_and_gradient_are_those_of_a_loop_in_float64(masked, scale, opposite, rtol):
    arguments = problem(scale=scale, opposite=opposite)
    ids, own_ids = (IDS, OWN_IDS) if masked else (np.arange(ROWS), np.full((ROWS, K), 99))
    found = compiled(4, masked)(tuple(jnp.float32(a) for a in arguments))
    assert_same(found, exact(arguments, ids, own_ids), rtol)
    if masked:
        assert not np.asarray(found[1][2])[2].any(), "the match itself is no negative"


def test_correct_is_ahead_of_the_negatives_too_and_a_tie_is_not():
    u, v, x, scale = (jnp.float32(a) for a in problem())
    found = compiled(4, False)((u, v, x, scale))[0][1]
    expected = reference.nested_contrastive(u, v, scale, NESTING, negatives_BxKxD=x)
    np.testing.assert_array_equal(found.correct, expected.correct)
    without = losses.nested_contrastive(u, v, scale, NESTING)
    np.testing.assert_array_equal(found.correct, without.correct & found.known["ahead_of_negatives"])
    assert not without.known
    assert 0 < found.known["ahead_of_negatives"].mean() < 1
    tied = compiled(4, False)((u, v, x.at[:, 1].set(v), scale))[0][1]
    assert not tied.known["ahead_of_negatives"].any()
    assert compiled(4, True)((u, v, x, scale))[0][1].known["ahead_of_negatives"][:, 2].all(), (
        "of row 2 no negative is left"
    )


def test_a_shared_batch_equals_one_device():
    arguments = tuple(jnp.float32(a) for a in problem(24))
    mesh, rows = Mesh(np.asarray(jax.devices()[:8]), ("data",)), P("data")

    def local(u, v, x, scale, axis_name="data"):
        return losses.nested_contrastive(u, v, scale, NESTING, chunk=2, axis_name=axis_name, negatives_BxKxD=x)

    results = losses.NestedLoss(P(), P(), P(None, "data"), known={"ahead_of_negatives": P(None, "data")})
    shared = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, rows, P()), out_specs=results)

    def value_and_grad(fn):
        return jax.jit(jax.value_and_grad(lambda a: (lambda n: (n.total, n))(fn(*a)), has_aux=True))(arguments)

    one, eight = value_and_grad(functools.partial(local, axis_name=None)), value_and_grad(shared)
    for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"negatives_BxKxD": jnp.ones((10, 12))},
            r"negatives are float32\(10, 12\); they must be float32\(10, K, 12\)",
        ),
        ({"negatives_BxKxD": jnp.ones((10, 0, 12))}, "with K > 0"),
        ({"negatives_BxKxD": jnp.ones((10, 3, 12), jnp.bfloat16)}, "negatives are bfloat16"),
        ({"negative_ids_BxK": jnp.ones((10, 2), int)}, r"negative_ids are int32\(10, 2\)"),
        ({"ids_B": None}, "ids_B be given"),
    ],
)
def test_bad_arguments_are_named(change, message):
    u, v, x, scale = (jnp.float32(a) for a in problem())
    own = {"ids_B": jnp.asarray(IDS), "negatives_BxKxD": x, "negative_ids_BxK": jnp.asarray(OWN_IDS)}
    with pytest.raises(ValueError, match=message):
        losses.nested_contrastive(u, v, scale, NESTING, **own | change)
