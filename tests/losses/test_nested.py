"""The nested losses against the naive loop, in value and gradient, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mrl_jax import losses, sharding
from mrl_jax.losses import reference
from mrl_jax.losses.plan import Head, make_plan
from mrl_jax.nesting import Nesting

NESTING = Nesting((3, 4, 9, 24), (1.0, 0.5, 2.0, 1.5))
# Enough levels of one width for the passes to loop over them.
EVEN = Nesting.uniform(24, 2)
KINDS = ("tied", "untied", "binary")


def problem(kind, rows=10, classes=37, nesting=NESTING, scale=3.0, seed=0, dtype=jnp.float32):
    """Arguments of a loss: (differentiable ones), the target."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    z, target = scale * draw(rows, nesting.full), jnp.asarray(rng.integers(0, classes, rows))
    if kind == "untied":
        return (z, [draw(m, classes) for m in nesting.dims], [draw(classes) for _ in nesting.dims]), target
    if kind == "binary":
        target = jnp.asarray(rng.random((rows, classes)) < 0.2, jnp.float32)
    return (z, draw(nesting.full, classes), draw(classes)), target


def functions(kind):
    name = {"tied": "nested_softmax", "untied": "nested_softmax_untied", "binary": "nested_binary"}[kind]
    return getattr(losses, name), getattr(reference, name)


def value_and_grad(loss, arguments, target, nesting=NESTING, **options):
    return compiled(loss, nesting, jax.sharding.get_abstract_mesh(), **options)(arguments, target)


@functools.cache
def compiled(loss, nesting, mesh, **options):
    """Tests that differ in numbers alone share it: compiling takes most of their time."""
    del mesh  # the one in use

    def total(arguments, target):
        nested = loss(*arguments, target, nesting, **options)
        return nested.total, nested

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def assert_same(found, expected, rtol=1e-5):
    ((value, nested), grads), ((value_, nested_), grads_) = found, expected
    np.testing.assert_allclose(value, value_, rtol=rtol)
    np.testing.assert_allclose(nested.per_dim, nested_.per_dim, rtol=rtol)
    if nested_.correct is None:
        assert nested.correct is None
    else:
        np.testing.assert_array_equal(nested.correct, nested_.correct)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.abs(b).max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [None, 1, 5, 36, 37, 1000])
def test_equals_the_loop_for_any_chunk(kind, chunk):
    ours, naive = functions(kind)
    arguments, target = problem(kind)
    assert_same(value_and_grad(ours, arguments, target, chunk=chunk), value_and_grad(naive, arguments, target))


@pytest.mark.parametrize("nesting", [NESTING, EVEN])
@pytest.mark.parametrize("rows", [10, 40])
def test_equals_the_loop_whether_logits_are_kept_or_not(rows, nesting):
    # They are kept where the kernel's gradient has a row for every example.
    arguments, target = problem("tied", rows, nesting=nesting)
    plan = make_plan(None, nesting, rows, Head((arguments[1],), (arguments[2],)), 5)
    assert plan.keeps == (rows <= nesting.full)
    ours, naive = functions("tied")
    found = value_and_grad(ours, arguments, target, nesting, chunk=5)
    assert_same(found, value_and_grad(naive, arguments, target, nesting))


@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing(kind, smoothing):
    ours, naive = functions(kind)
    arguments, target = problem(kind)
    options = {"label_smoothing": smoothing}
    found = value_and_grad(ours, arguments, target, chunk=8, **options)
    assert_same(found, value_and_grad(naive, arguments, target, **options))


@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_of_no_class_makes_the_loss_infinite(kind, smoothing):
    ours, _ = functions(kind)
    arguments, target = problem(kind)
    for label in (-1, 37):
        (_, found), _ = value_and_grad(ours, arguments, target.at[0].set(label), chunk=8, label_smoothing=smoothing)
        assert (found.per_dim == jnp.inf).all()
        assert not found.correct[:, 0].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (1, 2), (7, 3), (3, 130)])
