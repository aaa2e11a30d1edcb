"""Which gallery items are right for a query, and which are as if they were not there; a tile of queries at a time."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np


class Matching(Protocol):
    """What matches what, and of how many queries and gallery items."""

    shape: tuple[int, int]

    def tile(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Relevant (B, N) and valid (B, N) booleans of some queries; relevant items may be invalid."""

    def take(self, rows: np.ndarray) -> "Matching":
        """That of some queries alone, in this order."""


@dataclasses.dataclass(frozen=True)
class Identities:
    """Items of the query's identity are relevant; junk, and items of its identity and camera, are not valid.

    Attributes:
      query_ids: identities (Q,), or several each (Q, L), filled up with -1; any in common is enough.
      gallery_ids: (N,) or (N, L).
      query_cameras: (Q,), or None for no rule about cameras.
      gallery_cameras: (N,), or None.
      junk: (N,) booleans, items that count for no query; None: none.
    """

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray | None = None
    gallery_cameras: np.ndarray | None = None
    junk: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Queries, gallery items."""
        return len(self.query_ids), len(self.gallery_ids)

    def tile(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """See `Matching`."""
        relevant = _share(self.query_ids[rows], self.gallery_ids)
        valid = np.ones(relevant.shape, bool) if self.junk is None else np.broadcast_to(~self.junk, relevant.shape)
        if self.query_cameras is not None:
            same = np.asarray(self.query_cameras)[rows, None] == np.asarray(self.gallery_cameras)[None, :]
            valid = valid & ~(relevant & same)
        return relevant, valid

    def take(self, rows: np.ndarray) -> "Identities":
        """See `Matching`."""
        cameras = None if self.query_cameras is None else np.asarray(self.query_cameras)[rows]
        return dataclasses.replace(self, query_ids=self.query_ids[rows], query_cameras=cameras)


@dataclasses.dataclass(frozen=True)
class Lists:
    """By query the gallery rows that are relevant, and those that are not valid, as Oxford and Paris have them.

    Attributes:
      relevant: rows of each query.
      ignored: rows of each query.
      gallery: how many items there are.
    """

    relevant: Sequence[np.ndarray]
    ignored: Sequence[np.ndarray]
    gallery: int

    @property
    def shape(self) -> tuple[int, int]:
        """Queries, gallery items."""
        return len(self.relevant), self.gallery

    def tile(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """See `Matching`."""
        chosen = range(*rows.indices(len(self.relevant)))
        relevant, valid = np.zeros((len(chosen), self.gallery), bool), np.ones((len(chosen), self.gallery), bool)
        for at, query in enumerate(chosen):
            relevant[at, self.relevant[query]] = True
            valid[at, self.ignored[query]] = False
        return relevant, valid

    def take(self, rows: np.ndarray) -> "Lists":
        """See `Matching`."""
        return Lists([self.relevant[row] for row in rows], [self.ignored[row] for row in rows], self.gallery)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """By query the gallery rows that it is compared with, those of its own identity and the others; no row else counts.

    The protocol of verification, one to one, as LFW and IJB-C have it.

    Attributes:
      same: rows of each query.
      others: rows of each query.
      gallery: how many items there are.
    """

    same: Sequence[np.ndarray]
    others: Sequence[np.ndarray]
    gallery: int

    @property
    def shape(self) -> tuple[int, int]:
        """Queries, gallery items."""
        return len(self.same), self.gallery

    def tile(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """See `Matching`."""
        chosen = range(*rows.indices(len(self.same)))
        relevant, valid = (np.zeros((len(chosen), self.gallery), bool) for _ in range(2))
        for at, query in enumerate(chosen):
            relevant[at, self.same[query]] = True
            valid[at, self.same[query]] = valid[at, self.others[query]] = True
        return relevant, valid

    def take(self, rows: np.ndarray) -> "Pairs":
        """See `Matching`."""
        return Pairs([self.same[row] for row in rows], [self.others[row] for row in rows], self.gallery)


def _share(query_ids: np.ndarray, gallery_ids: np.ndarray) -> np.ndarray:
    if query_ids.ndim == gallery_ids.ndim == 1:
        return query_ids[:, None] == gallery_ids[None, :]
    several_Q, several_N = (ids.reshape(len(ids), -1) for ids in (query_ids, gallery_ids))
    found = np.zeros((len(query_ids), len(gallery_ids)), bool)
    for a in several_Q.T:
        for b in several_N.T:
            found |= (a[:, None] == b[None, :]) & (a >= 0)[:, None]
    return found


def known(matching: Matching, tile: int) -> np.ndarray:
    """Which queries (Q,) have a valid relevant item; `tile` scores are alive at once."""
    return np.concatenate([(relevant & valid).any(axis=1) for relevant, valid in _tiles(matching, tile)])


def impostors(matching: Matching, tile: int) -> bool:
    """Whether any valid item is not relevant to a query; `tile` scores are alive at once."""
    return any((~relevant & valid).any() for relevant, valid in _tiles(matching, tile))


def _tiles(matching: Matching, tile: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    queries, gallery = matching.shape
    rows = max(tile // gallery, 1)
    return (matching.tile(slice(first, first + rows)) for first in range(0, queries, rows))


def pool_templates(z_NxD: np.ndarray, template_N: np.ndarray, media_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces pooled to templates as in IJB-C: the mean of each medium (picture, video), then their sum.

    Returns:
      The features of the templates (T, D) float64, in the order of their numbers, and the first row of each (T,).
    """
    (template_M, _), medium_of_row = np.unique(np.stack([template_N, media_N]), axis=1, return_inverse=True)
    medium_of_row = medium_of_row.reshape(-1)
    means = np.zeros((len(template_M), z_NxD.shape[1]))
    np.add.at(means, medium_of_row, z_NxD)
    means /= np.bincount(medium_of_row)[:, None]
    numbers, first = np.unique(template_N, return_index=True)
    pooled = np.zeros((len(numbers), z_NxD.shape[1]))
    np.add.at(pooled, np.searchsorted(numbers, template_M), means)
    return pooled, first
