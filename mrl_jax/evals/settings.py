"""Settings of a search (which index, shortlist and re-ranking), and what they answer, worked out from one shortlist.

An index that is asked for more rows at the same effort gives the same first rows. So one long shortlist, with the
cosines of its rows at every dim of the grid, tells what every shorter one and every funnel on it would answer.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mrl_jax.evals import retrieval

LENGTHS = (2, 5, 10, 20, 50)  # of shortlists, in multiples of k
FUNNELS = (2, 5)  # how many times shorter the second step of a funnel is


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way to answer: `index` at `dim` with `effort`, then the steps of `rerank`; index "exact" reads the gallery."""

    index: str
    dim: int
    effort: int = 0
    rerank: tuple[tuple[int, int], ...] = ()

    @property
    def name(self) -> str:
        """For people: hnsw@16(64) > 200@2048."""
        effort = f"({self.effort})" if self.effort else ""
        return " > ".join([f"{self.index}@{self.dim}{effort}", *(f"{length}@{dim}" for length, dim in self.rerank)])


def from_json(found: Mapping) -> Setting:
    """The setting that `dataclasses.asdict` wrote."""
    steps = tuple((int(length), int(dim)) for length, dim in found["rerank"])
    return Setting(found["index"], int(found["dim"]), int(found["effort"]), steps)


def lengths(rows: int, k: int) -> list[int]:
    """Lengths of shortlists to try for k of `rows` rows."""
    return [k * factor for factor in LENGTHS if k * factor <= rows] or [k]


def middles(dim: int, full: int) -> list[int]:
    """Dims for a step between: four times `dim`, and again, up to a quarter of the full one."""
    found = []
    while dim * 4 <= full // 4:
        dim *= 4
        found.append(dim)
    return found


def steps(rows: int, dim: int, full: int, k: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Re-rankings to try after a shortlist at `dim`: none, one step, a funnel of two."""
    yield ()
    for length in lengths(rows, k):
        for last in (*middles(dim, full), full):
            if last > dim:
                yield ((length, last),)
        for middle in middles(dim, full):
            for factor in FUNNELS:
                if k <= length // factor:
                    yield ((length, middle), (length // factor, full))


def order_by(cosines_SxK: np.ndarray) -> np.ndarray:
    """The places (S, K) of a shortlist, largest cosine first."""
    return np.argsort(-cosines_SxK, axis=1, kind="stable")


def answer(
    rows_SxK: np.ndarray, orders: Mapping[int, np.ndarray], rerank: Sequence[tuple[int, int]], k: int
) -> np.ndarray:
    """The rows (S, k) that a re-ranking of this shortlist gives, from the order (`order_by`) of its rows at every dim.

    Nothing is sorted: each step marks the places that it keeps, and looks for them in the order of its dim.
    """
    order = np.broadcast_to(np.arange(rows_SxK.shape[1]), rows_SxK.shape)
    there = np.ones(rows_SxK.shape, bool)
    for length, dim in rerank:
        kept = np.zeros(rows_SxK.shape, bool)
        np.put_along_axis(kept, order, _first(there, length), axis=1)
        order = orders[dim]
        there = np.take_along_axis(kept, order, axis=1)
    return np.take_along_axis(rows_SxK, order[_first(there, k)].reshape(-1, k), axis=1)


def _first(there_SxK, count):
    """Only the first `count` marks of each row."""
    return there_SxK & (np.cumsum(there_SxK, axis=1, dtype=np.int32) <= count)


def recall_of(truth_SxK: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The share of the true rows among those found, of each query."""

    def score(rows_SxK: np.ndarray) -> np.ndarray:
        # Every query has numbers of its own: the last of each is no row, so that -1 of the next is none either.
        first_Sx1 = np.arange(len(rows_SxK), dtype=np.int64)[:, None] * (max(truth_SxK.max(), rows_SxK.max()) + 2)
        return np.isin(truth_SxK + first_Sx1, rows_SxK + first_Sx1).mean(axis=1)

    return score


def precision_of(gallery_labels_N: np.ndarray, labels_S: np.ndarray, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """The average precision at k (divided by k) of each query, by labels."""

    def score(rows_SxK: np.ndarray) -> np.ndarray:
        hits = (gallery_labels_N[rows_SxK] == labels_S[:, None]) & (rows_SxK >= 0)
        return (np.cumsum(hits, axis=1) / np.arange(1, k + 1) * hits).sum(axis=1) / k

    return score


def cost(setting: Setting, compared: float, lists_dim: int) -> float:
    """MFLOPs a query: the vectors that the index compares, and the re-ranking (as `retrieval.mflops_per_query`)."""
    return compared * lists_dim / 1e6 + retrieval.mflops_per_query(0, 0, setting.rerank)
