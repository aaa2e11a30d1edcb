"""Rows of features in blocks for the devices, from memory or from a memory-mapped file, and sums over them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BLOCK_ROWS = 8192
KEEP_BYTES = 4 << 30  # rows that need less stay on the device between passes
HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 65536
_AHEAD = 4  # blocks handed to the device before the first of them is waited for


class Stream:
    """Some rows of features and labels, in order, as device arrays of at most BLOCK_ROWS rows.

    Attributes:
      z: (N, D) floats of any dtype, an array or a memory map.
      labels: (N,) int, or (N, L) int padded with -1.
      index: the rows of it, increasing; None: all.
    """

    def __init__(
        self,
        z: np.ndarray,
        labels: np.ndarray,
        index: np.ndarray | None = None,
        project: Callable[[jax.Array], jax.Array] | None = None,
    ):
        """Reads nothing yet; `project` maps (B, D) float32 features to those that the stream yields."""
        self.z, self.labels, self.index, self._project = z, labels, index, project
        self._kept: list[tuple[jax.Array, jax.Array]] | None = None
        self._small = len(self) * z.shape[1] * (4 if project else z.dtype.itemsize) <= KEEP_BYTES
        self._passes = 0

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.z) if self.index is None else len(self.index)

    def __iter__(self) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Yields (z_BxD, labels) in order; what is read a second time stays on the device, where it is small."""
        if self._kept is not None:
            yield from self._kept
            return
        self._passes += 1
        kept = []
        for start in range(0, len(self), BLOCK_ROWS):
            block = self._block(start)
            if self._small and self._passes > 1:
                kept.append(block)
            yield block
        self._kept = kept or None

    def first(self) -> jax.Array:
        """The features of the first block."""
        return self._block(0)[0]

    @property
    def is_projected(self) -> bool:
        """Whether it yields other features than those of `z`."""
        return self._project is not None

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of some rows of `z`, on the host."""
        z, labels = self.z[rows], self.labels[rows].astype(np.int32)
        return (np.asarray(self._project(jnp.asarray(z, jnp.float32))) if self._project else z), labels

    def projected(self, project: Callable[[jax.Array], jax.Array]) -> "Stream":
        """The same rows, their features mapped."""
        return Stream(self.z, self.labels, self.index, project)

    def _block(self, start: int) -> tuple[jax.Array, jax.Array]:
        rows = slice(start, start + BLOCK_ROWS)
        if self.index is not None:
            rows = self.index[rows]
        z, labels = jnp.asarray(self.z[rows]), jnp.asarray(self.labels[rows].astype(np.int32))
        return (self._project(z.astype(jnp.float32)) if self._project else z), labels


def fold(step: Callable[..., Any], carry: Any, stream: Stream) -> Any:
    """`carry = step(carry, z, labels)` over the blocks of a stream; few of them are on the device at any time."""
    for number, (z, labels) in enumerate(stream):
        carry = step(carry, z, labels)
        if number % _AHEAD == _AHEAD - 1:
            jax.block_until_ready(carry)
    return carry


def hold_out(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to fit on and indices held out, each increasing: a tenth of the rows, at most HELD_OUT_MOST.

    Raises:
      ValueError: for fewer than two rows.
    """
    if rows < 2:
        raise ValueError(f"{rows} training rows: at least two are needed, one to fit on and one to choose by")
    count = min(max(int(rows * HELD_OUT_SHARE), 1), HELD_OUT_MOST)
    held = np.zeros(rows, bool)
    held[np.random.default_rng(seed).choice(rows, count, replace=False)] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def compensated(total: tuple[Any, Any], term: Any) -> tuple[Any, Any]:
    """Adds a tree of float32 arrays to a sum held in two parts, exact to about twice the digits (Knuth's two-sum)."""

    def add(high, low, x):
        new = high + x
        part = new - high
        return new, low + ((high - (new - part)) + (x - part))

    pairs = jax.tree.map(add, *total, term)
    return jax.tree.transpose(jax.tree.structure(term), jax.tree.structure((0, 0)), pairs)


def zeros_like(term: Any) -> tuple[Any, Any]:
    """The empty compensated sum of trees shaped as `term`."""
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), term)
    return jax.device_put((zeros, zeros))


def value(total: tuple[Any, Any]) -> Any:
    """A compensated sum as float64 arrays on the host."""
    return jax.tree.map(lambda high, low: np.asarray(high, np.float64) + np.asarray(low, np.float64), *total)
