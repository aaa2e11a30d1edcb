"""A linear probe by SGD with momentum, all dims in the same minibatches.

Features are standardised, one by one, with the statistics of the training rows (as by the BatchNorm without scale
before the probe of He et al. 2021, appendix A.1); the weights found are folded back. The learning rate falls as a
cosine; its peak is chosen on the rows held out, in units of the inverse of the largest eigenvalue of the correlations
of each prefix, so that the same few values fit 8 features and 2048.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals.linear_heads import Heads, accuracy
from mrl_jax.evals.logistic import check_single
from mrl_jax.evals.moments import Moments
from mrl_jax.evals.streams import Stream
from mrl_jax.losses import nested_softmax_untied
from mrl_jax.nesting import Nesting

GRID = (0.1, 0.5, 2.5)
BATCH_ROWS, EPOCHS, LEAST_STEPS, MOMENTUM = 512, 10, 500, 0.9
_SWEEP = 128  # minibatches read from the file at once, in its order


class Schedule(NamedTuple):
    """How many minibatches of how many rows."""

    batch_rows: int
    steps: int


def schedule(rows: int) -> Schedule:
    """EPOCHS over the rows, and no fewer than LEAST_STEPS steps."""
    batch_rows = min(BATCH_ROWS, rows)
    return Schedule(batch_rows, max(EPOCHS * rows // batch_rows, LEAST_STEPS))


def choose(
    fit_stream: Stream,
    held_stream: Stream,
    whole_stream: Stream,
    moments: Moments,
    dims: Sequence[int],
    seed: int,
    grid: Sequence[float] = GRID,
) -> tuple[Heads, list[float]]:
    """Heads at every dim, each with the learning rate of the best held-out accuracy, trained on all rows in the end.

    Returns:
      The heads, and the rate of each in the units above.

    Raises:
      ValueError: for labels of several classes per row.
    """
    check_single(whole_stream.labels, "sgd")
    units = curvatures(moments, dims)
    scores = [accuracy(held_stream, train(fit_stream, moments, dims, r / units, seed))[0] for r in grid]
    chosen = np.array(grid)[np.stack(scores).argmax(axis=0)]
    return train(whole_stream, moments, dims, chosen / units, seed), chosen.tolist()


def curvatures(moments: Moments, dims: Sequence[int]) -> np.ndarray:
    """The largest eigenvalue of the correlations of each prefix, (G,), by power iteration."""
    gram, _ = moments.centred()
    deviation = _deviation(moments)
    correlation = gram / moments.rows / np.outer(deviation, deviation)
    found = []
    for m in dims:
        v = np.ones(m)
        for _ in range(50):
            v = correlation[:m, :m] @ v
            v /= np.linalg.norm(v)
        found.append(float(v @ correlation[:m, :m] @ v))
    return np.maximum(found, 1.0)


def train(stream: Stream, moments: Moments, dims: Sequence[int], rates_G: np.ndarray, seed: int) -> Heads:
    """The heads after training on the stream's rows, each epoch in another order, with a peak learning rate per dim."""
    classes, plan = len(moments.sum_y), schedule(len(stream))
    mean, deviation = moments.mean_z, _deviation(moments)
    shift, divide = jnp.asarray(mean, jnp.float32), jnp.asarray(1 / deviation, jnp.float32)
    weights = [jnp.zeros((m, classes)) for m in dims], [jnp.zeros(classes) for _ in dims]
    state = weights, jax.tree.map(jnp.zeros_like, weights)
    for step, (z, labels) in enumerate(minibatches(stream, plan, seed)):
        rates = jnp.asarray(rates_G * 0.5 * (1 + np.cos(np.pi * step / plan.steps)), jnp.float32)
        state = _update(state, z, labels, shift, divide, rates, dims=tuple(dims))
    (kernels, biases), _ = jax.device_get(state)
    kernels = [k / deviation[:m, None] for k, m in zip(kernels, dims)]
    biases = [b - mean[:m] @ k for b, k, m in zip(biases, kernels, dims)]
    return Heads([k.astype(np.float32) for k in kernels], [b.astype(np.float32) for b in biases])


def _deviation(moments: Moments) -> np.ndarray:
    """The standard deviation of every feature; 1 for those that never change."""
    variance = np.diag(moments.centred()[0]) / moments.rows
    # Rounding leaves a trace of variance in a constant feature: dividing by it would make noise of it.
    least = 1e-10 * max(float(variance.max()), 1e-300)
    return np.sqrt(np.where(variance > least, variance, 1.0))


def minibatches(stream: Stream, plan: Schedule, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`plan.steps` minibatches: epochs without repetition, read from the file a sweep at a time in its order."""
    rng, rows = np.random.default_rng(seed), np.arange(len(stream.z)) if stream.index is None else stream.index
    order = np.empty(0, rows.dtype)
    for first in range(0, plan.steps, _SWEEP):
        batches = min(_SWEEP, plan.steps - first)
        while len(order) < batches * plan.batch_rows:
            order = np.concatenate([order, rng.permutation(rows)])
        taken, order = order[: batches * plan.batch_rows], order[batches * plan.batch_rows :]
        sorted_rows, inverse = np.unique(taken, return_inverse=True)
        z, labels = stream.take(sorted_rows)
        for at in inverse.reshape(batches, plan.batch_rows):
            yield z[at], labels[at]


@partial(jax.jit, static_argnames="dims", donate_argnums=0)
def _update(state, z, labels, shift, divide, rates_G, *, dims):
    weights, velocity = state
    z = ((z.astype(jnp.float32) - shift[None]) * divide[None])[:, : dims[-1]]

    def loss(weights):
        return nested_softmax_untied(z, *weights, labels, Nesting(dims)).total

    grads = jax.grad(loss)(weights)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
    moved = [[w - rates_G[g] * v for g, (w, v) in enumerate(zip(ws, vs))] for ws, vs in zip(weights, velocity)]
    return tuple(moved), velocity
