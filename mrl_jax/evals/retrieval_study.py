"""Everything the paper measures of retrieval (MRL, section 4.3, tables 8 to 14), on features of any model."""

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_jax import timing
from mrl_jax.evals import exact, retrieval
from mrl_jax.evals.gallery import Gallery, of

SHORTLIST = 200
# First dim of a funnel -> dims of its five steps; the last one is the full dim (tables 13 and 14).
FUNNEL_FACTORS = (2, 4, 8, 16)
FUNNEL_LENGTHS = ((800, 400, 200, 50, 10), (400, 200, 50, 25, 10), (200, 100, 50, 25, 10))
FUNNEL_DIMS = (8, 16, 32, 64)
TIMED_QUERIES, REPEATS = 1024, 3


def run(
    gallery: Gallery | np.ndarray,
    gallery_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    dims: Sequence[int],
    *,
    ks: Sequence[int] = (10, 25, 50, 100),
    shortlist: int = SHORTLIST,
    adaptive: bool = True,
    funnel: bool = True,
) -> Iterator[tuple[str, float]]:
    """Metrics by exact search at every dim, of adaptive retrieval for every pair of dims, and of the paper's funnels.

    Args:
      gallery: (N, D) features.
      gallery_labels: (N,) of it.
      queries: (Q, D) features.
      query_labels: (Q,) of them.
      dims: of prefixes, trained or not.
      ks: depths of the metrics, at most N; adaptive and funnel retrieval are measured at the first one.
      shortlist: K of adaptive retrieval.
      adaptive: whether to run the pairs D_s <= D_r of `dims`.
      funnel: whether to run the funnels that fit the gallery and the dims.

    Yields:
      `map@10@64` (each metric of `retrieval.metrics`, its k, the dim) and `mflops@64`; `adaptive/map_paper@10/8-64` and
      `adaptive/mflops/8-64` (D_s, D_r); `funnel/map_paper@10/8:800-400-200-50-10` and its `mflops`. Fractions.

    Raises:
      ValueError: for labels that do not fit, several labels a row, or what `exact.search` refuses.
    """
    gallery, queries, dims = of(gallery), np.asarray(queries), sorted(set(dims))
    check_labels(gallery.shape[0], gallery_labels, len(queries), query_labels)
    gallery_labels, query_labels = np.asarray(gallery_labels), np.asarray(query_labels)
    relevant = counts(gallery_labels, query_labels)

    def score(rows, k):
        labels = np.where(rows >= 0, gallery_labels[rows], -1)
        return retrieval.metrics(labels, query_labels, k, relevant)

    longest = max(max(ks), shortlist) if adaptive else max(ks)
    longest = min(longest, gallery.shape[0]) if max(ks) <= gallery.shape[0] else longest
    found = dict(zip(dims, exact.search(queries, gallery.rows, tuple(dims), longest)[1]))
    for dim, rows in found.items():
        for k in ks:
            yield from ((f"{name}@{k}@{dim}", value) for name, value in score(rows, k).items())
        yield f"mflops@{dim}", retrieval.mflops_per_query(gallery.shape[0], dim)
    if adaptive:
        yield from _adaptive(gallery, queries, found, min(shortlist, longest), ks[0], score)
    if funnel:
        yield from _funnels(gallery, queries, dims, ks[0], score)


def milliseconds(
    gallery: Gallery | np.ndarray, queries: np.ndarray, dims: Sequence[int], k: int
) -> Iterator[tuple[str, float]]:
    """Yields `ms_per_query@64`: wall clock of an exact search of those features alone, for k neighbours of the first
    TIMED_QUERIES queries (Q, D) at once; the median of REPEATS on this machine, once it is warm.
    """
    rows, timed = of(gallery).rows, np.asarray(queries)[:TIMED_QUERIES]
    for dim in dims:
        own = timed[:, :dim], rows[:, :dim], (dim,), k
        yield f"ms_per_query@{dim}", timing.median_ms(lambda own=own: exact.search(*own), REPEATS)[0] / len(timed)


def check_labels(rows: int, labels_N: np.ndarray, queries: int, labels_Q: np.ndarray) -> None:
    """Raises ValueError unless there is one label, not negative, for each row and each query."""
    for name, labels, count in (("gallery", labels_N, rows), ("query", labels_Q, queries)):
        labels = np.asarray(labels)
        if labels.shape != (count,):
            raise ValueError(f"{name} labels have shape {labels.shape} for {count} rows: one label a row is needed")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError(f"{name} labels must be integers that are not negative, not {labels.dtype}")


def check_lengths(rows: int, ks: Sequence[int], shortlist: int, shortlists: Sequence[int] = ()) -> None:
    """Raises ValueError unless a gallery of `rows` has rankings of these depths, and shortlists of these lengths."""
    if not ks or not all(1 <= k <= rows for k in ks):
        raise ValueError(f"--ks={','.join(map(str, ks))}: give depths in 1..{rows}, the rows of the training split")
    if shortlist < ks[0]:
        raise ValueError(
            f"--shortlist={shortlist} must be at least {ks[0]}, the first of --ks: re-ranking is measured there"
        )
    if wrong := [length for length in shortlists if not ks[0] <= length <= rows]:
        raise ValueError(
            f"--shortlists={','.join(map(str, shortlists))}: {wrong} are not in {ks[0]}..{rows}, from the first of "
            "--ks to the rows of the training split"
        )


def counts(labels_N: np.ndarray, labels_Q: np.ndarray) -> np.ndarray:
    """How many gallery rows have the label of each query, (Q,)."""
    return np.bincount(labels_N, minlength=int(labels_Q.max()) + 1)[labels_Q]


def _adaptive(gallery, queries, found, length, k, score):
    """Re-ranks the shortlists that the exact search gave, at every larger dim."""
    for dim, rows in found.items():
        rows = rows[:, :length].astype(np.int64)
        for last in [m for m in found if m >= dim]:
            cosines = retrieval.rescore(queries, gallery, rows, last)
            order = np.argsort(-cosines, axis=1, kind="stable")
            values = score(np.take_along_axis(rows, order, axis=1), k)
            for name in ("map", "map_paper", "top1"):
                yield f"adaptive/{name}@{k}/{dim}-{last}", values[name]
            yield f"adaptive/mflops/{dim}-{last}", retrieval.mflops_per_query(gallery.shape[0], dim, ((length, last),))


def _funnels(gallery, queries, dims, k, score):
    full = gallery.shape[1]
    for dim in [m for m in FUNNEL_DIMS if m in dims and m * FUNNEL_FACTORS[-1] < full]:
        for lengths in [n for n in FUNNEL_LENGTHS if n[0] <= gallery.shape[0] and n[-1] >= k]:
            rerank = tuple(zip(lengths, (*(dim * factor for factor in FUNNEL_FACTORS), full)))
            values = score(retrieval.adaptive_search(queries, gallery, dim, rerank, k=k)[1], k)
            name = f"{dim}:{'-'.join(map(str, lengths))}"
            yield from ((f"funnel/{m}@{k}/{name}", values[m]) for m in ("map", "map_paper", "top1"))
            yield f"funnel/mflops/{name}", retrieval.mflops_per_query(gallery.shape[0], dim, rerank)
