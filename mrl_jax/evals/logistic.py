"""Multinomial logistic regression on every prefix, all dims in the same passes over the data.

Every dim is a convex problem of its own: mean cross-entropy plus l2 / 2 times the squared weights (the bias is free).
All are solved by L-BFGS in lockstep: one pass of the nested loss gives the value and gradient of each; dims that have
converged are left out as soon as they are half of the work. L-BFGS works in coordinates U = L^T W, with L the Cholesky
factor of the centred covariance plus C l2: the Hessian at zero weights is then nearly the identity. As in ridge
regression the leading block of L, and of its inverse, belongs to the prefix: one factorisation serves all dims.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from mrl_jax.evals import lockstep, ridge
from mrl_jax.evals.linear_heads import Heads, accuracy
from mrl_jax.evals.moments import Moments
from mrl_jax.evals.streams import Stream, compensated, fold, value, zeros_like
from mrl_jax.losses import nested_softmax_untied
from mrl_jax.nesting import Nesting

# L2 penalties in units of the mean variance of the features over the number of classes, from strong to weak.
GRID = (1.0, 1e-1, 1e-2, 1e-3)
MAX_ITERATIONS, TOLERANCE = 200, 1e-6
CHOICE_TOLERANCE = 1e-5  # enough to compare penalties by
_SMALL_PASS = 1e10  # multiply-adds below which compiling for fewer dims takes longer than it saves


class Fit(NamedTuple):
    """Heads at every dim, and of each dim the penalty, the iterations and whether it converged."""

    heads: Heads
    l2: list[float]
    iterations: list[int]
    converged: list[bool]


def fit(
    stream: Stream,
    moments: Moments,
    dims: Sequence[int],
    l2: Sequence[float],
    start: Sequence[np.ndarray] | None = None,
    precondition: bool = True,
    tolerance: float = TOLERANCE,
) -> tuple[Fit, list[np.ndarray]]:
    """The heads that minimise mean cross-entropy plus l2 / 2 times the squared weights, a penalty per dim.

    Args:
      stream: single-label rows.
      moments: of the same rows.
      dims: increasing.
      l2: one per dim.
      start: weights (m, C) of the centred features and biases below them (m + 1, C), as returned; None: zeros.
      precondition: whether to work in the coordinates above; the optimum is the same.
      tolerance: see `lockstep.minimise`.

    Returns:
      The fit, and the weights for a next `start`.
    """
    classes = len(moments.sum_y)
    gram, _ = moments.centred()
    gram = gram[: max(dims), : max(dims)] / moments.rows
    plain = _Coordinates(np.eye(len(gram)), np.eye(len(gram)))
    maps = {p: _Coordinates.of(gram, p * classes) if precondition else plain for p in set(l2)}
    starts = [maps[p].forward(w) for p, w in zip(l2, start or [np.zeros((m + 1, classes)) for m in dims])]

    weights = {g: maps[p].back(x) for g, (p, x) in enumerate(zip(l2, starts))}
    compiled = list(weights)

    def evaluate(points: Mapping[int, np.ndarray]) -> dict[int, tuple[float, np.ndarray]]:
        compiled[:] = _to_compile(compiled, points, dims, len(stream) * classes)
        for g, x in points.items():
            weights[g] = maps[l2[g]].back(x.reshape(dims[g] + 1, classes))
        losses, grads = _pass(stream, moments.mean_z, tuple(dims[g] for g in compiled), [weights[g] for g in compiled])
        answers = {}
        for g, loss, grad in zip(compiled, losses, grads):
            grad[:-1] += l2[g] * weights[g][:-1]
            penalty = 0.5 * l2[g] * np.sum(weights[g][:-1] ** 2)
            answers[g] = float(loss + penalty), maps[l2[g]].gradient(grad).ravel()
        return answers

    found = lockstep.minimise(evaluate, [x.ravel() for x in starts], max_iterations=MAX_ITERATIONS, tolerance=tolerance)
    ends = [maps[p].back(r.x.reshape(m + 1, classes)) for p, r, m in zip(l2, found, dims)]
    heads = _heads(ends, moments, dims)
    return Fit(heads, list(l2), [r.iterations for r in found], [r.converged for r in found]), ends


def choose(
    fit_stream: Stream,
    fit_moments: Moments,
    held_stream: Stream,
    whole_stream: Stream,
    whole_moments: Moments,
    dims: Sequence[int],
    grid: Sequence[float] = GRID,
) -> Fit:
    """Heads at every dim, each with the penalty of the best held-out accuracy, fitted on all rows in the end.

    Each penalty starts from the weights of the one before; `Fit.l2` is in units of `GRID`.

    Raises:
      ValueError: for labels of several classes per row.
    """
    check_single(whole_stream.labels, "logistic")
    start, scores, tried = None, [], []
    for ratio in grid:
        own = ratio * _unit(fit_moments)
        fitted, start = fit(fit_stream, fit_moments, dims, [own] * len(dims), start, tolerance=CHOICE_TOLERANCE)
        scores.append(accuracy(held_stream, fitted.heads)[0])
        tried.append(start)
    best = np.stack(scores).argmax(axis=0)
    chosen = [float(grid[i]) for i in best]
    penalties = [ratio * _unit(whole_moments) for ratio in chosen]
    final, _ = fit(whole_stream, whole_moments, dims, penalties, [tried[i][g] for g, i in enumerate(best)])
    return final._replace(l2=chosen)


def check_single(labels: np.ndarray, method: str) -> None:
    """Raises ValueError for labels of several classes per row."""
    if labels.ndim != 1:
        raise ValueError(
            f"labels have shape {labels.shape}, several classes per row: {method!r} needs one; use the ridge probe, "
            "which takes several (--methods=ridge)"
        )


def _unit(moments: Moments) -> float:
    return ridge.scale(moments) / moments.rows / len(moments.sum_y)


def _to_compile(compiled: Sequence[int], active: Collection[int], dims: Sequence[int], work: int) -> list[int]:
    """The dims of the next pass: those of the last, until leaving out what has converged saves half of the work."""
    before, needed = (sum(dims[g] for g in which) for which in (compiled, active))
    return sorted(active) if work * before > _SMALL_PASS and 2 * needed < before else list(compiled)


class _Coordinates(NamedTuple):
    """The map between weights W, biases in their last row, and U = L^T W, in which the problem is well conditioned.

    With the inverse at hand a map is one matrix product, which for few features is much faster than a substitution.
    """

    lower: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, covariance: np.ndarray, penalty: float) -> "_Coordinates":
        lower = ridge.factor(covariance, penalty)
        return cls(lower, scipy.linalg.lapack.dtrtri(lower, lower=1)[0])

    def forward(self, w: np.ndarray) -> np.ndarray:
        m = len(w) - 1
        return np.concatenate([self.lower[:m, :m].T @ w[:-1], w[-1:]])

    def back(self, u: np.ndarray) -> np.ndarray:
        m = len(u) - 1
        return np.concatenate([self.inverse[:m, :m].T @ u[:-1], u[-1:]])

    def gradient(self, grad: np.ndarray) -> np.ndarray:
        """The gradient by U from the one by W."""
        m = len(grad) - 1
        return np.concatenate([self.inverse[:m, :m] @ grad[:-1], grad[-1:]])


def _heads(weights: Sequence[np.ndarray], moments: Moments, dims: Sequence[int]) -> Heads:
    biases = [w[-1] - moments.mean_z[:m] @ w[:-1] for w, m in zip(weights, dims)]
    return Heads([w[:-1].astype(np.float32) for w in weights], [b.astype(np.float32) for b in biases])


def _pass(
    stream: Stream, mean_D: np.ndarray, dims: tuple[int, ...], weights: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mean cross-entropy (G,) and its gradient (m + 1, C) at every dim, in one pass."""
    mean = jnp.asarray(mean_D, jnp.float32)
    kernels = [jnp.asarray(w[:-1], jnp.float32) for w in weights]
    biases = [jnp.asarray(w[-1], jnp.float32) for w in weights]

    def step(total, z, labels):
        return _add(total, z, labels, mean, kernels, biases, dims=dims)

    shapes = (jax.ShapeDtypeStruct((len(dims),), jnp.float32), (kernels, biases))
    losses, (by_kernel, by_bias) = value(fold(step, zeros_like(shapes), stream))
    grads = [np.concatenate([k, b[None]]) / len(stream) for k, b in zip(by_kernel, by_bias)]
    return losses / len(stream), grads


@partial(jax.jit, static_argnames="dims", donate_argnums=0)
def _add(total, z, labels, mean, kernels, biases, *, dims):
    z = z.astype(jnp.float32) - mean[None]

    def loss(kernels, biases):
        with jax.default_matmul_precision("highest"):
            nested = nested_softmax_untied(z[:, : dims[-1]], kernels, biases, labels, Nesting(dims))
        return nested.total, nested.per_dim

    (_, per_dim), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(kernels, biases)
    rows = len(z)
    return compensated(total, jax.tree.map(lambda x: rows * x, (per_dim, grads)))
