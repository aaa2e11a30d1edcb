"""Adaptive classification (MRL-AC; MRL, section 4.2.1 and appendix D.1): start at the smallest dim, go up while unsure.

The threshold of each dim is learned on its own, over the pair of it and the next dim: accept where the confidence is
above t, else take the next dim's answer. As a function of t the number of right answers changes only where an example
changes sides, so one histogram of the examples over the grid and its cumulative sum give it at every t, exactly.

Confidences and correctness are taken from the probabilities once; after that the classes play no part.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax.choices import choose

GRID = np.linspace(0.1, 1.0, 100)
COSTS = ("final", "cumulative")
_BLOCK_VALUES = 1 << 22  # probabilities looked at together, so that what is made of them stays in the cache


def _margin(probs_BxC: np.ndarray, top_B: np.ndarray) -> np.ndarray:
    rows, others = np.arange(len(probs_BxC)), probs_BxC.copy()
    others[rows, top_B] = -np.inf
    # One class alone has no rival.
    return probs_BxC[rows, top_B] - np.maximum(others.max(axis=1), 0.0)


def _certainty(probs_BxC: np.ndarray, top_B: np.ndarray) -> np.ndarray:
    del top_B
    terms = probs_BxC * np.log(np.where(probs_BxC > 0, probs_BxC, 1.0))
    return 1.0 + terms.sum(axis=1) / np.log(max(probs_BxC.shape[1], 2))


# Each is in 0..1 and larger where the classifier is surer: the largest probability (the paper's), its lead over the
# second, and one less the entropy in units of its maximum.
CONFIDENCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "max_softmax": lambda probs_BxC, top_B: probs_BxC[np.arange(len(top_B)), top_B],
    "margin": _margin,
    "entropy": _certainty,
}


class Decisions(NamedTuple):
    """What every dim answers for every example, and how sure it is."""

    predicted_GxN: np.ndarray  # int32; of equal probabilities the lower class
    confidence_GxN: np.ndarray  # float64


def decide(probs_GxNxC: np.ndarray, confidence: str = "max_softmax") -> Decisions:
    """The answers and confidences of probabilities.

    Args:
      probs_GxNxC: of each dim, example and class; rows that sum to 1.
      confidence: a key of CONFIDENCES.

    Raises:
      ValueError: for another shape, an unknown confidence, or values that are no probabilities.
    """
    choose("confidence", confidence, CONFIDENCES)
    probs_GxNxC = np.asarray(probs_GxNxC)
    if probs_GxNxC.ndim != 3 or not probs_GxNxC.size:
        raise ValueError(f"probs have shape {probs_GxNxC.shape}; give probabilities of shape (dims, examples, classes)")
    dims, rows, classes = probs_GxNxC.shape
    found = Decisions(np.empty((dims, rows), np.int32), np.empty((dims, rows)))
    size = max(_BLOCK_VALUES // classes, 1)
    for g in range(dims):
        for start in range(0, rows, size):
            block = probs_GxNxC[g, start : start + size]
            top = block.argmax(axis=1)
            _check_probabilities(block, g, start)
            found.predicted_GxN[g, start : start + size] = top
            found.confidence_GxN[g, start : start + size] = CONFIDENCES[confidence](block, top)
    return found


def _check_probabilities(probs_BxC: np.ndarray, g: int, start: int) -> None:
    """Raises ValueError unless no value is negative and every row sums to 1."""
    total_B = probs_BxC.sum(axis=1, dtype=np.result_type(probs_BxC.dtype, np.float32))
    # The tolerance is that of float16. NaN and infinity show in the sum.
    wrong = ~(np.abs(total_B - 1) < 0.01)
    if wrong.any() or probs_BxC.min() < 0:
        n = int((wrong | (probs_BxC < 0).any(axis=1)).argmax())
        raise ValueError(
            f"probs[{g}, {start + n}] sums to {total_B[n]}, its smallest is {probs_BxC[n].min()}: probabilities must "
            "be finite and in 0..1 with the sum 1; give the softmax of the logits"
        )


def learn_thresholds(
    probs_GxNxC: np.ndarray, labels_N: np.ndarray, grid: np.ndarray = GRID, confidence: str = "max_softmax"
) -> np.ndarray:
    """Thresholds (G - 1,) float64: of each dim but the last, above what confidence its answer is taken.

    Each is the smallest value of the grid of the best accuracy of the pair of its dim and the next.

    Args:
      probs_GxNxC: of each dim, from the smallest to the largest, example and class.
      labels_N: the classes.
      grid: of thresholds; strictly above one is confident.
      confidence: a key of CONFIDENCES.

    Raises:
      ValueError: for shapes that do not fit, an empty or non-finite grid, or as `decide`.
    """
    found = decide(probs_GxNxC, confidence)
    grid = sorted_grid(grid)
    gains_PxN = gains(correct(found.predicted_GxN, labels_N))
    return best_thresholds(bins(found.confidence_GxN, grid), gains_PxN, grid)


def correct(predicted_GxN: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """(G, N) booleans: is the answer the label? ValueError unless there is one label per example."""
    labels_N = np.asarray(labels_N)
    if labels_N.shape != predicted_GxN.shape[1:]:
        raise ValueError(f"labels have shape {labels_N.shape} for {predicted_GxN.shape[1]} examples: give one each")
    return predicted_GxN == labels_N[None, :]


def sorted_grid(grid: np.ndarray) -> np.ndarray:
    """The thresholds in increasing order, each once, float64. ValueError if there are none or one is not finite."""
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or not grid.size or not np.isfinite(grid).all():
        raise ValueError(f"grid={grid}: give at least one threshold, all finite, for example np.linspace(0.1, 1, 100)")
    return np.unique(grid)


def bins(confidence_GxN: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(G - 1, N) int: how many thresholds of the increasing grid a confidence is strictly above, but for the last dim.

    Raises:
      ValueError: for fewer than two dims.
    """
    if len(confidence_GxN) < 2:
        raise ValueError(f"{len(confidence_GxN)} dims: a cascade needs at least two")
    return np.searchsorted(grid, confidence_GxN[:-1].astype(np.float64), side="left")


