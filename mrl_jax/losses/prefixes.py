"""Logits of every nested dim at once, for losses that take them as given."""

import jax
import jax.numpy as jnp

from mrl_jax.losses.tiles import power_of_two, times
from mrl_jax.nesting import Nesting


def prefix_logits(
    z_BxD: jax.Array, kernels: list[jax.Array], biases: list[jax.Array], nesting: Nesting
) -> list[jax.Array]:
    """The logits (B, C), float32, of each nested dim: z[:, :m] @ kernel[:m] + bias.

    Args:
      z_BxD: features; D is the nesting's full dim.
      kernels: one (D, C) for all dims, whose logits are then sums of parts, at the cost of one head; or one per dim.
      biases: (C,), as many as kernels.
      nesting: the dims.
    """
    found, low = [], 0
    for g, m in enumerate(nesting.dims):
        if len(kernels) > 1:
            found.append(_product(z_BxD[:, :m], kernels[g]) + biases[g][None])
            continue
        part = _product(z_BxD[:, low:m], kernels[0][low:m])
        found.append(part + (found[-1] if found else biases[0][None]))
        low = m
    return found


def prefix_cosines(z_BxD: jax.Array, kernels: list[jax.Array], nesting: Nesting) -> list[jax.Array]:
    """The cosines (B, C), float32, of each prefix of z with the columns of its kernel; arguments as `prefix_logits`.

    Those of zeros are 0, and their gradient is finite; z may be of any size.
    """
    z_BxD = times(z_BxD, power_of_two(z_BxD))
    zeros = [jnp.zeros(kernel.shape[1]) for kernel in kernels]
    found = []
    for g, (m, product) in enumerate(zip(nesting.dims, prefix_logits(z_BxD, kernels, zeros, nesting))):
        kernel = kernels[g if len(kernels) > 1 else 0][:m]
        found.append(product * inverse_norm(z_BxD[:, :m], 1) * inverse_norm(kernel, 0))
    return found


def is_first(logits_BxC: jax.Array, labels_B: jax.Array) -> jax.Array:
    """Whether the label's logit is above every other, (B,) bool: a tie is none."""
    is_label = labels_B[:, None] == jnp.arange(logits_BxC.shape[1])[None]
    own_B = jnp.where(is_label, logits_BxC, -jnp.inf).max(axis=1)
    return own_B > jnp.where(is_label, -jnp.inf, logits_BxC).max(axis=1)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.dot(x, y, preferred_element_type=jnp.float32)


def inverse_norm(x: jax.Array, axis: int) -> jax.Array:
    """1 / the norm along an axis, which is kept, float32; 1 for a norm below 1e-12, which counts as that of zeros."""
    squared = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axis, keepdims=True)
    return jax.lax.rsqrt(jnp.where(squared > 1e-24, squared, 1.0))
