"""Retrieval with prefixes (MRL, section 4.3 and appendices E, F): metrics, cost, adaptive and funnel search.

Adaptive retrieval takes a shortlist of K rows at a small dim D_s and orders it again at a large dim D_r; a funnel does
so in several steps of fewer rows and more dims. Vectors are cut first and then scaled to unit norm, at every dim.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mrl_jax import indexes
from mrl_jax.evals import exact
from mrl_jax.evals.gallery import Gallery, of

PAPER_RELEVANT = 1300  # by which the paper's code divides recall, whatever the gallery
GATHER_BYTES = 2**23

Rerank = Sequence[tuple[int, int]]


class Searchable(Protocol):
    """An index of the gallery's unit prefixes: one of `indexes`, one of faiss, or any object that has this."""

    def search(self, unit_QxM: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and indices (Q, k), nearest first, -1 where fewer were found."""


def metrics(
    neighbor_labels_QxN: np.ndarray, query_labels_Q: np.ndarray, k: int, relevant_Q: np.ndarray | None = None
) -> dict[str, float]:
    """Means over queries of what the first k of ranked neighbours are worth.

    With rel_i = 1 where neighbour i has the query's label, and P(i) = hits among the first i / i:
    `map`: the sum of P(i) rel_i over i <= k, divided by min(k, relevant), the standard definition; `map_paper`: the
    same sum divided by k (MRL, appendix E); `precision`: hits / k; `recall`: hits / relevant; `recall_paper`: hits /
    1300, as the paper's code has it; `top1`: whether the first neighbour hits; `topk`: whether any does. Without
    relevant rows `map` and `recall` are 0. The ranking is taken as it is given: who breaks ties breaks them before.

    Args:
      neighbor_labels_QxN: labels of the neighbours, nearest first, N >= k; -1 for no neighbour.
      query_labels_Q: labels of the queries, not negative.
      k: how many neighbours count.
      relevant_Q: gallery rows with the query's label; None counts them in the N columns, which is right where these are
        a ranking of the whole gallery.

    Raises:
      ValueError: for shapes that do not fit, labels that are no whole numbers, k outside 1..N, or fewer relevant rows
        than hits.
    """
    neighbors_QxN, labels_Q = np.asarray(neighbor_labels_QxN), np.asarray(query_labels_Q)
    if neighbors_QxN.ndim != 2 or labels_Q.shape != neighbors_QxN.shape[:1]:
        raise ValueError(f"labels of neighbours {neighbors_QxN.shape} and of queries {labels_Q.shape}: (Q, N) and (Q,)")
    for name, labels in (("neighbor_labels_QxN", neighbors_QxN), ("query_labels_Q", labels_Q)):
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{name} are {labels.dtype.name}: give integers; float16 tells 2,048 labels apart")
    if not 1 <= k <= neighbors_QxN.shape[1]:
        raise ValueError(f"k={k} is not in 1..{neighbors_QxN.shape[1]}, the neighbours given per query")
    same_QxN = neighbors_QxN == labels_Q[:, None]
    relevant_Q = same_QxN.sum(axis=1) if relevant_Q is None else np.asarray(relevant_Q)
    if relevant_Q.shape != labels_Q.shape:
        raise ValueError(f"relevant_Q has shape {relevant_Q.shape} for {len(labels_Q)} queries")
    hits_Qxk = same_QxN[:, :k]
    ranked_Q = (np.cumsum(hits_Qxk, axis=1) / np.arange(1, k + 1) * hits_Qxk).sum(axis=1)
    count_Q, least = hits_Qxk.sum(axis=1), np.maximum(relevant_Q, 1)
    if not (relevant_Q >= count_Q).all():
        q = int((~(relevant_Q >= count_Q)).argmax())
        raise ValueError(f"relevant_Q[{q}]={relevant_Q[q]} for {count_Q[q]} hits: count the rows of the whole gallery")
    found = {
        "map": np.where(relevant_Q > 0, ranked_Q / np.minimum(k, least), 0),
        "map_paper": ranked_Q / k,
        "precision": count_Q / k,
        "recall": np.where(relevant_Q > 0, count_Q / least, 0),
        "recall_paper": count_Q / PAPER_RELEVANT,
        "top1": hits_Qxk[:, 0],
        "topk": count_Q > 0,
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def mflops_per_query(gallery_size: int, shortlist_dim: int, rerank: Rerank = ()) -> float:
    """Millions of operations a query, one per dim of every vector compared: (N D_s + sum K_j D_j) / 10^6.

    Sources: MRL, section 4.3.1; the figures behind its plots follow this count.
    """
    return (gallery_size * shortlist_dim + sum(k * dim for k, dim in rerank)) / 1e6


def adaptive_search(
    queries_QxD: np.ndarray,
    gallery_NxD: np.ndarray | Gallery,
    shortlist_dim: int,
    rerank: Rerank = (),
    *,
    index: Searchable | None = None,
    k: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows nearest to each query by a shortlist at `shortlist_dim` and its re-ranking, steps in the order given.

    Each step (K, dim) keeps the first K of the order so far and sorts them by distance at `dim`; equal ones stay in
    that order. Without steps it is the plain search at `shortlist_dim`. No argument is changed.

    Args:
      queries_QxD: float queries of any scale.
      gallery_NxD: the gallery, of any scale, perhaps memory-mapped; a `Gallery` keeps norms for the next call.
      shortlist_dim: D_s, of the shortlist.
      rerank: (K, dim) for each step; one is adaptive retrieval, several are a funnel. K never grows.
      index: of the gallery's prefixes at D_s; None searches exactly.
      k: rows wanted.

    Returns:
      Squared L2 distances (Q, k) between unit prefixes of the last step's dim (the index's own without steps),
      ascending, and indices (Q, k) int64; infinity and -1 where the index found fewer rows.

    Raises:
      ValueError: for sizes, dims or steps that do not fit, values not finite, or an index of another gallery or dim.
    """
    gallery = of(gallery_NxD)
    queries_QxD = np.asarray(queries_QxD)
    check_steps(queries_QxD, gallery, shortlist_dim, rerank, k)
    rows_QxK, distances = _shortlist(queries_QxD, gallery, shortlist_dim, rerank[0][0] if rerank else k, index)
    for step, (_, dim) in enumerate(rerank):
        keep = rerank[step + 1][0] if step + 1 < len(rerank) else k
        cosines_QxK = rescore(queries_QxD, gallery, rows_QxK, dim)
        order = np.argsort(-cosines_QxK, axis=1, kind="stable")[:, :keep]
        rows_QxK = np.take_along_axis(rows_QxK, order, axis=1)
        distances = squared_distances(np.take_along_axis(cosines_QxK, order, axis=1))
    return distances, rows_QxK


def check_steps(queries_QxD: np.ndarray, gallery: Gallery, shortlist_dim: int, rerank: Rerank, k: int) -> None:
    """Raises ValueError unless this search can be done."""
    exact.check(queries_QxD, gallery.rows, (shortlist_dim, *(dim for _, dim in rerank)), k)
    lengths = [len(gallery.rows), *(length for length, _ in rerank), k]
    if any(a < b for a, b in zip(lengths, lengths[1:])):
        raise ValueError(
            f"rerank={tuple(rerank)}, k={k}: shortlists must not grow from the gallery's {lengths[0]} rows down to k"
        )


def _shortlist(queries_QxD, gallery, dim, length, index):
    if index is None:
        cosines, rows = exact.search(queries_QxD, gallery.rows, (dim,), length)
        return rows[0].astype(np.int64), squared_distances(cosines[0])
    of_another = getattr(index, "fingerprint", gallery.fingerprint) != gallery.fingerprint
    size = getattr(index, "rows", getattr(index, "ntotal", len(gallery.rows)))
    if of_another or size != len(gallery.rows):
        raise ValueError(
            f"the index, of {size} rows, was built for another gallery than these {len(gallery.rows)}: build it again"
        )
    found = getattr(index, "dim", getattr(index, "d", dim))
    if found != dim:
        raise ValueError(f"shortlist_dim={dim} with an index of dim {found}: give an index of the prefixes of {dim}")
    distances, rows = index.search(indexes.unit(queries_QxD, dim), length)
    return np.asarray(rows, np.int64), np.where(rows < 0, np.inf, distances).astype(np.float32)


def squared_distances(cosines: np.ndarray) -> np.ndarray:
    """Squared L2 distances of unit vectors with these cosines, float32; infinity where the cosine is -infinity."""
    return np.maximum(2 - 2 * cosines, 0).astype(np.float32)


def rescore(queries_QxD: np.ndarray, gallery: Gallery, rows_QxK: np.ndarray, dim: int) -> np.ndarray:
    """Cosines (Q, K) of each query with its own rows of the gallery, on prefixes of `dim`; -infinity for row -1."""
    rows, queries_QxM = gallery.rows, indexes.unit(queries_QxD, dim)
    (inverse_N,) = gallery.inverse_norms(dim)
    in_place = rows.dtype == np.float32 and rows.flags.c_contiguous and rows.shape[1] % dim == 0
    if in_place and indexes.available():
        dots_QxK = indexes.products_of(queries_QxM, rows, rows_QxK, dim)
    else:
        dots_QxK = _gathered(queries_QxM, rows, rows_QxK)
    return np.where(rows_QxK < 0, -np.inf, dots_QxK * inverse_N[rows_QxK])


def _gathered(queries_QxM, gallery_NxD, rows_QxK):
    """Inner products by copies of as many rows at a time as fit GATHER_BYTES."""
    dim, (queries, length) = queries_QxM.shape[1], rows_QxK.shape
    chunk = max(GATHER_BYTES // (4 * dim * length), 1)
    dots_QxK = np.empty((queries, length), np.float32)
    for q in range(0, queries, chunk):
        found = gallery_NxD[:, :dim][rows_QxK[q : q + chunk]].astype(np.float32)
        dots_QxK[q : q + chunk] = np.matmul(found, queries_QxM[q : q + chunk, :, None])[..., 0]
    return dots_QxK
