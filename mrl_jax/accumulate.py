"""Gradient accumulation: a batch in n microbatches, one after the other, inside one update.

The mean over equal microbatches is the mean over the batch, so gradients, losses and accuracies are those of the whole
batch wherever its examples do not meet. BatchNorm's do: each microbatch is normalised by its own statistics (ghost
batches), and the running statistics move once per update, by the mean over the microbatches.

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


def mean(fn: Callable[[Any, jax.Array], Any], batch: Any, key: jax.Array, n: int) -> Any:
    """The mean of `fn(rows, key)`, a pytree of float arrays, over n microbatches, each with a key of its own.

    Microbatch i has the rows i, i + n, i + 2n, ...: every device has its share of each, and no row moves.
    """
    if n == 1:
        return fn(batch, key)

    def add(total, numbered):
        i, rows = numbered
        return jax.tree.map(jnp.add, total, fn(rows, jax.random.fold_in(key, i))), None

    parts = split(batch, n)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, first, key))
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(n), parts))
    return jax.tree.map(lambda x: x / n, total)
