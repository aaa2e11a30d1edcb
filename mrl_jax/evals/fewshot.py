"""Few-shot classification on prefixes (MRL, section 4.4.2 and appendix G): n-shot k-way, many trials at once.

A trial draws k classes, n support rows of each and some query rows of each that are not among them. Two classifiers
learn from the support: the nearest class mean of unit-normalised prefixes, and ridge regression in closed form.
The paper tells neither the number of trials nor whether it normalises.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals import ridge
from mrl_jax.evals.moments import Moments
from mrl_jax.nesting import truncate

QUERIES = 15  # of a class in a trial, where it has as many
RIDGE_PENALTY = 0.1  # in units of `ridge.scale` of the support
_KEYS = 1 << 22  # random numbers drawn together
_BATCH = 16  # trials computed together


class Episodes(NamedTuple):
    """Rows of T trials of K classes: S support and Q query rows of each. The class of a row is its place on axis 1."""

    support_TxKxS: np.ndarray
    query_TxKxQ: np.ndarray


def draw(
    labels_N: np.ndarray, *, ways: int, shots: int, trials: int, queries: int = QUERIES, seed: int = 0
) -> Episodes:
    """Draws trials, support and query rows of a class without repetition.

    Args:
      labels_N: the class of every row.
      ways: classes of a trial, k; 0: all that have rows enough.
      shots: support rows of a class, n.
      trials: how many.
      queries: query rows of a class, at most; all classes have as many as the smallest one can give.
      seed: of the draw.

    Raises:
      ValueError: if there are not `ways` classes of more than `shots` rows, or a number is too small.
    """
    for name, value, least in (("ways", ways, 0), ("shots", shots, 1), ("trials", trials, 1), ("queries", queries, 1)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    count_C = np.bincount(labels_N)
    eligible = np.flatnonzero(count_C > shots)
    ways = ways or len(eligible)
    if not 2 <= ways <= len(eligible):
        raise ValueError(
            f"ways={ways}: {len(eligible)} classes have more than shots={shots} rows, and a trial needs from 2 to as "
            f"many classes (the classes have {count_C[count_C > 0].min()} to {count_C.max()} rows): use other numbers"
        )
    queries = min(queries, int(count_C[eligible].min()) - shots)
    rows_ExM = _rows_of(labels_N, eligible, count_C)
    rng, drawn, size = np.random.default_rng(seed), [], max(_KEYS // max(len(eligible), ways * rows_ExM.shape[1]), 1)
    for start in range(0, trials, size):
        some = min(size, trials - start)
        classes_TxK = rng.random((some, len(eligible))).argsort(axis=1)[:, :ways]
        rows_TxKxM = rows_ExM[classes_TxK]
        keys = np.where(rows_TxKxM < 0, 2.0, rng.random(rows_TxKxM.shape))
        order = keys.argsort(axis=2)[:, :, : shots + queries]
        drawn.append(np.take_along_axis(rows_TxKxM, order, axis=2))
    rows = np.concatenate(drawn)
    return Episodes(rows[:, :, :shots], rows[:, :, shots:])


def _rows_of(labels_N: np.ndarray, classes_E: np.ndarray, count_C: np.ndarray) -> np.ndarray:
    """(E, M) int: the rows of each class, filled up with -1."""
    order = np.argsort(labels_N, kind="stable")
    first_C = np.cumsum(count_C) - count_C
    at_ExM = first_C[classes_E][:, None] + np.arange(count_C[classes_E].max())[None]
    inside = np.arange(at_ExM.shape[1])[None] < count_C[classes_E][:, None]
    return np.where(inside, order[np.minimum(at_ExM, len(order) - 1)], -1)


def nearest_mean(z_NxD: np.ndarray, episodes: Episodes, dims: Sequence[int]) -> np.ndarray:
    """Accuracy (G, T) of the nearest class mean, by L2 distance, of unit-normalised prefixes of the support."""
    z_NxD = jnp.asarray(z_NxD, jnp.float32)
    return np.stack([np.asarray(_nearest_mean(truncate(z_NxD, m), *map(jnp.asarray, episodes))) for m in dims])


@jax.jit
def _nearest_mean(z_Nxm, support_TxKxS, query_TxKxQ):
    def trial(rows):
        support_KxS, query_KxQ = rows
        mean_Kxm = z_Nxm[support_KxS].mean(axis=1)
        right = _nearest(z_Nxm[query_KxQ.reshape(-1)], mean_Kxm).reshape(query_KxQ.shape)
        return jnp.mean(right == jnp.arange(len(query_KxQ))[:, None], dtype=jnp.float32)

    return jax.lax.map(trial, (support_TxKxS, query_TxKxQ), batch_size=_BATCH)


def _nearest(z_Bxm: jax.Array, mean_Kxm: jax.Array) -> jax.Array:
    """(B,) int: the mean of the smallest L2 distance, the first of equals."""
    products = jnp.matmul(z_Bxm, mean_Kxm.T, precision="highest")
    return jnp.argmax(2 * products - jnp.sum(mean_Kxm**2, axis=1)[None], axis=1)


def by_ridge(z_NxD: np.ndarray, episodes: Episodes, dims: Sequence[int], penalty: float = RIDGE_PENALTY) -> np.ndarray:
    """Accuracy (G, T) of ridge regression on the support: one factorisation a trial serves all dims.

    Raises:
      ValueError: if the penalty is not positive.
    """
    if not penalty > 0:
        raise ValueError(f"penalty={penalty} must be positive: fewer rows than features have no other solution")
    accuracy = np.empty((len(dims), len(episodes.support_TxKxS)))
    for t, (support_KxS, query_KxQ) in enumerate(zip(*episodes)):
        moments = _moments(np.asarray(z_NxD[support_KxS.ravel()], np.float64), support_KxS.shape)
        heads = ridge.solve(moments, dims, penalty * ridge.scale(moments))
        queries, own = np.asarray(z_NxD[query_KxQ.ravel()]), np.arange(len(query_KxQ)).repeat(query_KxQ.shape[1])
        for g, (kernel, bias) in enumerate(zip(*heads)):
            accuracy[g, t] = np.mean((queries[:, : len(kernel)] @ kernel + bias).argmax(axis=1) == own)
    return accuracy


def _moments(z_MxD: np.ndarray, shape: tuple[int, int]) -> Moments:
    """Of the support of a trial: K classes of S rows, in order."""
    sums_KxD = z_MxD.reshape(*shape, -1).sum(axis=1)
    sum_y, zeros = np.full(shape[0], float(shape[1])), np.zeros(z_MxD.shape[1])
    return Moments(len(z_MxD), zeros, sums_KxD.sum(axis=0), sum_y, z_MxD.T @ z_MxD, sums_KxD.T)


METHODS: dict[str, Callable[[np.ndarray, Episodes, Sequence[int]], np.ndarray]] = {
    "nearest_mean": nearest_mean,
    "ridge": by_ridge,
}


def summary(accuracy_GxT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (G,) over the trials, and half the width (G,) of its 95 % confidence interval (normal; NaN of one trial)."""
    trials = accuracy_GxT.shape[1]
    spread = accuracy_GxT.std(axis=1, ddof=1) if trials > 1 else np.full(len(accuracy_GxT), np.nan)
    return accuracy_GxT.mean(axis=1), 1.96 * spread / np.sqrt(trials)


def class_mean_answers(
    train: tuple[np.ndarray, np.ndarray], z_NxD: np.ndarray, dims: Sequence[int], block: int = 4096
) -> Iterator[np.ndarray]:
    """Of each dim the answers (N,) of the nearest mean of all classes that occur in `train` (features, labels)."""
    z, labels = jnp.asarray(train[0], jnp.float32), np.asarray(train[1])
    present, own = np.unique(labels, return_inverse=True)
    for m in dims:
        means = _means(truncate(z, m), jnp.asarray(own), classes=len(present))
        blocks = (truncate(jnp.asarray(z_NxD[i : i + block], jnp.float32), m) for i in range(0, len(z_NxD), block))
        yield np.concatenate([present[np.asarray(_nearest_jit(b, means))] for b in blocks])


_nearest_jit = jax.jit(_nearest)


@partial(jax.jit, static_argnames="classes")
def _means(z_Nxm, labels_N, *, classes):
    sums = jax.ops.segment_sum(z_Nxm, labels_N, classes)
    return sums / jax.ops.segment_sum(jnp.ones(len(z_Nxm)), labels_N, classes)[:, None]
