"""The losses of all pairs against the naive loop, in value and gradient, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mrl_jax import losses
from mrl_jax.losses import reference, tiles
from mrl_jax.nesting import Nesting, truncate

NESTING = Nesting((3, 9, 24), (1.0, 0.5, 2.0))
KINDS = ("contrastive", "sigmoid")


def problem(kind, rows=10, scale=(5.0, 7.0, 9.0), dtype=jnp.float32):
    """u, v, scale and, for the sigmoid, the bias: of each dim."""
    rng = np.random.default_rng(rows)
    u = rng.normal(size=(rows, NESTING.full))
    v = u + rng.normal(size=u.shape)
    arguments = (jnp.asarray(u, dtype), jnp.asarray(v, dtype), jnp.asarray(scale, jnp.float32))
    return arguments if kind == "contrastive" else (*arguments, jnp.asarray([-2.0, -1.0, 0.5]))


def functions(kind):
    return getattr(losses, f"nested_{kind}"), getattr(reference, f"nested_{kind}")


def value_and_grad(loss, arguments, **options):
    """By every argument, of the total and, through weights of their own, of the values per dim."""
    return compiled(loss, **options)(arguments)


@functools.cache
def compiled(loss, **options):
    """Tests that differ in numbers alone share it: compiling takes most of their time."""

    def total(arguments):
        nested = loss(*arguments, NESTING, **options)
        return nested.total + nested.per_dim @ jnp.arange(1.0, 1 + len(NESTING)), nested

    return jax.jit(jax.value_and_grad(total, has_aux=True, argnums=0))


def assert_same(found, expected, rtol=1e-5):
    ((value, nested), grads), ((value_, nested_), grads_) = found, expected
    np.testing.assert_allclose(value, value_, rtol=rtol)
    np.testing.assert_allclose(nested.per_dim, nested_.per_dim, rtol=rtol, atol=1e-6)
    np.testing.assert_array_equal(nested.correct, nested_.correct)
    # The derivative by the scale is a small sum of large terms: it is known to 1e-6 at best.
    for a, b in zip(grads, grads_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6 + rtol * float(jnp.abs(b).max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "chunk"), [(10, None), (10, 4), (10, 5), (1, None), (4, 1)])
def test_equals_the_loop_for_any_chunk(kind, rows, chunk):
    ours, naive = functions(kind)
    arguments = problem(kind, rows)
    assert_same(value_and_grad(ours, arguments, chunk=chunk), value_and_grad(naive, arguments))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checked", [True, False])
def test_a_shared_batch_equals_one_device(kind, checked):
    ours, naive = functions(kind)
    arguments = problem(kind, 8 * 3)
    mesh = Mesh(np.asarray(jax.devices()[:8]), ("data",))
    specs = (P("data"), P("data"), *([P()] * (len(arguments) - 2)))
    results = losses.NestedLoss(P(), P(), P(None, "data"))

    def shared(*arguments):
        nesting = arguments[-1]

        def local(*local):
            return ours(*local, nesting, chunk=2, axis_name="data")

        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=results, check_vma=checked)(*arguments[:-1])

    assert_same(value_and_grad(shared, arguments), value_and_grad(naive, arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_taken_on_the_devices_are_those_of_the_whole_batch(kind):
    ours, naive = functions(kind)
    arguments = problem(kind, 8 * 2)
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(2, 4), ("data", "fsdp"))
    rows = P(("data", "fsdp"))
    specs = (rows, rows, *([P()] * (len(arguments) - 2)))

    def local(*arguments):
        return jax.grad(lambda a: ours(*a, NESTING, axis_name=("data", "fsdp")).total)(arguments)

    found = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs))(*arguments)
    expected = jax.jit(jax.grad(lambda a: naive(*a, NESTING).total))(arguments)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 + 1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("scale", [1e-3, 100.0, -3.0, (1e-3, 90.0, -70.0)])
def test_any_scale_equals_the_loop(scale):
    arguments = problem("contrastive", scale=scale)
    found = value_and_grad(losses.nested_contrastive, arguments, chunk=4)
    assert_same(found, value_and_grad(reference.nested_contrastive, arguments), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_by_a_scale_of_zero_is_not_lost(kind):
    ours, naive = functions(kind)
    arguments = problem(kind, scale=(0.0, 7.0, 0.0))
    (_, found), (_, expected) = (value_and_grad(f, arguments, **o) for f, o in ((ours, {"chunk": 4}), (naive, {})))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert (expected[2] != 0).all()


def test_logits_far_below_the_scale_equal_the_loop():
    # Opposite sides: every cosine is near -1, the exponential of scale x (cosine - 1) vanishes.
    (u, _, _), rng = problem("contrastive"), np.random.default_rng(0)
    v = jnp.asarray(-1 + 0.1 * rng.normal(size=u.shape), jnp.float32)
    arguments = (1 + 0.1 * u, v, jnp.float32(200.0))
    found = value_and_grad(losses.nested_contrastive, arguments, chunk=4)
    assert_same(found, value_and_grad(reference.nested_contrastive, arguments), rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_tiny_and_huge_rows_stay_finite_and_right(kind):
    ours, naive = functions(kind)
    arguments = problem(kind)
    expected, d_expected = value_and_grad(ours, arguments, chunk=4)
    size = jnp.asarray([1e-30, 1e30, *[1.0] * 8])[:, None]
    found, grads = value_and_grad(ours, (arguments[0] * size, *arguments[1:]), chunk=4)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(grads[1], d_expected[1], rtol=1e-3, atol=1e-5)
    # A prefix of zeros and a row of zeros; they come last, as the loop takes the first of a tie for correct.
    u = arguments[0].at[9].set(0).at[8].set(0.5).at[8, :3].set(0)
    assert_same(value_and_grad(ours, (u, *arguments[1:]), chunk=4), value_and_grad(naive, (u, *arguments[1:])))


def test_a_tie_is_not_first():
    u = jnp.eye(4, 24).at[1].set(jnp.eye(4, 24)[0])
    for kind, more in (("contrastive", ()), ("sigmoid", (0.0,))):
        for chunk in (2, None):
            loss = functools.partial(functions(kind)[0], nesting=Nesting.fixed(24), chunk=chunk)
            correct = jax.jit(loss)(u, u, 5.0, *more).correct
            assert correct.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("kind", KINDS)
def test_features_beyond_the_weighted_dims_get_no_gradient(kind):
    ours, _ = functions(kind)
    nesting = Nesting((3, 9, 24), (1.0, 1.0, 0.0))
    for grad in jax.jit(jax.grad(lambda a: ours(*a, nesting).total))(problem(kind))[:2]:
        assert not grad[:, 9:].any()
        assert grad[:, :9].all()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_no_further_from_float64_than_the_loop(kind):
    ours, naive = functions(kind)
    arguments = problem(kind, 64, dtype=jnp.bfloat16)
    exact = value_and_grad(naive, tuple(a.astype(jnp.float32) for a in arguments))

    def distances(found):
        assert found[1][0].dtype == found[1][1].dtype == jnp.bfloat16
        pairs = zip((found[0][0], *found[1]), (exact[0][0], *exact[1]))
        return [np.linalg.norm(np.asarray(a, float) - np.asarray(b, float)) / np.linalg.norm(b) for a, b in pairs]

    for a, b in zip(distances(value_and_grad(ours, arguments, chunk=16)), distances(value_and_grad(naive, arguments))):
        assert a <= 1.02 * b + 1e-5


def temporary(rows, loss, **options):
    u = jax.ShapeDtypeStruct((rows, NESTING.full), jnp.float32)
    step = jax.jit(jax.grad(lambda u, v: loss(u, v, 10.0, NESTING, **options).total, argnums=(0, 1)))
    return step.lower(u, u).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_all_pairs():
    few, many = (temporary(rows, losses.nested_contrastive, chunk=64) for rows in (512, 4096))
    # Linear in the rows at most, and below one matrix of all pairs.
    assert many < 8 * few
    assert many < 4096**2 * 4 / 8


def test_memory_of_a_device_falls_with_their_number():
    def per_device(devices):
        mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))

        def shared(u, v, scale, nesting):
            def local(u, v):
                return losses.nested_contrastive(u, v, scale, nesting, chunk=64, axis_name="data").total

            total = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P())(u, v)
            return losses.NestedLoss(total, None, None)

        return temporary(8192, shared)

    assert per_device(8) < per_device(1) / 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": jnp.ones((4, 23))}, r"u has shape \(4, 23\)"),
        ({"v": jnp.ones((3, 24))}, r"v is float32\(3, 24\)"),
        ({"v": jnp.ones((4, 24), jnp.bfloat16)}, "v is bfloat16"),
        ({"scale": jnp.ones(4)}, r"scale has shape \(4,\)"),
        ({"chunk": 0}, "chunk=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_named(change, message):
    arguments = {"u": jnp.ones((4, 24)), "v": jnp.ones((4, 24)), "scale": 1.0, "nesting": NESTING, "chunk": None}
    u, v, scale, nesting, chunk = (arguments | change).values()
    with pytest.raises(ValueError, match=message):
        losses.nested_contrastive(u, v, scale, nesting, chunk=chunk)


IDS = jnp.asarray([0, 1, 2, 0, 4, 5, 2, 0, 8, 9])
TWO_IDS = jnp.stack([IDS, jnp.asarray([9, 1, 1, 3, 4, 5, 6, 3, 8, 8])], axis=1)


def without_duplicates(kind, arguments, ids, v_ids=None):
    """The loop with minus infinity in the place of the logits of duplicates."""
    u, v, scale, *bias = arguments
    ids_BxI, v_ids_BxI = (x.reshape(len(u), -1) for x in (ids, ids if v_ids is None else v_ids))
    rivals = (ids_BxI[:, None] == v_ids_BxI[None]).any(axis=2) & ~jnp.eye(len(u), dtype=bool)
    own = jnp.arange(len(u))
    total = 0.0
    for g, m in enumerate(NESTING.dims):
        logits = jnp.broadcast_to(scale, 3)[g] * (truncate(u, m) @ truncate(v, m).T) + (bias[0][g] if bias else 0.0)
        logits = jnp.where(rivals, -jnp.inf, logits)
        if kind == "sigmoid":
            signed = jnp.where(
                rivals, 0.0, jax.nn.softplus(jnp.where(rivals, 0.0, -logits) * (2 * jnp.eye(len(u)) - 1))
            )
            loss = signed.sum(axis=1)
        else:
            rows, columns = jax.nn.logsumexp(logits, axis=1), jax.nn.logsumexp(logits, axis=0)
            loss = 0.5 * (rows + columns) - logits[own, own]
        total += NESTING.weights[g] * loss.mean()
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("ids", [IDS, TWO_IDS], ids=["one", "two"])
def test_duplicates_are_no_negatives(kind, chunk, ids):
    ours, _ = functions(kind)
    arguments = problem(kind)
    found = jax.jit(jax.value_and_grad(lambda a: ours(*a, NESTING, chunk=chunk, ids_B=ids).total))(arguments)
    expected = jax.jit(jax.value_and_grad(lambda a: without_duplicates(kind, a, ids)))(arguments)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert found[0] < value_and_grad(ours, arguments, chunk=chunk or 4)[0][1].total


@pytest.mark.parametrize("kind", KINDS)
def test_sides_may_have_ids_of_their_own(kind):
    ours, _ = functions(kind)
    arguments, v_ids = problem(kind), jnp.roll(TWO_IDS, 3, axis=0)
    loss = functools.partial(ours, nesting=NESTING, chunk=3, ids_B=TWO_IDS, v_ids_B=v_ids)
    found = jax.jit(jax.value_and_grad(lambda a: loss(*a).total))(arguments)
    expected = jax.jit(jax.value_and_grad(lambda a: without_duplicates(kind, a, TWO_IDS, v_ids)))(arguments)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="there are no ids_B"):
        ours(*arguments, NESTING, v_ids_B=v_ids)
    with pytest.raises(ValueError, match=r"v_ids are int32\(10,\); they must be as ids_B, int32\(10, 2\)"):
        ours(*arguments, NESTING, ids_B=TWO_IDS, v_ids_B=IDS)


def test_duplicates_far_below_the_scale_are_no_negatives_either():
    rng = np.random.default_rng(0)
    v = jnp.asarray(-1 + 0.1 * rng.normal(size=(10, NESTING.full)), jnp.float32)
    arguments = (1 + 0.1 * jnp.asarray(rng.normal(size=v.shape), jnp.float32), v, jnp.float32(200.0))
    found = jax.jit(lambda a: losses.nested_contrastive(*a, NESTING, chunk=4, ids_B=IDS).total)(arguments)
    expected = jax.jit(lambda a: without_duplicates("contrastive", a, IDS))(arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_only_short_prefixes_that_are_mostly_new_have_products_of_their_own():
    assert tiles.starts(Nesting.halving(64, 4)) == (0, 0, 0, 16, 32)
    assert tiles.starts(Nesting.uniform(64, 4))[:4] == (0, 0, 8, 12)
