"""Regression onto the embedding of a teacher, at every nested dim (asymmetric retrieval: Budnik and Avrithis 2021)."""

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_teacher
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


def nested_regression(z_BxD: jax.Array, teacher_BxD: jax.Array, nesting: Nesting) -> NestedLoss:
    """One minus the cosine of each prefix with the teacher's: half the squared distance of the two unit vectors.

    A prefix of zeros has cosine 0. All sums are float32; `correct` is None.

    Args:
      z_BxD: features; D is the nesting's full dim.
      teacher_BxD: those to come near to; a constant, it gets no gradient.
      nesting: dims and weights.

    Raises:
      ValueError: if a shape does not fit; the message names it.
    """
    check_teacher(z_BxD, teacher_BxD, nesting)
    z_BxD, t_BxD = z_BxD.astype(jnp.float32), jax.lax.stop_gradient(teacher_BxD).astype(jnp.float32)
    ends = jnp.asarray(nesting.dims) - 1
    dots_BxG, z2_BxG, t2_BxG = (jnp.cumsum(x, axis=1)[:, ends] for x in (z_BxD * t_BxD, z_BxD**2, t_BxD**2))
    cosine_BxG = dots_BxG * jax.lax.rsqrt(jnp.maximum(z2_BxG, 1e-12)) * jax.lax.rsqrt(jnp.maximum(t2_BxG, 1e-12))
    per_dim_G = (1 - cosine_BxG).mean(axis=0)
    return NestedLoss(jnp.vdot(jnp.asarray(nesting.weights), per_dim_G), per_dim_G, None)
