"""Long tails: training sets whose classes shrink exponentially, and accuracy by how often a class was seen."""

import numpy as np

# Classes of more than the last number of training rows are the head, of fewer than the first one the tail.
EDGES = (20, 100)
GROUPS = ("head", "medium", "tail")


def imbalanced(labels_N: np.ndarray, ratio: float, seed: int = 0) -> np.ndarray:
    """The rows, increasing, of a subset whose classes have from n to n / ratio rows, n those of the largest class.

    Of C classes the c-th largest keeps n * ratio^(-c / (C - 1)) rows, rounded, or all it has. Among classes of equal
    size, which is large is drawn, and so are the rows.

    Args:
      labels_N: the class of every row.
      ratio: rows of the largest class over those of the smallest; 1 keeps what is there.
      seed: of the draw.

    Raises:
      ValueError: if the ratio is below 1, or leaves the smallest class without rows.
    """
    labels_N = np.asarray(labels_N)
    classes, count_C = np.unique(labels_N, return_counts=True)
    if not 1 <= ratio <= count_C.max():
        raise ValueError(
            f"imbalance={ratio} must be in 1..{count_C.max()}, the rows of the largest class: every class keeps one"
        )
    rng = np.random.default_rng(seed)
    rank = np.empty(len(classes), int)
    rank[np.lexsort((rng.random(len(classes)), -count_C))] = np.arange(len(classes))
    wanted_C = np.round(count_C.max() * ratio ** (-rank / max(len(classes) - 1, 1))).astype(int)
    kept_C = np.minimum(np.maximum(wanted_C, 1), count_C) if ratio > 1 else count_C
    order = np.lexsort((rng.random(len(labels_N)), labels_N))
    place_N = np.arange(len(labels_N)) - np.repeat(np.cumsum(count_C) - count_C, count_C)
    return np.sort(order[place_N < np.repeat(kept_C, count_C)])


def group_of(count_C: np.ndarray, edges: tuple[int, int] = EDGES) -> np.ndarray:
    """(C,) the place in GROUPS of classes with so many training rows.

    Raises:
      ValueError: if the edges do not increase.
    """
    low, high = edges
    if not 0 < low <= high:
        raise ValueError(f"edges={edges}: give two increasing numbers of rows, for example 20,100")
    return np.where(count_C > high, 0, np.where(count_C < low, 2, 1))


def accuracy_by_group(
    predicted_GxN: np.ndarray, labels_N: np.ndarray, count_C: np.ndarray, edges: tuple[int, int] = EDGES
) -> dict[str, np.ndarray]:
    """Accuracy (G,) over all rows as `all`, and over those of each group that has rows by its name.

    Args:
      predicted_GxN: answers of every dim.
      labels_N: the classes.
      count_C: training rows of every class.
      edges: see `group_of`.
    """
    right_GxN = predicted_GxN == labels_N[None]
    group_N = group_of(count_C, edges)[labels_N]
    found = {"all": right_GxN.mean(axis=1)}
    for place, name in enumerate(GROUPS):
        if (group_N == place).any():
            found[name] = right_GxN[:, group_N == place].mean(axis=1)
    return found
