"""What a cascade costs and how often it is right, over repeated splits of a set (MRL, appendix D.1).

Of each split one part teaches the thresholds and the rest tests them; with the cascade capped at each dim in turn the
points are a curve of accuracy against expected dim.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax.evals import adaptive


class Curve(NamedTuple):
    """Of the cascade capped at each dim but the first: mean and standard deviation over the splits, (2, G - 1) each."""

    caps: tuple[int, ...]
    accuracy: np.ndarray
    expected_dim: dict[str, np.ndarray]  # by convention of cost
    thresholds: np.ndarray


def curve(
    confidence_GxN: np.ndarray,
    correct_GxN: np.ndarray,
    dims: Sequence[int],
    *,
    splits: int = 30,
    learn_rows: int = 10_000,
    seed: int = 0,
    grid: np.ndarray = adaptive.GRID,
) -> Curve:
    """Learns and tests on `splits` random splits.

    Args:
      confidence_GxN: of each dim's answers.
      correct_GxN: whether they are right.
      dims: the G dims, increasing.
      splits: how many; 30 in the paper.
      learn_rows: examples that teach the thresholds, 10,000 of 50,000 in the paper; the others test them.
      seed: of the splits.
      grid: of thresholds.

    Raises:
      ValueError: for sizes that do not fit.
    """
    rows = confidence_GxN.shape[1]
    adaptive.check_dims(dims, len(confidence_GxN))
    if not 1 <= learn_rows < rows:
        raise ValueError(f"learn_rows={learn_rows} must be in 1..{rows - 1}: of {rows} examples some teach, some test")
    if splits < 1:
        raise ValueError(f"splits={splits} must be at least 1")
    grid = adaptive.sorted_grid(grid)
    bins_PxN, gains_PxN = adaptive.bins(confidence_GxN, grid), adaptive.gains(correct_GxN)
    rng, accuracy, thresholds = np.random.default_rng(seed), [], []
    cost = {name: [] for name in adaptive.COSTS}
    for _ in range(splits):
        order = rng.permutation(rows)
        learn, test = order[:learn_rows], order[learn_rows:]
        thresholds.append(adaptive.best_thresholds(bins_PxN[:, learn], gains_PxN[:, learn], grid))
        points = _capped(confidence_GxN[:, test], correct_GxN[:, test], dims, thresholds[-1])
        accuracy.append(points[0])
        for name, values in zip(adaptive.COSTS, points[1:]):
            cost[name].append(values)
    return Curve(
        tuple(dims[1:]), _spread(accuracy), {name: _spread(found) for name, found in cost.items()}, _spread(thresholds)
    )


def _capped(
    confidence_GxN: np.ndarray, correct_GxN: np.ndarray, dims: Sequence[int], thresholds_P: np.ndarray
) -> np.ndarray:
    """(3, G - 1): accuracy and the expected dims by `adaptive.COSTS`, capped at each dim but the first.

    The first confident dim is the same under every cap: it is looked for once, and then cut off.
    """
    free_N = adaptive.levels(confidence_GxN, thresholds_P)
    points = []
    for cap in range(1, len(dims)):
        level_N = np.minimum(free_N, cap)
        right = np.take_along_axis(correct_GxN, level_N[None], axis=0).mean()
        points.append([right, *(adaptive.expected_dim(level_N, dims, cost) for cost in adaptive.COSTS)])
    return np.transpose(points)


def _spread(values: list[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation (of the population, as numpy's) over the first axis, stacked."""
    return np.stack([np.mean(values, axis=0), np.std(values, axis=0)])
