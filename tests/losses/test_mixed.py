"""Two labels an example: against a loop in float64 with the targets written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import losses, objectives
from mrl_jax.nesting import Nesting

NESTING = Nesting((3, 4, 9, 24), (1.0, 0.5, 2.0, 1.5))
ROWS, CLASSES = 10, 37


def problem(tied, seed=0):
    rng = np.random.default_rng(seed)
    dims = (NESTING.full,) if tied else NESTING.dims
    z = 2 * rng.normal(size=(ROWS, NESTING.full))
    kernels, biases = [rng.normal(size=(m, CLASSES)) for m in dims], [rng.normal(size=CLASSES) for _ in dims]
    labels, second = rng.integers(0, CLASSES, (2, ROWS))
    second[0] = labels[0]
    weight = rng.random(ROWS)
    weight[1:3] = 0, 1
    return (z, kernels, biases), (labels, second, weight)


def loop(parameters, batch, smoothing):
    """Value by dim, and the gradient of the total, in float64."""
    (z, kernels, biases), (labels, second, weight) = parameters, batch
    rows, eye = weight[:, None], np.eye(CLASSES)
    target = (1 - smoothing) * (rows * eye[labels] + (1 - rows) * eye[second]) + smoothing / CLASSES
    dz, per_dim = np.zeros_like(z), []
    dkernels, dbiases = [np.zeros_like(k) for k in kernels], [np.zeros_like(b) for b in biases]
    for g, (m, w) in enumerate(zip(NESTING.dims, NESTING.weights)):
        i = g if len(kernels) > 1 else 0
        logits = z[:, :m] @ kernels[i][:m] + biases[i]
        logp = logits - logits.max(1, keepdims=True)
        logp -= np.log(np.exp(logp).sum(1, keepdims=True))
        per_dim.append(-(target * logp).sum(1).mean())
        residual = w / ROWS * (np.exp(logp) - target)
        dz[:, :m] += residual @ kernels[i][:m].T
        dkernels[i][:m] += z[:, :m].T @ residual
        dbiases[i] += residual.sum(0)
    return np.array(per_dim), (dz, dkernels, dbiases)


def mixed(parameters, batch, smoothing, **options):
    """The same by the objective."""
    labels, second, weight = batch
    batch = {"label": jnp.asarray(labels), "label_2": jnp.asarray(second), "mix": jnp.asarray(weight, jnp.float32)}
    objective = objectives.softmax(NESTING, label_smoothing=smoothing, **options)

    def total(parameters):
        z, kernels, biases = parameters
        names = [""] if len(kernels) == 1 else [f"_{m}" for m in NESTING.dims]
        out = {f"head/kernel{n}": k for n, k in zip(names, kernels)} | {
            f"head/bias{n}": b for n, b in zip(names, biases)
        }
        nested = objective(z, out, batch)
        return nested.total, nested

    parameters = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), parameters)
    return jax.jit(jax.value_and_grad(total, has_aux=True))(parameters)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_equals_the_loop_with_soft_targets(tied, smoothing):
    parameters, batch = problem(tied)
    per_dim, grads = loop(parameters, batch, smoothing)
    (total, nested), found = mixed(parameters, batch, smoothing, chunk=8)
    np.testing.assert_allclose(nested.per_dim, per_dim, rtol=1e-5)
    np.testing.assert_allclose(total, per_dim @ np.array(NESTING.weights), rtol=1e-5)
    for ours, expected in zip(jax.tree.leaves(found), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("tied", [True, False])
def test_the_classes_are_passed_once(tied):
    """The second label adds no product as large as that of the logits."""
    (z, kernels, biases), (labels, second, weight) = problem(tied)
    names = (jnp.asarray(second), jnp.asarray(weight))

    def added(z, kernels, biases):
        nested = losses.NestedLoss(jnp.zeros(()), jnp.zeros(len(NESTING)), None)
        return losses.add_second_label(nested, z, kernels, biases, jnp.asarray(labels), *names, NESTING).total

    text = str(jax.make_jaxpr(jax.grad(added))(jnp.asarray(z), kernels, biases))
    assert f"{ROWS},{CLASSES}]" not in text
    assert "dot_general" in text  # of the weights with the dims; so the words are those of a jaxpr


def test_binary_targets_are_mixed():
    rng = np.random.default_rng(0)
    z, kernel, bias = rng.normal(size=(ROWS, 24)), rng.normal(size=(24, CLASSES)), rng.normal(size=CLASSES)
    labels, second = rng.integers(0, CLASSES, (2, ROWS))
    weight = rng.random(ROWS)
    out = {"head/kernel": jnp.asarray(kernel), "head/bias": jnp.asarray(bias)}
    target = weight[:, None] * np.eye(CLASSES)[labels] + (1 - weight[:, None]) * np.eye(CLASSES)[second]
    expected = losses.nested_binary(jnp.asarray(z), *out.values(), jnp.asarray(target), NESTING)
    objective = objectives.binary(NESTING)
    for label, label_2 in ((labels, second), (labels[:, None], second[:, None])):
        batch = {"label": jnp.asarray(label), "label_2": jnp.asarray(label_2), "mix": jnp.asarray(weight)}
        np.testing.assert_allclose(objective(jnp.asarray(z), out, batch).total, expected.total, rtol=1e-5)


def test_arguments_that_do_not_fit_are_named():
    (z, kernels, biases), (labels, second, weight) = problem(True)
    z, kernels, biases, labels = (
        jnp.asarray(z),
        [jnp.asarray(kernels[0])],
        [jnp.asarray(biases[0])],
        jnp.asarray(labels),
    )
    nested = losses.nested_softmax(z, kernels[0], biases[0], labels, NESTING)
    with pytest.raises(ValueError, match="labels are float32"):
        losses.add_second_label(nested, z, kernels, biases, labels, jnp.asarray(weight), jnp.ones(ROWS), NESTING)
    with pytest.raises(ValueError, match=r"weights have shape \(3,\)"):
        losses.add_second_label(nested, z, kernels, biases, labels, jnp.asarray(second), jnp.ones(3), NESTING)
