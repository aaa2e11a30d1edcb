"""The classes in chunks: which slice of kernel, bias and targets one step of a loss sees."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Logits alive at once (levels x rows x classes of a chunk), per device. CPU: they stay in the cache; up to `kept` all
# of them are visited in one chunk, where the compiler shares the logits of the two passes. Else: products stay large.
_CPU_TILE, _CPU_KEPT = 3 * 2**20, 2**22
# Narrower products waste more than their tile saves.
_MIN_CHUNK = 192
_ACCELERATOR_TILE = 2**26
# Rows of a tile that begin with a line of the cache are read faster; those a power of two apart evict one another.
_CPU_LINES = 64


class Tile(NamedTuple):
    """One chunk: columns `start` to `start + size` of the arrays at hand, the first being class `first` of all.

    Where it is `turned`, every matrix lies with its classes first: (C, rows), and logits as (c, B).
    """

    start: jax.Array | int
    size: int
    first: jax.Array | int
    turned: bool = False

    @property
    def axis(self) -> int:
        """The axis of the classes in a matrix."""
        return 0 if self.turned else 1

    def cut(self, x: jax.Array, low: int = 0, high: int | None = None) -> jax.Array:
        """The chunk of x (C,), or of rows low:high of x (rows, C)."""
        if x.ndim == 1:
            return lax.dynamic_slice(x, (self.start,), (self.size,))
        rows = (x.shape[1 - self.axis] if high is None else high) - low
        return lax.dynamic_slice(x, self._lies(low, self.start), self._lies(rows, self.size))

    def put(self, x: jax.Array, value: jax.Array, low: int = 0) -> jax.Array:
        """`x` with the chunk (from row `low` on) replaced by `value`, (c,) or (rows, c)."""
        at = (self.start,) if x.ndim == 1 else self._lies(low, self.start)
        return lax.dynamic_update_slice(x, value.astype(x.dtype), at)

    def _lies(self, rows, classes):
        return (classes, rows) if self.turned else (rows, classes)

    def rows(self, x_B: jax.Array) -> jax.Array:
        """One number for each row, beside logits: (B, 1)."""
        return jnp.expand_dims(x_B, self.axis)

    def position(self, labels_B: jax.Array) -> jax.Array:
        """The column of each label in the chunk, (B, 1): not in 0..size-1 if the label lies elsewhere."""
        return self.rows(labels_B.astype(jnp.int32)) - self.first

    def hide(self, logits: jax.Array, labels_B: jax.Array) -> jax.Array:
        """Logits (B, c) with -inf in each label's place."""
        return jnp.where(self.is_label(labels_B), -jnp.inf, logits)

    def pick(self, logits: jax.Array, labels_B: jax.Array) -> jax.Array:
        """Each label's own of the logits (B, c), (B,): 0 for one that is not in the chunk."""
        position = self.position(labels_B)
        found = jnp.take_along_axis(logits, position, axis=self.axis, mode="clip")
        return jnp.where((position >= 0) & (position < self.size), found, 0.0).squeeze(self.axis)

    def is_label(self, labels_B: jax.Array) -> jax.Array:
        """Where in the chunk each label is, (B, c) bool."""
        return self.position(labels_B) == jnp.expand_dims(jnp.arange(self.size), 1 - self.axis)


def choose_chunk(n_classes: int, levels: int, rows: int, shards: int, chunk: int | None) -> int:
    """The chunk of each of `shards` equal parts of the classes; None chooses by backend and shape.

    Raises:
      ValueError: if chunk is not a positive integer.
    """
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk={chunk!r} must be a positive number of classes, or None to let the loss choose")
    at_hand = n_classes // shards
    if chunk is not None:
        return min(math.ceil(chunk / shards), at_hand)
    logits = levels * rows * n_classes / max(jax.sharding.get_abstract_mesh().size, 1)
    if jax.default_backend() != "cpu":
        return _even(at_hand, math.ceil(n_classes / max(n_classes * _ACCELERATOR_TILE / logits, _MIN_CHUNK)))
    tile = _CPU_TILE if logits > _CPU_KEPT else _CPU_KEPT
    return _aligned(at_hand, math.ceil(at_hand / max(n_classes * tile / logits, _MIN_CHUNK)))


def _even(n_classes: int, count: int) -> int:
    """The chunk that makes about `count` of the classes, all of one size where a number near it divides them."""
    near = range(max(1, math.ceil(0.8 * count)), math.floor(1.25 * count) + 1)
    even = [n for n in near if n_classes % n == 0]
    return math.ceil(n_classes / min(even or [min(count, n_classes)], key=lambda n: abs(n - count)))


def _aligned(n_classes: int, count: int) -> int:
    """The chunk that makes at most `count` of the classes: all of them, or an odd number of lines."""
    lines = math.ceil(n_classes / count / _CPU_LINES)
    return n_classes if count == 1 else min((lines + (lines + 1) % 2) * _CPU_LINES, n_classes)


def fold(step: Callable, carry, n_classes: int, chunk: int, first: jax.Array | int, turned: bool = False):
    """`step(carry, tile)` over `n_classes` columns; the last tile is smaller where the chunk does not divide them."""
    full, rest = divmod(n_classes, chunk)

    def body(j, carry):
        return step(carry, Tile(j * chunk, chunk, first + j * chunk, turned))

    carry = body(0, carry) if full == 1 else lax.fori_loop(0, full, body, carry)
    return step(carry, Tile(full * chunk, rest, first + full * chunk, turned)) if rest else carry
