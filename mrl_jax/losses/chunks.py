"""The classes in chunks: which slice of kernel, bias and targets one step of a loss sees.

Where the mesh in use has a `model` axis of size K, the C classes are viewed as K shards of C/K, a free reshape, and a
chunk is the same slice of every shard. Slicing the sharded axis itself would make each device gather the whole kernel.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

CLASS_AXIS = "model"  # the mesh axis over which a kernel's classes may be sharded

# Logits alive at once (levels x rows x classes of a chunk), per device. CPU: they stay in the cache; up to `kept` all
# of them are visited in one chunk, where the compiler shares the logits of the two passes. Else: products stay large.
_CPU_TILE, _CPU_KEPT = 2**21, 2**22
_ACCELERATOR_TILE = 2**26


class Visit(NamedTuple):
    """How C classes are visited: as `shards` equal parts, `chunk` classes of each at a time."""

    n_classes: int
    shards: int
    chunk: int

    def split(self, x: jax.Array) -> jax.Array:
        """(..., C) viewed as (..., K, C/K), still sharded by the mesh axis of the classes."""
        x = x.reshape(*x.shape[:-1], self.shards, self.n_classes // self.shards)
        if self.shards == 1:
            return x
        free = PartitionSpec.UNCONSTRAINED
        return lax.with_sharding_constraint(x, PartitionSpec(*[free] * (x.ndim - 2), CLASS_AXIS, free))


class Tile(NamedTuple):
    """One chunk: classes `start` to `start + size` of every shard."""

    visit: Visit
    start: jax.Array | int
    size: int

    def cut(self, x: jax.Array, low: int = 0, high: int | None = None) -> jax.Array:
        """The chunk of x (C,) or of rows low:high of x (rows, C): (K, size) or (rows, K, size)."""
        x = self.visit.split(x)
        if x.ndim == 2:
            return lax.dynamic_slice(x, (0, self.start), (self.visit.shards, self.size))
        rows = (x.shape[0] if high is None else high) - low
        return lax.dynamic_slice(x, (low, 0, self.start), (rows, self.visit.shards, self.size))

    def put(self, x: jax.Array, value: jax.Array, low: int = 0) -> jax.Array:
        """`x`, already split, with the chunk (and rows from `low` on) replaced by `value`."""
        at = (0, self.start) if x.ndim == 2 else (low, 0, self.start)
        return lax.dynamic_update_slice(x, value.astype(x.dtype), at)

    def position(self, labels_B: jax.Array) -> jax.Array:
        """Where each label lies in the chunk of each shard, (B, K): outside 0..size-1 if it lies elsewhere."""
        width = self.visit.n_classes // self.visit.shards
        first = jnp.arange(self.visit.shards, dtype=jnp.int32) * width + self.start
        return labels_B.astype(jnp.int32)[:, None] - first[None]


def plan_visit(n_classes: int, rows: int, levels: int, chunk: int | None) -> Visit:
    """The visit of `n_classes` classes by `levels` x `rows` logits each; `chunk` None chooses by backend and shape.

    Raises:
      ValueError: if chunk is not a positive integer.
    """
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk={chunk!r} must be a positive number of classes, or None to let the loss choose")
    mesh = jax.sharding.get_abstract_mesh()
    shards = mesh.shape.get(CLASS_AXIS, 1)
    shards = shards if n_classes % shards == 0 else 1
    if chunk is None:
        logits = levels * rows * n_classes / max(mesh.size, 1)
        cpu = jax.default_backend() == "cpu"
        tile = (_CPU_TILE if logits > _CPU_KEPT else _CPU_KEPT) if cpu else _ACCELERATOR_TILE
        chunk = math.ceil(n_classes / math.ceil(logits / tile))
        chunk = max(chunk, 128)
    return Visit(n_classes, shards, min(math.ceil(chunk / shards), n_classes // shards))


def fold(step: Callable, carry, visit: Visit):
    """`step(carry, tile)` over all chunks; the last is smaller where the chunk does not divide the shard."""
    full, rest = divmod(visit.n_classes // visit.shards, visit.chunk)
    if full == 1:
        carry = step(carry, Tile(visit, 0, visit.chunk))
    else:
        carry = lax.fori_loop(0, full, lambda j, c: step(c, Tile(visit, j * visit.chunk, visit.chunk)), carry)
    return step(carry, Tile(visit, full * visit.chunk, rest)) if rest else carry
