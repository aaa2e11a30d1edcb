"""Regression onto the embedding of a teacher, at every nested dim (asymmetric retrieval: Budnik and Avrithis 2021)."""

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_teacher
from mrl_jax.losses.prefixes import inverse_norm
from mrl_jax.losses.tiles import power_of_two, times
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
    z_BxD, t_BxD = (times(x, power_of_two(x)) for x in (z_BxD, t_BxD))
    prefixes = [(z_BxD[:, :m], t_BxD[:, :m]) for m in nesting.dims]
    cosines = [(z * t).sum(axis=1, keepdims=True) * inverse_norm(z, 1) * inverse_norm(t, 1) for z, t in prefixes]
    per_dim_G = (1 - jnp.concatenate(cosines, axis=1)).mean(axis=0)
    return NestedLoss(jnp.vdot(jnp.asarray(nesting.weights), per_dim_G), per_dim_G, None)
