"""Gradient accumulation: a batch in n microbatches, one after the other, inside one update.

The mean over microbatches, each by what its rows count, is the mean over the batch, so gradients, losses and
accuracies are those of the whole batch wherever its examples do not meet. BatchNorm's do: each microbatch is normalised
by its own statistics (ghost batches), and the running statistics move once per update, by the mean over the
microbatches.

A loop within the step rather than optax.MultiSteps, which makes every microbatch an update to all around it: the step
count, the position in the data, checkpoints, logs and a host dispatch; and whose sum of gradients is saved with the
optimizer state.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mrl_jax.sharding import BATCH_AXES


def split(batch: Any, n: int) -> Any:
    """The rows (B, ...) as n microbatches (n, B / n, ...); microbatch i has the rows i, i + n, i + 2n, ..."""

    def one(x):
        parts = x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)
        inside = jax.sharding.get_abstract_mesh().axis_names
        return jax.lax.with_sharding_constraint(parts, P(None, BATCH_AXES)) if inside else parts

    return jax.tree.map(one, batch)


def join(parts: Any) -> Any:
    """The inverse of `split`."""

    def one(x):
        rows = x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
        inside = jax.sharding.get_abstract_mesh().axis_names
        return jax.lax.with_sharding_constraint(rows, P(BATCH_AXES)) if inside else rows

    return jax.tree.map(one, parts)


def mean(fn: Callable[[Any, jax.Array], tuple[Any, jax.Array | None]], batch: Any, key: jax.Array, n: int) -> Any:
    """The mean over n microbatches, each with a key of its own, of what `fn(rows, key)` finds.

    Microbatch i has the rows i, i + n, i + 2n, ...: every device has its share of each, and no row moves.

    Args:
      fn: gives a pytree of float arrays, and how much it counts in the mean: a scalar, or None where every row counts
        the same.
      batch: arrays with an axis of rows.
      key: folded with the number of the microbatch.
      n: how many.
    """
    if n == 1:
        return fn(batch, key)[0]

    def weighted(rows, key):
        found, weight = fn(rows, key)
        weight = jnp.float32(1 if weight is None else weight)
        return jax.tree.map(lambda x: x * weight, found), weight

    def add(total, numbered):
        i, rows = numbered
        return jax.tree.map(jnp.add, total, weighted(rows, jax.random.fold_in(key, i))), None

    parts = split(batch, n)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(weighted, first, key))
    (total, weight), _ = jax.lax.scan(add, zeros, (jnp.arange(n), parts))
    return jax.tree.map(lambda x: x / jnp.maximum(weight, 1e-9), total)
