"""What every nested loss returns."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class NestedLoss(NamedTuple):
    """A nested loss and what its one pass also knows; a pytree.

    Attributes:
      total: scalar, float32; the sum over dims of weight x batch mean. Differentiable.
      per_dim: (G,) float32; the batch mean at each dim, before weighting. Differentiable, so that other weights,
        such as those of a random subset of the dims, can be traced values.
      correct: (G, B) bool; the label (or the matching pair) is ranked first, ahead of every other: a tie is none, so
        that a head of zeros is right nowhere. None where that has no meaning.
      weight: (B,) float32; how much each example counts in the batch mean. None: all the same.
      known: what else this loss knows of every row, constants by the name that logs give their mean, (G, B) each.
    """

    total: jax.Array
    per_dim: jax.Array
    correct: jax.Array | None
    weight: jax.Array | None = None
    known: Mapping[str, jax.Array] = {}

    @property
    def accuracy(self) -> jax.Array | None:
        """The weighted mean of `correct` at each dim, (G,) float32."""
        if self.correct is None or self.weight is None:
            return self.correct if self.correct is None else jnp.mean(self.correct, axis=1, dtype=jnp.float32)
        return jnp.sum(self.correct * self.weight[None], axis=1) / jnp.maximum(jnp.sum(self.weight), 1e-9)
