"""Triplets across two models: a row's embedding against the other model's, the hardest of the batch (Hermans et al.
2017), at every nested dim.
"""

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_teacher
from mrl_jax.losses.prefixes import prefix_cosines
from mrl_jax.losses.tiles import power_of_two, times
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting

MARGIN = 0.3


def nested_triplet(
    z_BxD: jax.Array, teacher_BxD: jax.Array, labels_B: jax.Array, nesting: Nesting, *, margin: float = MARGIN
) -> NestedLoss:
    """relu(margin + d(z_i, farthest t_j of the label) - d(z_i, nearest t_j of another)), the mean over rows i.

    d is the Euclidean distance of unit-normalised prefixes. The teacher's own row counts as one of its label, so that
    none is without a positive. `correct` tells whether the nearest of all is of the label; in a batch of one label
    alone the loss is 0 and every row correct.

    Args:
      z_BxD: features; D is the nesting's full dim.
      teacher_BxD: those of the other model for the same rows; a constant, it gets no gradient.
      labels_B: integer classes.
      nesting: dims and weights.
      margin: by which another label's must be farther, of distances in 0..2.

    Raises:
      ValueError: if a shape or the margin does not fit; the message names it.
    """
    check_teacher(z_BxD, teacher_BxD, nesting)
    if labels_B.shape != z_BxD.shape[:1]:
        raise ValueError(f"labels have shape {labels_B.shape}; they must be one per row of z, {z_BxD.shape[:1]}")
    if not 0 <= margin <= 2:
        raise ValueError(f"{margin=} must be in 0..2, the distances of unit vectors")
    same_BxB = labels_B[:, None] == labels_B[None, :]
    z_BxD, t_BxD = z_BxD.astype(jnp.float32), jax.lax.stop_gradient(teacher_BxD).astype(jnp.float32)
    t_BxD = times(t_BxD, power_of_two(t_BxD))
    found = [_hardest(cosine_BxB, same_BxB, margin) for cosine_BxB in prefix_cosines(z_BxD, [t_BxD.T], nesting)]
    per_dim_G, correct_GxB = (jnp.stack(part) for part in zip(*found))
    return NestedLoss(jnp.vdot(jnp.asarray(nesting.weights), per_dim_G), per_dim_G, correct_GxB)


def _hardest(cosine_BxB: jax.Array, same_BxB: jax.Array, margin: float) -> tuple[jax.Array, jax.Array]:
    """The mean loss, and whether the nearest is of the label (B,)."""
    distance_BxB = jnp.sqrt(jnp.maximum(2 - 2 * cosine_BxB, 1e-12))
    farthest_B = jnp.where(same_BxB, distance_BxB, -jnp.inf).max(axis=1)
    nearest_B = jnp.where(same_BxB, jnp.inf, distance_BxB).min(axis=1)
    closest_B = jnp.where(same_BxB, distance_BxB, jnp.inf).min(axis=1)
    return jax.nn.relu(margin + farthest_B - nearest_B).mean(), closest_B < nearest_B
