"""Rows of unequal length in two arrays: hundreds of millions of paths fit in memory, and processes share them."""

import array
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_ROWS = 1 << 18  # copied at a time


class Ragged(NamedTuple):
    """Row i is values[ends[i - 1] : ends[i]]."""

    values: np.ndarray
    ends: np.ndarray  # int64

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ends)

    def row(self, index: int) -> np.ndarray:
        """One row."""
        return self.values[self.ends[index - 1] if index else 0 : self.ends[index]]

    def lengths(self) -> np.ndarray:
        """The length of each row."""
        return np.diff(self.ends, prepend=0)

    def take(self, rows: np.ndarray) -> "Ragged":
        """The given rows, in the given order."""
        lengths = self.lengths()
        starts, ends = (self.ends - lengths)[rows], np.cumsum(lengths[rows], dtype=np.int64)
        values = np.empty(ends[-1] if len(rows) else 0, self.values.dtype)
        for first in range(0, len(rows), _ROWS):
            part = slice(first, first + _ROWS)
            begin = ends[first - 1] if first else 0
            stop = ends[min(first + _ROWS, len(rows)) - 1]
            size = lengths[rows[part]]
            # Where each copied value comes from: the start of its row, and its place within it.
            within = np.arange(begin, stop) - np.repeat(ends[part] - size, size)
            values[begin:stop] = self.values[np.repeat(starts[part], size) + within]
        return Ragged(values, ends)

    def save(self, path: pathlib.Path) -> None:
        """Writes PATH-values.npy and PATH-ends.npy."""
        np.save(f"{path}-values.npy", self.values)
        np.save(f"{path}-ends.npy", self.ends)


def load(path: pathlib.Path) -> Ragged:
    """What `Ragged.save` wrote, mapped into memory."""
    return Ragged(*(np.load(f"{path}-{part}.npy", mmap_mode="r") for part in ("values", "ends")))


class Builder:
    """Collects rows; `typecode` is one of the module array."""

    def __init__(self, typecode: str):
        """No row yet."""
        self._values, self._ends = array.array(typecode), array.array("q")

    def append(self, row: Iterable[int] | bytes) -> None:
        """Adds a row at the end."""
        self._values.extend(row)
        self._ends.append(len(self._values))

    def build(self) -> Ragged:
        """The rows so far."""
        return Ragged(np.array(self._values), np.array(self._ends, np.int64))
