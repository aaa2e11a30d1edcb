"""Nearest-neighbour classification on prefixes (MRL, section 4.2.1)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mrl_jax.evals import exact, needs
from mrl_jax.evals.features import FeatureStore, dims_of


class NearestNeighbors:
    """Accuracy of the k nearest gallery examples' majority label, on unit-normalised prefixes.

    Where examples have several labels, k is 1, and the neighbour is right if it shares one.
    """

    def __init__(self, *, split: str = "test", gallery: str = "train", k: int = 1, dims: tuple[int, ...] = ()):
        """Queries from `split`, gallery from `gallery`; by default every trained dim and one in between each two.

        Raises:
          ValueError: if k < 1.
        """
        if k < 1:
            raise ValueError(f"evals.knn.k={k}: at least one neighbour is needed")
        self._split, self._gallery, self._k, self._dims = split, gallery, k, tuple(dims)

    def check(self, what: str, kind: str, split: Callable[[str], Any]) -> None:
        """Raises ValueError unless both splits have classes, and the gallery as many neighbours."""
        queries, gallery = split(self._split), split(self._gallery)
        needs.classes(what, queries, gallery)
        self._check_k(len(gallery.records), gallery.max_labels > 1)

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `top1@dim`, the fraction of queries whose neighbours vote for their label.

        Raises:
          ValueError: for more neighbours than the gallery has, or for more than one to vote on several labels.
        """
        queries, gallery = store(self._split), store(self._gallery)
        dims = dims_of(store.nesting, self._dims)
        self._check_k(len(gallery.label_N), gallery.label_N.ndim > 1)
        _, neighbors_GxQxk = exact.search(queries.z_NxD, gallery.z_NxD, dims, self._k)
        for dim, neighbors in zip(dims, neighbors_GxQxk):
            found = gallery.label_N[neighbors]
            right = shares(found[:, 0], queries.label_N) if found.ndim > 2 else vote(found) == queries.label_N
            yield f"top1@{dim}", float(np.mean(right))

    def _check_k(self, examples: int, several_labels: bool) -> None:
        if self._k > examples:
            raise ValueError(f"evals.knn.k={self._k} is more than the {examples} gallery examples")
        if self._k > 1 and several_labels:
            raise ValueError(f"evals.knn.k={self._k}: with several labels an example there is no vote; set it to 1")


def vote(labels_Qxk: np.ndarray) -> np.ndarray:
    """The most frequent label of each row; of equally frequent ones that of the nearest neighbour."""
    counts = (labels_Qxk[:, :, None] == labels_Qxk[:, None, :]).sum(axis=2)
    return np.take_along_axis(labels_Qxk, counts.argmax(axis=1)[:, None], axis=1)[:, 0]


def shares(labels_QxL: np.ndarray, others_QxL: np.ndarray) -> np.ndarray:
    """Whether the rows have a label in common, (Q,) bool; -1 is no label."""
    same_QxLxL = (labels_QxL[:, :, None] == others_QxL[:, None, :]) & (labels_QxL[:, :, None] >= 0)
    return same_QxLxL.any(axis=(1, 2))