def test_small_and_odd_shapes(kind, rows, classes):
    ours, naive = functions(kind)
    arguments, target = problem(kind, rows, classes)
    assert_same(value_and_grad(ours, arguments, target), value_and_grad(naive, arguments, target))


@pytest.mark.parametrize("nesting", [Nesting.uniform(24, 2), Nesting.fixed(24), Nesting((1, 24), (0.0, 1.0))])
@pytest.mark.parametrize("kind", KINDS)
def test_any_nesting(kind, nesting):
    ours, naive = functions(kind)
    arguments, target = problem(kind, nesting=nesting)
    found = value_and_grad(ours, arguments, target, nesting, chunk=10)
    assert_same(found, value_and_grad(naive, arguments, target, nesting))


def test_one_dim_is_plain_cross_entropy():
    (z, kernel, bias), labels = problem("tied")
    nested = losses.nested_softmax(z, kernel, bias, labels, Nesting.fixed(24))
    plain = optax.softmax_cross_entropy_with_integer_labels(z @ kernel + bias[None], labels).mean()
    np.testing.assert_allclose(nested.total, plain, rtol=1e-6)


@pytest.mark.parametrize("kind", ["tied", "binary"])
@pytest.mark.parametrize("chunk", [5, 36, 37])
def test_a_loop_over_levels_equals_the_naive_one(kind, chunk):
    ours, naive = functions(kind)
    arguments, target = problem(kind, nesting=EVEN)
    assert_same(
        value_and_grad(ours, arguments, target, EVEN, chunk=chunk), value_and_grad(naive, arguments, target, EVEN)
    )


def test_the_program_does_not_grow_with_levels_of_one_width():
    def lines(nesting):
        arguments, target = problem("tied", nesting=nesting)
        step = jax.jit(lambda a: value_and_grad(losses.nested_softmax, a, target, nesting))
        return len(step.lower(arguments).as_text().splitlines())

    assert lines(Nesting.uniform(48, 1)) < 1.05 * lines(Nesting.uniform(48, 4))


def test_features_and_rows_beyond_the_weighted_dims_get_no_gradient():
    (z, kernel, bias), labels = problem("tied")
    nesting = Nesting((4, 9, 24), (1.0, 1.0, 0.0))
    _, (dz, dkernel, _) = value_and_grad(losses.nested_softmax, (z, kernel, bias), labels, nesting)
    assert not dz[:, 9:].any()
    assert not dkernel[9:].any()
    assert dz[:, :9].all()


def test_weights_are_linear():
    arguments, labels = problem("tied")
    per_dim = losses.nested_softmax(*arguments, labels, NESTING).per_dim
    for weights in ((1, 0, 0, 0), (0, 2, 0, 3)):
        total = losses.nested_softmax(*arguments, labels, Nesting(NESTING.dims, weights)).total
        np.testing.assert_allclose(total, jnp.dot(per_dim, jnp.asarray(weights, jnp.float32)), rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4])
def test_extreme_logits_stay_finite_and_right(size):
    (z, kernel, bias), labels = problem("tied")
    arguments = (z * size, kernel, bias * 0)
    found = value_and_grad(losses.nested_softmax, arguments, labels, chunk=5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found[1]))
    expected = value_and_grad(reference.nested_softmax, arguments, labels)
    if size > 1:
        # Logits of 1e5 are known to 1e-2 in float32: values agree, gradients cannot.
        found, expected = (found[0], ()), (expected[0], ())
    assert_same(found, expected)


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_first_is_ahead_of_every_other_class(chunk):
    labels, z, kernel = jnp.arange(4), jnp.zeros((4, 2)), jnp.zeros((2, 4))
    for value in (0.0, 3.0, -3.0, 1e-38):
        for classes, first in (((1, 2), None), ((2,), 2)):
            bias = jnp.full(4, value - 1).at[jnp.asarray(classes)].set(value)
            correct = losses.nested_softmax(z, kernel, bias, labels, Nesting.fixed(2), chunk=chunk).correct
            assert correct.tolist() == [[c == first for c in range(4)]], (value, classes)


