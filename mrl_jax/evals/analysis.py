"""What the answers of all dims say together (MRL, section 5 and appendix J): oracle, vote, disagreement, class trends.

Everything here starts from answers (G, N), one row for each dim from the smallest to the largest, and labels (N,).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TRENDS = ("rising", "rise then dip", "dip then rise", "falling", "flat", "other")


class Oracle(NamedTuple):
    """What routing every example to the smallest dim that is right would give."""

    first_correct_G: np.ndarray  # share of examples of which each dim is the first to be right
    never: float  # share that no dim gets right
    accuracy: float
    expected_dim: float  # an example that is never right counts as the full dim


def oracle(correct_GxN: np.ndarray, dims: Sequence[int]) -> Oracle:
    """The oracle of correctness (G, N) at the dims; ValueError unless there is a dim for every row."""
    if len(dims) != len(correct_GxN):
        raise ValueError(f"{len(correct_GxN)} rows of answers for dims={tuple(dims)}: give one dim for each row")
    ever_N = correct_GxN.any(axis=0)
    first_N = np.where(ever_N, correct_GxN.argmax(axis=0), len(dims) - 1)
    share_G = np.bincount(first_N[ever_N], minlength=len(dims)) / len(ever_N)
    return Oracle(share_G, float(np.mean(~ever_N)), float(np.mean(ever_N)), float(np.asarray(dims)[first_N].mean()))


def majority_vote(predicted_GxN: np.ndarray) -> np.ndarray:
    """(N,) the answer that most dims give; of equally frequent ones that of the largest dim."""
    votes_GxN = (predicted_GxN[:, None] == predicted_GxN[None]).sum(axis=1)
    last_N = len(votes_GxN) - 1 - votes_GxN[::-1].argmax(axis=0)
    return np.take_along_axis(predicted_GxN, last_N[None], axis=0)[0]


def disagreement(predicted_GxN: np.ndarray) -> np.ndarray:
    """(G, G) share of examples on which two dims give different answers."""
    return np.stack([(predicted_GxN != row[None]).mean(axis=1) for row in predicted_GxN])


def only_right(correct_GxN: np.ndarray) -> np.ndarray:
    """(G, G) share of examples that the dim of the row gets right and that of the column does not."""
    right = correct_GxN.astype(np.float64)
    return right @ (1 - right).T / correct_GxN.shape[1]


def class_accuracy(correct_GxN: np.ndarray, labels_N: np.ndarray, classes: int) -> np.ndarray:
    """(G, C) accuracy on the examples of each class; NaN for a class without any."""
    counts_C = np.bincount(labels_N, minlength=classes)
    right_GxC = np.stack([np.bincount(labels_N, weights=row, minlength=classes) for row in correct_GxN])
    return np.where(counts_C > 0, right_GxC / np.maximum(counts_C, 1), np.nan)


def trends(accuracy_GxC: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """(C,) the place in TRENDS of each class's accuracy over the dims, -1 for a class without examples.

    Steps from one dim to the next of at most `tolerance` either way count as none. "rising" has steps up only, and
    "rise then dip" at least one up, then at least one down and no more up. The paper counts its classes by the first
    three of these; how large a step it takes for one is not stated.

    Raises:
      ValueError: if the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} must not be negative: it is a difference of accuracies, such as 0.02")
    # Differences of counts over the same number of examples: what is equal may differ in the last digit.
    steps_PxC = np.diff(np.nan_to_num(accuracy_GxC), axis=0)
    sign_PxC = np.where(np.abs(steps_PxC) <= tolerance + 1e-9, 0, np.sign(steps_PxC)).astype(int)
    up, down = (sign_PxC > 0).any(axis=0), (sign_PxC < 0).any(axis=0)
    up_after_down = ((sign_PxC > 0) & (np.cumsum(sign_PxC < 0, axis=0) > 0)).any(axis=0)
    down_after_up = ((sign_PxC < 0) & (np.cumsum(sign_PxC > 0, axis=0) > 0)).any(axis=0)
    cases = [up & ~down, up & down & ~up_after_down, up & down & ~down_after_up, down & ~up, ~up & ~down]
    found = np.select(cases, range(len(cases)), TRENDS.index("other"))
    return np.where(np.isnan(accuracy_GxC).any(axis=0), -1, found)


def gap_to_line(dims: Sequence[int], values_G: np.ndarray, trained: Sequence[int]) -> np.ndarray:
    """(G,) how far each dim lies above the line, over the logarithm of the dim, between its trained neighbours.

    Zero at trained dims and NaN below the first one: MRL (section 4.2, table 5) says that the dims between lie on it.

    Raises:
      ValueError: if no dim of `dims` was trained.
    """
    known = [(np.log2(m), v) for m, v in zip(dims, values_G) if m in trained]
    if not known:
        raise ValueError(f"none of dims={tuple(dims)} was trained (trained: {tuple(trained)}): add some of those")
    return np.asarray(values_G) - np.interp(np.log2(dims), *zip(*known), left=np.nan, right=np.nan)
