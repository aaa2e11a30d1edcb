"""Exact nearest-neighbour classification on prefixes (MRL, section 4.2.1), all dims in one pass over the gallery.

L2 distance between unit vectors orders as the cosine does. The dot products of the dims are prefix sums of the dot
products of the blocks between them, so that all dims together cost one product at the largest dim.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals.features import FeatureStore, dims_of

QUERY_TILE, GALLERY_TILE = 1024, 8192


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

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `top1@dim`, the fraction of queries whose neighbours vote for their label.

        Raises:
          ValueError: for more neighbours than the gallery has, or for more than one to vote on several labels.
        """
        queries, gallery = store(self._split), store(self._gallery)
        dims = dims_of(store.nesting, self._dims)
        if self._k > len(gallery.label_N):
            raise ValueError(f"evals.knn.k={self._k} is more than the {len(gallery.label_N)} gallery examples")
        if self._k > 1 and gallery.label_N.ndim > 1:
            raise ValueError(f"evals.knn.k={self._k}: with several labels an example there is no vote; set it to 1")
        neighbors_GxQxk = nearest(queries.z_NxD, gallery.z_NxD, dims, self._k)
        for dim, neighbors in zip(dims, neighbors_GxQxk):
            found = gallery.label_N[neighbors]
            right = shares(found[:, 0], queries.label_N) if found.ndim > 2 else vote(found) == queries.label_N
            yield f"top1@{dim}", float(np.mean(right))


def nearest(queries_QxD: np.ndarray, gallery_NxD: np.ndarray, dims: tuple[int, ...], k: int) -> np.ndarray:
    """Indices (G, Q, k) of the k gallery rows of the largest cosine with each query at each dim, nearest first.

    Exact; of equal cosines the lower index comes first. Host memory holds the arrays, the device one tile of each.
    """
    found = []
    for q in range(0, len(queries_QxD), QUERY_TILE):
        tile = queries_QxD[q : q + QUERY_TILE]
        best = jnp.full((len(dims), len(tile), k), -jnp.inf), jnp.zeros((len(dims), len(tile), k), jnp.int32)
        for n in range(0, len(gallery_NxD), GALLERY_TILE):
            best = _update(best, tile, gallery_NxD[n : n + GALLERY_TILE], n, dims=tuple(dims))
        found.append(np.asarray(best[1]))
    return np.concatenate(found, axis=1)


@partial(jax.jit, static_argnames="dims")
def _update(best, queries_QxD, gallery_NxD, offset, *, dims):
    k = best[0].shape[-1]
    scores, indices = [], []
    dots = jnp.zeros((len(queries_QxD), len(gallery_NxD)))
    q_norm, g_norm = jnp.zeros(len(queries_QxD)), jnp.zeros(len(gallery_NxD))
    for g, (start, stop) in enumerate(zip((0, *dims), dims)):
        q, x = (z[:, start:stop].astype(jnp.float32) for z in (queries_QxD, gallery_NxD))
        dots += jnp.matmul(q, x.T, precision=jax.lax.Precision.HIGHEST)
        q_norm, g_norm = q_norm + jnp.sum(q * q, axis=1), g_norm + jnp.sum(x * x, axis=1)
        cosine = dots * _inverse_root(q_norm)[:, None] * _inverse_root(g_norm)[None, :]
        top, at = jax.lax.top_k(cosine, min(k, len(gallery_NxD)))
        # What was found before stands first, so that of equal cosines the lower index wins.
        all_scores = jnp.concatenate([best[0][g], top], axis=1)
        all_indices = jnp.concatenate([best[1][g], at.astype(jnp.int32) + offset], axis=1)
        top, at = jax.lax.top_k(all_scores, k)
        scores.append(top)
        indices.append(jnp.take_along_axis(all_indices, at, axis=1))
    return jnp.stack(scores), jnp.stack(indices)


def _inverse_root(squared):
    return jax.lax.rsqrt(jnp.where(squared > 0, squared, 1.0))


def vote(labels_Qxk: np.ndarray) -> np.ndarray:
    """The most frequent label of each row; of equally frequent ones that of the nearest neighbour."""
    counts = (labels_Qxk[:, :, None] == labels_Qxk[:, None, :]).sum(axis=2)
    return np.take_along_axis(labels_Qxk, counts.argmax(axis=1)[:, None], axis=1)[:, 0]


def shares(labels_QxL: np.ndarray, others_QxL: np.ndarray) -> np.ndarray:
    """Whether the rows have a label in common, (Q,) bool; -1 is no label."""
    same_QxLxL = (labels_QxL[:, :, None] == others_QxL[:, None, :]) & (labels_QxL[:, :, None] >= 0)
    return same_QxLxL.any(axis=(1, 2))