def float64(kind, arguments, target, nesting):
    """Value and gradients in float64 numpy, from the definitions (tied and untied softmax)."""
    z, kernels, biases = [jax.tree.map(lambda x: np.asarray(x, np.float64), a) for a in arguments]
    dz, grads, total = np.zeros_like(z), [], 0.0
    for g, (m, w) in enumerate(zip(nesting.dims, nesting.weights)):
        kernel, bias = (kernels[:m], biases) if kind == "tied" else (kernels[g], biases[g])
        logits = z[:, :m] @ kernel + bias
        shifted = logits - logits.max(1, keepdims=True)
        p = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        onehot = np.eye(kernel.shape[1])[np.asarray(target)]
        total += w * -np.log((p * onehot).sum(1)).mean()
        residual = w * (p - onehot) / len(z)
        dz[:, :m] += residual @ kernel.T
        grads.append(z[:, :m].T @ residual)
    if kind == "tied":
        grads = [sum(np.pad(grad, ((0, nesting.full - len(grad)), (0, 0))) for grad in grads)]
    return total, [dz, *grads]


@pytest.mark.parametrize(("kind", "nesting"), [("tied", NESTING), ("untied", NESTING), ("tied", EVEN)])
def test_bfloat16_is_no_further_from_float64_than_the_loop(kind, nesting):
    ours, naive = functions(kind)
    arguments, target = problem(kind, rows=64, classes=300, nesting=nesting, scale=1.0, dtype=jnp.bfloat16)
    exact, exact_grads = float64(kind, arguments, target, nesting)

    def distances(loss, **options):
        (value, nested), (dz, dkernel, _) = value_and_grad(loss, arguments, target, nesting, **options)
        assert nested.per_dim.dtype == jnp.float32
        grads = [dz, *jax.tree.leaves(dkernel)]
        assert all(grad.dtype == jnp.bfloat16 for grad in grads)
        norms = [np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b) for a, b in zip(grads, exact_grads)]
        return [abs(float(value) - exact) / exact, *norms]

    for found, expected in zip(distances(ours, chunk=64), distances(naive)):
        assert found <= 1.02 * expected + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 1, 4), (1, 1, 8)], ids=["batch", "both", "classes"])
@pytest.mark.parametrize("chunk", [None, 6])
def test_sharded_batch_and_classes_equal_one_device(kind, mesh, chunk):
    assert_sharded_equals_one_device(kind, mesh, chunk, NESTING)


def assert_sharded_equals_one_device(kind, mesh, chunk, nesting):
    ours, naive = functions(kind)
    arguments, target = problem(kind, rows=16, classes=40, nesting=nesting)
    expected = value_and_grad(naive, arguments, target, nesting)
    mesh = sharding.make_mesh(*mesh)
    batch, kernel, bias = (NamedSharding(mesh, s) for s in (P(("data", "fsdp")), P(None, "model"), P("model")))
    placed = tuple(jax.device_put(a, s) for a, s in zip(arguments, (batch, kernel, bias)))
    by_row = NamedSharding(mesh, P(("data", "fsdp"), "model")) if target.ndim == 2 else batch
    with jax.set_mesh(mesh):
        found = jax.jit(lambda a, t: value_and_grad(ours, a, t, nesting, chunk=chunk))(
            placed, jax.device_put(target, by_row)
        )
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["tied", "binary"])
def test_a_loop_over_levels_takes_sharded_inputs(kind):
    assert_sharded_equals_one_device(kind, (2, 1, 4), 6, EVEN)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_class_sharded_kernel_is_never_gathered(kind):
    ours, _ = functions(kind)
    nesting = Nesting((16, 64))
    arguments, target = problem(kind, rows=16, classes=4096, nesting=nesting)
    mesh = sharding.make_mesh(2, 1, 4)
    batch, kernel, bias = (NamedSharding(mesh, s) for s in (P("data"), P(None, "model"), P("model")))
    placed = tuple(jax.device_put(a, s) for a, s in zip(arguments, (batch, kernel, bias)))
    with jax.set_mesh(mesh):
        step = jax.jit(lambda a, t: value_and_grad(ours, a, t, nesting, chunk=512)[1])
        text = step.lower(placed, jax.device_put(target, batch)).compile().as_text()
    gathered = [line for line in text.splitlines() if " all-gather(" in line]
    assert not any(f",{n}]" in line for line in gathered for n in (512, 1024, 4096)), gathered


