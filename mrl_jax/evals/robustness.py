"""Accuracy and retrieval where the images have changed and the classes have not, at every dim.

The trained heads classify, and the nearest row of a gallery that has not changed; its DEPTH nearest are the retrieval.

A set that shows only some of the classes is classified among those (MRL, section 5: ImageNet-A and -R have 200 of the
1,000). Which they are is told by the names of the classes on both sides, never by their numbers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from mrl_jax.evals.classification import ranks
from mrl_jax.evals.exact import search
from mrl_jax.evals.retrieval import metrics
from mrl_jax.evals.retrieval_study import counts

DEPTH = 10  # of the retrieval metrics
CLEAN = "clean"  # the set that has not changed
RETRIEVAL = f"map@{DEPTH}", f"precision@{DEPTH}"


class Accuracies(NamedTuple):
    """Fractions of a set, one per dim."""

    top1: list[float]
    top5: list[float]
    nearest: list[float]
    map: list[float]
    precision: list[float]


def match_classes(
    names: Sequence[str] | None, count: int, trained_names: Sequence[str] | None, trained_count: int, what: str
) -> np.ndarray:
    """The training class of every class of a set, (count,) int; -1 for one that training does not have.

    Args:
      names: of the set's classes, or None.
      count: of the set's classes.
      trained_names: of the classes of training, or None.
      trained_count: of the classes of training.
      what: the set, for the message.

    Raises:
      ValueError: if no names tell which class is which.
    """
    if names is None and trained_names is None and count == trained_count:
        return np.arange(count)
    if names is None or trained_names is None:
        raise ValueError(
            f"{what} has {count} classes {'with' if names else 'without'} names, training {trained_count} "
            f"{'with' if trained_names else 'without'}: names on both sides are needed to tell which is which; prepare "
            "both with --labels"
        )
    known = {name: number for number, name in enumerate(trained_names)}
    return np.array([known.get(name, -1) for name in names])


def trained_labels(labels_N: np.ndarray, classes: np.ndarray, names: Sequence[str] | None, what: str) -> np.ndarray:
    """The set's labels as classes of training.

    Raises:
      ValueError: if an example is of a class that training does not have, or of several.
    """
    if labels_N.ndim > 1:
        raise ValueError(f"{what} has several labels an example: robustness is measured with one")
    found = classes[labels_N]
    if (found < 0).any():
        strange = sorted({names[label] for label in np.unique(labels_N[found < 0])})
        raise ValueError(
            f"{what} has {len(strange)} classes that training does not have, such as {strange[:3]}: the names of its "
            "classes must be those of training; leave the others out when preparing it"
        )
    return found


def accuracies(
    queries_NxD: np.ndarray,
    labels_N: np.ndarray,
    gallery_MxD: np.ndarray,
    gallery_labels_M: np.ndarray,
    logits: Callable[[jax.Array, int], jax.Array],
    dims: Sequence[int],
) -> Accuracies:
    """Accuracy of the heads among the classes that occur in the set, and what the gallery's nearest rows are worth.

    Args:
      queries_NxD: features of the set.
      labels_N: classes of training.
      gallery_MxD: features of images that have not changed; all its classes count, as in a database.
      gallery_labels_M: their classes.
      logits: `(z_BxD, dim) -> (B, C)`.
      dims: increasing.

    Raises:
      ValueError: for a gallery of fewer than DEPTH rows, or what `exact.search` refuses.
    """
    shown = np.unique(labels_N)
    position = np.full(int(shown[-1]) + 1, -1)
    position[shown] = np.arange(len(shown))
    top1, top5 = [], []
    for dim in dims:
        rank = ranks(queries_NxD, position[labels_N], lambda z, dim=dim: logits(z, dim)[:, shown])
        top1.append(float(np.mean(rank < 1)))
        top5.append(float(np.mean(rank < 5)))
    found = gallery_labels_M[search(queries_NxD, gallery_MxD, tuple(dims), DEPTH)[1]]
    relevant_N = counts(gallery_labels_M, labels_N)
    ranked = [metrics(found_NxK, labels_N, DEPTH, relevant_N) for found_NxK in found]
    return Accuracies(top1, top5, *([each[name] for each in ranked] for name in ("top1", "map", "precision")))


def named(name: str, found: Accuracies, dims: Sequence[int]) -> dict[str, float]:
    """Values by `<name>_<metric>@dim`."""
    curves = {"top1": found.top1, "top5": found.top5, "knn_top1": found.nearest}
    curves |= {RETRIEVAL[0]: found.map, RETRIEVAL[1]: found.precision}
    return {f"{name}_{metric}@{dim}": v for metric, curve in curves.items() for dim, v in zip(dims, curve)}


def mean_corruption_error(error_KxS: np.ndarray, baseline_KxS: np.ndarray | None = None) -> float:
    """The error averaged over severities, then over kinds (Hendrycks and Dietterich, section 4.3).

    With the errors of a baseline each kind counts in units of it: 1 is as bad as the baseline.

    Raises:
      ValueError: if the baseline makes no error at some kind, or has other kinds.
    """
    own = np.asarray(error_KxS, np.float64).mean(axis=1)
    if baseline_KxS is None:
        return float(own.mean())
    other = np.asarray(baseline_KxS, np.float64).mean(axis=1)
    if other.shape != own.shape or not (other > 0).all():
        raise ValueError(f"baseline errors {other.tolist()} for {len(own)} kinds: one above 0 each is needed")
    return float((own / other).mean())
