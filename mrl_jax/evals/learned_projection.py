"""A linear map of frozen features to K dims, learned together with softmax heads on its nested prefixes.

It starts as the principal components, written in those scaled to the same variance, so that quiet directions are as
easy to find as loud ones. Adam trains it, at a rate that falls as a cosine, whose peak is chosen on the rows held out.
The map followed by a head is a classifier of rank m: it cannot do more than the full features can.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals import sgd_probe
from mrl_jax.evals.linear_heads import Heads, accuracy
from mrl_jax.evals.logistic import check_single
from mrl_jax.evals.moments import Moments
from mrl_jax.evals.problem import Problem, projection
from mrl_jax.evals.streams import Stream
from mrl_jax.losses import nested_softmax_untied
from mrl_jax.nesting import Nesting

GRID = (1e-3, 3e-3, 1e-2)
_B1, _B2, _EPS = 0.9, 0.999, 1e-8


class Learned(NamedTuple):
    """A map, classifiers of what it yields, and the rate they were learned at."""

    matrix: np.ndarray  # (D, K)
    heads: Heads
    rate: float


def learn(problem: Problem, dims: Sequence[int], grid: Sequence[float] = GRID) -> Learned:
    """The map to max(dims) features whose prefixes of `dims` classify best, on all training rows.

    Raises:
      ValueError: for labels of several classes per row.
    """
    check_single(problem.whole.labels, "learned")
    scores = []
    for rate in grid:
        found = train(problem.fit, problem.fit_moments, dims, rate, problem.seed)
        held = problem.held.projected(projection(found.matrix))
        scores.append(float(accuracy(held, found.heads)[0].mean()))
    rate = grid[int(np.argmax(scores))]
    return train(problem.whole, problem.fit_moments + problem.held_moments, dims, rate, problem.seed)


def train(stream: Stream, moments: Moments, dims: Sequence[int], rate: float, seed: int) -> Learned:
    """The map and its heads after training on the stream's rows at one peak rate."""
    axes, scale = _white(moments)
    mean, basis = jnp.asarray(moments.mean_z, jnp.float32), jnp.asarray(axes, jnp.float32)
    classes, plan = len(moments.sum_y), sgd_probe.schedule(len(stream))
    start = jnp.diag(jnp.asarray(scale, jnp.float32))[:, : dims[-1]]
    weights = start, [jnp.zeros((m, classes)) for m in dims], [jnp.zeros(classes) for _ in dims]
    state = weights, jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights)
    for step, (z, labels) in enumerate(sgd_probe.minibatches(stream, plan, seed)):
        now = jnp.float32(rate * 0.5 * (1 + np.cos(np.pi * step / plan.steps)))
        state = _update(state, z, labels, mean, basis, now, jnp.float32(step + 1), dims=tuple(dims))
    matrix, kernels, biases = jax.device_get(state[0])
    matrix = axes @ np.asarray(matrix, np.float64)
    offset = moments.mean_z @ matrix
    biases = [(b - offset[:m] @ k).astype(np.float32) for b, k, m in zip(biases, kernels, dims)]
    return Learned(matrix, Heads(kernels, biases), rate)


def _white(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes (D, D) divided by the deviation along them, and those deviations (D,), of mean square 1.

    The loudest direction is first. One that never changes stays zero.
    """
    values, axes = np.linalg.eigh(moments.centred()[0] / moments.rows)
    values, axes = values[::-1], axes[:, ::-1]
    deviation = np.sqrt(np.where(values > 1e-7 * values[0], values, np.inf))
    scale = np.where(np.isinf(deviation), 0.0, deviation)
    return axes / deviation, scale / max(np.sqrt(np.mean(scale**2)), 1e-30)


@partial(jax.jit, static_argnames="dims", donate_argnums=0)
def _update(state, z, labels, mean_D, basis_DxD, rate, count, *, dims):
    weights, first, second = state
    x_BxD = jnp.matmul(z.astype(jnp.float32) - mean_D[None], basis_DxD)

    def loss(weights):
        matrix_DxK, kernels, biases = weights
        return nested_softmax_untied(x_BxD @ matrix_DxK, kernels, biases, labels, Nesting(dims)).total

    grads = jax.grad(loss)(weights)
    first = jax.tree.map(lambda m, g: _B1 * m + (1 - _B1) * g, first, grads)
    second = jax.tree.map(lambda v, g: _B2 * v + (1 - _B2) * g * g, second, grads)
    unbiased = rate * jnp.sqrt(1 - _B2**count) / (1 - _B1**count)
    weights = jax.tree.map(lambda w, m, v: w - unbiased * m / (jnp.sqrt(v) + _EPS), weights, first, second)
    return weights, first, second