def test_memory_does_not_grow_with_the_levels():
    """Measured on the gradient: autodiff of chunks would keep every one of them."""

    def temporary(loss, nesting, **options):
        arguments, labels = problem("tied", rows=256, classes=8192, nesting=nesting)
        step = jax.jit(lambda a: value_and_grad(loss, a, labels, nesting, **options)[1])
        return step.lower(arguments).compile().memory_analysis().temp_size_in_bytes

    nesting = Nesting.uniform(128, 16)
    assert temporary(losses.nested_softmax, nesting, chunk=256) < temporary(reference.nested_softmax, nesting) / 8


def test_logits_that_wait_in_the_gradient_are_read_once():
    """Read again after the first write, they would make the compiler copy the gradient for every chunk."""
    z, kernel, labels = jnp.ones((32, 96)), jnp.ones((96, 20_000)), jnp.zeros(32, jnp.int32)

    def total(z, kernel, labels):
        return losses.nested_softmax(z, kernel, None, labels, Nesting((12, 24, 48, 96)), chunk=500).total

    step = jax.jit(jax.grad(total, argnums=(0, 1))).lower(z, kernel, labels).compile()
    assert step.memory_analysis().temp_size_in_bytes < kernel.nbytes / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": jnp.ones((4, 23))}, r"z has shape \(4, 23\)"),
        ({"kernel": jnp.ones((23, 5))}, "kernel 0 has shape"),
        ({"bias": jnp.ones(4)}, "bias 0 has shape"),
        ({"labels": jnp.ones(4)}, "integers"),
        ({"labels": jnp.ones((3,), int)}, r"shape \(4,\)"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5"),
        ({"chunk": 0}, "chunk=0"),
        ({"chunk": 2.5}, r"chunk=2\.5"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_named(change, message):
    arguments = {"z": jnp.ones((4, 24)), "kernel": jnp.ones((24, 5)), "bias": jnp.ones(5), "labels": jnp.zeros(4, int)}
    options = {k: v for k, v in change.items() if k not in arguments}
    arguments |= {k: v for k, v in change.items() if k in arguments}
    with pytest.raises(ValueError, match=message):
        losses.nested_softmax(*arguments.values(), NESTING, **options)


def test_untied_needs_one_head_per_dim():
    (z, kernels, biases), labels = problem("untied")
    with pytest.raises(ValueError, match="3 kernels and 4 biases for 4 dims"):
        losses.nested_softmax_untied(z, kernels[1:], biases, labels, NESTING)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_leaves_the_gradient_of_the_others_alone(value):
    """The products of the levels wait for one another by what they hold of the first row."""
    rng = np.random.default_rng(0)
    z, kernel = jnp.float32(rng.normal(size=(6, 32))), jnp.float32(rng.normal(size=(32, 10)))
    labels = jnp.arange(6)

    def gradient(z):
        return jax.grad(lambda z: losses.nested_softmax(z, kernel, None, labels, Nesting((4, 8, 32))).total)(z)

    np.testing.assert_array_equal(gradient(z.at[0].set(value))[1:], gradient(z)[1:])
