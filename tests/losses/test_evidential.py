"""The evidential loss against its definition in float64, at few classes and at many, and the priorities made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from nested_parity import assert_same, value_and_grad
from scipy.special import digamma, gammaln

from mrl_jax import losses, sharding
from mrl_jax.losses import reference
from mrl_jax.nesting import Nesting

evidential = jax.jit(losses.evidential, static_argnames=("evidence", "kl_weight", "chunk"))


def naive(logits_BxK, labels_B, evidence, kl_weight):
    """The definition, line by line, in float64."""
    z, k = np.asarray(logits_BxK, np.float64), logits_BxK.shape[1]
    e = np.logaddexp(0, z) if evidence == "softplus" else np.exp(np.clip(z, -10, np.log(k) + 7))
    alpha, onehot = e + 1, (np.arange(k)[None] == np.asarray(labels_B)[:, None]).astype(float)
    data = digamma(alpha.sum(1)) - digamma((alpha * onehot).sum(1))
    wrong = onehot + (1 - onehot) * alpha
    total = wrong.sum(1, keepdims=True)
    kl = gammaln(total[:, 0]) - gammaln(k) - gammaln(wrong).sum(1)
    kl += ((wrong - 1) * (digamma(wrong) - digamma(total))).sum(1)
    return data + kl_weight * kl, k / alpha.sum(1)


def problem(rows, classes, scale, seed=0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(rows, classes))).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    logits[::2][np.arange(len(labels[::2])), labels[::2]] += 3 * scale
    return logits, labels


def test_reference_values():
    logits = jnp.asarray([[2.0, 0.0, -1.0]] * 2)
    loss, u = evidential(logits, jnp.asarray([0, 1]), evidence="softplus", kl_weight=5e-4)
    np.testing.assert_allclose(loss, [0.758368, 1.527201], atol=1e-6)
    np.testing.assert_allclose(u, [0.489130] * 2, atol=1e-6)
    both, _ = evidential(logits, jnp.asarray([0, 1]), kl_weight=1.0)
    np.testing.assert_allclose(both, [0.758298 + 0.140664, 1.526910 + 0.581911], atol=2e-6)


@pytest.mark.parametrize(
    ("classes", "data", "kl"),
    [(10, 2.5963, 0.70), (751, 6.9445, 53.64), (24393, 10.4255, 1742.54)],
)
def test_zero_logits(classes, data, kl):
    loss, u = evidential(jnp.zeros((1, classes)), jnp.asarray([0]), kl_weight=1.0)
    np.testing.assert_allclose(u, [0.590616], atol=1e-6)
    np.testing.assert_allclose(loss, [data + kl], atol=6e-3 + 1e-5 * kl)


# Either side of the class count from which the series are used, chunks that divide the classes and that do not.
@pytest.mark.parametrize(("classes", "chunk"), [(2, None), (15, 4), (16, None), (300, 128)])
@pytest.mark.parametrize("evidence", ["softplus", "exp_clip"])
def test_value_and_gradient_follow_the_definition(classes, chunk, evidence):
    options, mix = {"evidence": evidence, "kl_weight": 0.01}, np.linspace(0.5, 2, 6)
    along = np.random.default_rng(1).normal(size=(4, 6, classes)) / np.sqrt(classes)

    @jax.jit
    def ours(z, labels):
        def total(z):
            loss, u = losses.evidential(z, labels, chunk=chunk, **options)
            return (loss + jnp.asarray(mix, jnp.float32) * u).sum(), (loss, u)

        return jax.value_and_grad(total, has_aux=True)(z)

    def theirs(z, labels):
        loss, u = naive(z, labels, **options)
        return (loss + mix * u).sum()

    for scale in (0.3, 2.0, 6.0):
        logits, labels = problem(6, classes, scale)
        (_, (loss, u)), grad = ours(jnp.asarray(logits), jnp.asarray(labels))
        expected = naive(logits, labels, **options)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(u, expected[1], rtol=1e-5)
        wide = logits.astype(np.float64)
        for d in along:
            slope = (theirs(wide + 1e-4 * d, labels) - theirs(wide - 1e-4 * d, labels)) / 2e-4
            np.testing.assert_allclose((np.asarray(grad, np.float64) * d).sum(), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("evidence", ["softplus", "exp_clip"])
@pytest.mark.parametrize("bias", [-8.0, 8.0])
def test_holds_at_100_000_classes(evidence, bias):
    logits, labels = problem(2, 100_000, 3.0)
    logits += np.float32(bias)
    args = jnp.asarray(logits), jnp.asarray(labels)
    expected = naive(logits, labels, evidence, 1e-5)
    np.testing.assert_allclose(evidential(*args, evidence=evidence, kl_weight=1e-5)[0], expected[0], rtol=1e-5)
    grad = jax.jit(jax.grad(lambda z: evidential(z, args[1], evidence=evidence)[0].sum()))(args[0])
    assert jnp.isfinite(grad).all()
    assert (grad[jnp.arange(2), args[1]] < 0).all()


@pytest.mark.parametrize(("classes", "floor"), [(751, 3.24), (24393, 6.69), (81313, 7.89)])
def test_linear_evidence_cannot_reach_a_low_loss_and_the_clipped_exponential_can(classes, floor):
    logits = jnp.full((1, classes), -1e4).at[0, 7].set(30.0)
    at = jnp.asarray([7])
    np.testing.assert_allclose(evidential(logits, at, kl_weight=0.0)[0][0], floor, atol=6e-3)
    low = evidential(logits, at, evidence="auto", kl_weight=0.0)[0][0]
    assert 5e-4 < low < 1.5e-3
    np.testing.assert_allclose(low, naive(np.asarray(logits), [7], "exp_clip", 0.0)[0][0], rtol=1e-4)


def test_an_uncertain_example_keeps_a_gradient_of_its_uncertainty():
    logits = jnp.full((1, 751), -1e4).at[0, 0].set(np.log(999.0))
    options = {"evidence": "exp_clip", "kl_weight": 0.0}
    _, u = evidential(logits, jnp.asarray([0]), **options)
    grad = jax.grad(lambda z: evidential(z, jnp.asarray([0]), **options)[0][0])(logits)
    np.testing.assert_allclose([u[0], -grad[0, 0]], [0.429, 0.4285], atol=5e-4)


def test_auto_takes_exponentials_above_200_classes_only():
    for classes, same in ((200, "softplus"), (201, "exp_clip")):
        args = jnp.asarray(problem(2, classes, 1.0)[0]), jnp.asarray([3, 4])
        found, expected = (evidential(*args, evidence=name) for name in ("auto", same))
        np.testing.assert_array_equal(found, expected)


def test_is_float32_for_half_precision_logits():
    logits, labels = problem(4, 50, 1.0)
    half = jnp.asarray(logits, jnp.bfloat16)
    loss, u = evidential(half, jnp.asarray(labels))
    assert loss.dtype == u.dtype == jnp.float32
    np.testing.assert_allclose(loss, naive(np.asarray(half, np.float64), labels, "softplus", 5e-4)[0], rtol=1e-5)
    grad = jax.grad(lambda z: evidential(z, jnp.asarray(labels))[0].sum())(half)
    assert grad.dtype == jnp.bfloat16


def test_the_gradient_needs_memory_of_a_chunk_only():
    labels = jnp.arange(16)

    def temporary(chunk):
        grad = jax.grad(lambda z: evidential(z, labels, chunk=chunk)[0].mean())
        spec = jax.ShapeDtypeStruct((16, 20_000), jnp.float32)
        return jax.jit(grad).lower(spec).compile().memory_analysis().temp_size_in_bytes

    assert temporary(500) < 16 * 20_000 * 4 / 4


def test_sharded_rows_and_classes_equal_one_device():
    logits, labels = problem(8, 40, 2.0)

    def value_and_grad(z, y):
        return jax.jit(jax.value_and_grad(lambda z: evidential(z, y)[0].mean()))(z)

    one = value_and_grad(jnp.asarray(logits), jnp.asarray(labels))
    mesh = sharding.make_mesh(2, 1, 4)
    with jax.set_mesh(mesh):
        z = jax.device_put(logits, NamedSharding(mesh, P("data", "model")))
        many = value_and_grad(z, jax.device_put(labels, NamedSharding(mesh, P("data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), one, many)


NESTING = Nesting((2, 5, 8), (1.0, 0.5, 2.0))
# Enough levels of one width for the passes to loop over them.
EVEN = Nesting.uniform(8, 1)


def nested_problem(nesting, tied, rows=6, classes=37):
    rng = np.random.default_rng(0)
    dims = (nesting.full,) if tied else nesting.dims
    draws = rng.normal(size=(rows, nesting.full)), [rng.normal(size=(m, classes)) for m in dims]
    arguments = jax.tree.map(jnp.float32, (*draws, [rng.normal(size=classes) for _ in dims]))
    return arguments, jnp.asarray(rng.integers(0, classes, rows))


@pytest.mark.parametrize(
    ("nesting", "tied", "chunk", "evidence", "kl_weight"),
    [
        (NESTING, True, 10, "exp_clip", 0.1),
        (NESTING, False, None, "softplus", 0.01),
        (EVEN, True, 10, "softplus", 0.01),
    ],
)
def test_of_a_head_equals_that_of_its_logits(nesting, tied, chunk, evidence, kl_weight):
    arguments, labels = nested_problem(nesting, tied)
    options = {"evidence": evidence, "kl_weight": kl_weight}
    found = value_and_grad(losses.nested_evidential, arguments, labels, nesting, chunk=chunk, **options)
    expected = value_and_grad(reference.nested_evidential, arguments, labels, nesting, **options)
    assert_same(found, expected)


def test_of_a_head_on_sharded_rows_and_classes_equals_one_device():
    arguments, labels = nested_problem(NESTING, tied=True, rows=8, classes=40)
    expected = value_and_grad(reference.nested_evidential, arguments, labels, NESTING, evidence="softplus",
                                     kl_weight=0.01)  # fmt: skip
    mesh = sharding.make_mesh(2, 1, 4)
    specs = P("data"), P(None, "model"), P("model")
    with jax.set_mesh(mesh):
        placed = tuple(jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arguments, specs))
        labels = jax.device_put(labels, NamedSharding(mesh, P("data")))
        found = value_and_grad(losses.nested_evidential, placed, labels, NESTING, kl_weight=0.01, chunk=12)
    assert_same(found, expected)


def test_a_label_of_no_class_makes_the_loss_infinite():
    loss, _ = evidential(jnp.zeros((3, 5)), jnp.asarray([-1, 0, 5]))
    np.testing.assert_array_equal(jnp.isinf(loss), [True, False, True])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": "relu"}, "evidence='relu'"),
        ({"kl_weight": -1.0}, "kl_weight=-1.0"),
        ({"kl_weight": float("nan")}, "kl_weight=nan"),
        ({"chunk": 0}, "chunk=0"),
        ({"labels_B": jnp.zeros(2, int)}, r"shape \(3,\)"),
        ({"logits_BxK": jnp.zeros((3, 5), int)}, "floats"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"logits_BxK": jnp.zeros((3, 5)), "labels_B": jnp.zeros(3, int)} | change
    with pytest.raises(ValueError, match=message):
        losses.evidential(**arguments)


def test_priorities():
    u = jnp.asarray([[0.9, 0.7], [0.5, 0.3], [0.1, 0.3]])
    np.testing.assert_array_equal(losses.priorities(u), [1, 1, 1])
    np.testing.assert_allclose(losses.priorities(u, "uncertain"), 3 * np.array([0.8, 0.4, 0.2]) / 1.4, rtol=1e-6)
    np.testing.assert_allclose(losses.priorities(u, "certain"), 3 * np.array([0.2, 0.6, 0.8]) / 1.6, rtol=1e-6)
    np.testing.assert_array_equal(losses.priorities(jnp.ones((2, 3)), "certain"), [1, 1])
    grad = jax.grad(lambda u: (losses.priorities(u, "uncertain") * jnp.arange(3.0)).sum())(u)
    np.testing.assert_array_equal(grad, jnp.zeros_like(u))
    with pytest.raises(ValueError, match="'certain'"):
        losses.priorities(u, "certan")
    with pytest.raises(ValueError, match="row per sub-model"):
        losses.priorities(u[0])
