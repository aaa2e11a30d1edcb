"""What an index costs and what it finds: time to build and to search, bytes, and recall of exact search."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np

from mrl_jax import indexes, timing
from mrl_jax.choices import choose
from mrl_jax.evals import retrieval
from mrl_jax.evals.gallery import Gallery
from mrl_jax.evals.retrieval_study import REPEATS, TIMED_QUERIES, counts
from mrl_jax.evals.settings import recall_of


@dataclasses.dataclass(frozen=True)
class Measured:
    """One index of one dim, searched with one effort.

    Attributes:
      name: the kind, and the effort where the kind has one.
      dim: of the prefixes that it holds.
      scores: `ann_recall`, the share of exact search's neighbours at that dim, and what `retrieval.metrics` gives;
        fractions.
      build_seconds: to train and to fill it.
      ms_per_query: of at most TIMED_QUERIES at once, by as many threads as faiss takes; the median of REPEATS.
      bytes: that it takes in a file.
      operations: features compared for one query, on average.
    """

    name: str
    dim: int
    scores: dict[str, float]
    build_seconds: float
    ms_per_query: float
    bytes: int
    operations: float


def run(
    gallery: Gallery,
    labels_N: np.ndarray,
    queries_QxD: np.ndarray,
    labels_Q: np.ndarray,
    dims: Sequence[int],
    kinds: Sequence[str],
    efforts: Sequence[int],
    k: int,
    seed: int = 0,
) -> Iterator[Measured]:
    """Every kind at every dim at every effort; a kind that cannot hold a prefix is left out there.

    Args:
      gallery: of N rows.
      labels_N: of its rows.
      queries_QxD: of the same features.
      labels_Q: of the queries.
      dims: of prefixes.
      kinds: of `indexes.KINDS`.
      efforts: of those that have one; empty for all that are worth trying with each.
      k: neighbours asked for, at most N.
      seed: of what an index draws.
    """
    relevant_Q = counts(labels_N, labels_Q)
    for dim in dims:
        queries_QxM = indexes.unit(queries_QxD, dim)
        flat = _build("flat", gallery, dim, seed)
        recall = recall_of(flat[0].search(queries_QxM, k)[1])
        for kind in kinds:
            if indexes.refusal(kind, len(gallery.rows), dim):
                continue
            index, seconds = flat if kind == "flat" else _build(kind, gallery, dim, seed)
            for name in _efforts(index, efforts):
                rows_QxK = index.search(queries_QxM, k)[1]
                labels_QxK = np.where(rows_QxK >= 0, labels_N[rows_QxK], -1)
                scores = retrieval.metrics(labels_QxK, labels_Q, k, relevant_Q)
                scores["ann_recall"] = float(recall(rows_QxK).mean())
                yield Measured(name, dim, scores, seconds, *_costs(index, queries_QxM[:TIMED_QUERIES], k))


def _build(kind: str, gallery: Gallery, dim: int, seed: int) -> tuple[indexes.Index, float]:
    """The index, and the seconds that it took."""
    began = time.perf_counter()
    index = indexes.build(kind, gallery.rows, dim, seed=seed)
    return index, time.perf_counter() - began


def _efforts(index: indexes.Index, efforts: Sequence[int]) -> Iterator[str]:
    """Sets each effort in turn; yields the name of the index with it."""
    own = indexes.KINDS[index.kind]
    for effort in (efforts or own.efforts) if own.effort else own.efforts:
        index.set_effort(effort)
        yield f"{index.kind}:{effort}" if own.effort else index.kind


def _costs(index: indexes.Index, queries_QxM: np.ndarray, k: int) -> tuple[float, int, float]:
    """Milliseconds a query, bytes, and features compared for a query."""
    ms, _ = timing.median_ms(lambda: index.search(queries_QxM, k), REPEATS)
    return ms / len(queries_QxM), indexes.size(index), index.dim * index.operations(queries_QxM, k)


def check(kinds: Sequence[str], efforts: Sequence[int], rows: int, dims: Sequence[int]) -> None:
    """Raises ValueError for an unknown kind, one that can hold none of the prefixes, or efforts that nothing takes."""
    for kind in kinds:
        choose("--kinds", kind, indexes.KINDS)
        reasons = [indexes.refusal(kind, rows, dim) for dim in dims]
        if all(reasons):
            raise ValueError(f"--kinds={kind} fits none of the dims {tuple(dims)}: {reasons[-1]}")
    if efforts and not any(indexes.KINDS[kind].effort for kind in kinds):
        raise ValueError(
            f"--efforts={','.join(map(str, efforts))}: none of --kinds={','.join(kinds)} has any; leave it out"
        )
    if any(effort < 1 for effort in efforts):
        raise ValueError(f"--efforts={','.join(map(str, efforts))} must be at least 1")
