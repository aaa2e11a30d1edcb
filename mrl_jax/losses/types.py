"""What every nested loss returns."""

from typing import NamedTuple

import jax


class NestedLoss(NamedTuple):
    """A nested loss and what its one pass also knows; a pytree.

    Attributes:
      total: scalar, float32; the sum over dims of weight x batch mean. Differentiable.
      per_dim: (G,) float32; the batch mean at each dim, before weighting. Differentiable, so that other weights,
        such as those of a random subset of the dims, can be traced values.
      correct: (G, B) bool; the label (or the matching pair) is ranked first, ahead of every other: a tie is none, so
        that a head of zeros is right nowhere. None where that has no meaning.
    """

    total: jax.Array
    per_dim: jax.Array
    correct: jax.Array | None
