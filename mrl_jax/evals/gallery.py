"""A gallery that is searched more than once: its rows as they lie, and the norms of their prefixes, computed once."""

import concurrent.futures
import functools
import os

import numpy as np

from mrl_jax import indexes

BLOCK_ROWS = 65536


class Gallery:
    """Rows (N, D) of floats, in memory or memory-mapped, never changed."""

    def __init__(self, rows_NxD: np.ndarray):
        """Takes the array as it is.

        Raises:
          ValueError: unless it is a matrix with at least one element.
        """
        if rows_NxD.ndim != 2 or not rows_NxD.size:
            raise ValueError(f"gallery has shape {rows_NxD.shape}: it must be (N, D) and not empty")
        self.rows = rows_NxD
        self._inverse: dict[int, np.ndarray] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.rows.shape

    @functools.cached_property
    def fingerprint(self) -> str:
        """As `indexes.fingerprint`."""
        return indexes.fingerprint(self.rows)

    def inverse_norms(self, *dims: int) -> tuple[np.ndarray, ...]:
        """For each dim the inverse L2 norms (N,) of the prefixes, float32; 0 where a prefix is zero.

        Raises:
          ValueError: where a row is not finite, with its number.
        """
        if missing := sorted(set(dims) - set(self._inverse)):
            squared = np.empty((len(missing), len(self.rows)), np.float32)
            for first in range(0, len(self.rows), BLOCK_ROWS):
                block = np.asarray(self.rows[first : first + BLOCK_ROWS, : missing[-1]], np.float32)
                parts = [squared_norms(block[:, a:b]) for a, b in zip((0, *missing), missing)]
                squared[:, first : first + BLOCK_ROWS] = np.cumsum(parts, axis=0)
            check_finite("gallery", squared[-1])
            for dim, row in zip(missing, squared):
                self._inverse[dim] = np.where(row > 0, 1 / np.sqrt(np.where(row > 0, row, 1)), 0).astype(np.float32)
        return tuple(self._inverse[dim] for dim in dims)


def squared_norms(z_NxD: np.ndarray) -> np.ndarray:
    """Squared L2 norms (N,), by as many threads as there are cores: for many rows it is memory that limits."""
    step = max(-(-len(z_NxD) // (os.cpu_count() or 1)), 1024)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        parts = pool.map(lambda first: np.vecdot(*2 * [z_NxD[first : first + step]]), range(0, len(z_NxD), step))
        return np.concatenate(list(parts))


def check_finite(name: str, sums_N: np.ndarray, first: int = 0) -> None:
    """Raises ValueError naming the first row whose sum is NaN or infinite; `first` is the number of the first one."""
    wrong = np.flatnonzero(~np.isfinite(sums_N))
    if len(wrong):
        raise ValueError(
            f"{name}: {len(wrong)} rows are not finite, the first is row {first + wrong[0]}: embed them again"
        )


def of(gallery: "Gallery | np.ndarray") -> Gallery:
    """The gallery itself, or a new one around an array."""
    return gallery if isinstance(gallery, Gallery) else Gallery(np.asarray(gallery))