def gains(correct_GxN: np.ndarray) -> np.ndarray:
    """(G - 1, N) in -1, 0, 1: what is gained by taking a dim's answer and not the next one's."""
    return correct_GxN[:-1].astype(np.int8) - correct_GxN[1:].astype(np.int8)


def best_thresholds(bins_PxN: np.ndarray, gains_PxN: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Thresholds (P,) of P pairs of dims, from `bins` and `gains` of some examples and the grid of the bins."""
    pairs, size = len(bins_PxN), len(grid) + 1
    moved = gains_PxN != 0
    pair, _ = np.nonzero(moved)
    histogram = np.bincount(pair * size + bins_PxN[moved], weights=gains_PxN[moved], minlength=pairs * size)
    # Above threshold j are the examples in the bins after j. Sums of ones in float64 are exact.
    above = histogram.reshape(pairs, size)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    return grid[above.argmax(axis=1)]


def levels(confidence_GxN: np.ndarray, thresholds_P: np.ndarray) -> np.ndarray:
    """(N,) int: the index of the first dim that is confident, and of the last dim where none is.

    A cascade that is capped at dim index `cap` ends at the smaller of this and `cap`.

    Raises:
      ValueError: unless there is a threshold for every dim but the last.
    """
    thresholds_P, last = np.asarray(thresholds_P, np.float64), len(confidence_GxN) - 1
    if thresholds_P.shape != (last,):
        raise ValueError(
            f"thresholds of shape {thresholds_P.shape} for {last + 1} dims: give {last}, one for all dims but the last"
        )
    sure = np.concatenate([confidence_GxN[:-1] > thresholds_P[:, None], np.ones_like(confidence_GxN[:1], bool)])
    return sure.argmax(axis=0)


def apply_cascade(
    probs: np.ndarray, thresholds: np.ndarray, dims: Sequence[int], confidence: str = "max_softmax"
) -> tuple[np.ndarray, np.ndarray]:
    """The answers (N,) of the cascade, and the dim (N,) that each was taken at.

    Args:
      probs: (G, N, C), of each dim, from the smallest to the largest, example and class.
      thresholds: (G - 1,), as `learn_thresholds` gives them.
      dims: the G dims.
      confidence: the one that the thresholds were learned by.

    Raises:
      ValueError: for shapes that do not fit, or as `decide`.
    """
    found = decide(probs, confidence)
    check_dims(dims, len(found.predicted_GxN))
    level_N = levels(found.confidence_GxN, thresholds)
    return np.take_along_axis(found.predicted_GxN, level_N[None], axis=0)[0], np.asarray(dims)[level_N]


def check_dims(dims: Sequence[int], count: int) -> None:
    """Raises ValueError unless there are `count` increasing dims."""
    if len(dims) != count or any(a >= b for a, b in zip(dims, dims[1:])):
        raise ValueError(f"dims={tuple(dims)}: give {count} increasing dims, one for each row of probs")


def expected_dim(level_N: np.ndarray, dims: Sequence[int], cost: str = "final") -> float:
    """The mean dims that an answer costs.

    Args:
      level_N: the index of the dim of each answer.
      dims: of the cascade.
      cost: "final" counts the last dim looked at, as the paper does: right where a larger dim is reached by computing
        the rest of the same head. "cumulative" counts every dim looked at on the way: right where each has a head of
        its own.

    Raises:
      ValueError: for another cost.
    """
    choose("cost", cost, COSTS)
    each = np.asarray(dims) if cost == "final" else np.cumsum(dims)
    return float(each[level_N].mean())
