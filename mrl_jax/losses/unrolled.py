"""The passes over the levels written out one by one: for any dims, tied or not."""

import jax
import jax.numpy as jnp
from jax import lax

from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.plan import Head, Plan, product, unwritten


def statistics(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The criterion's statistics of all classes at hand."""
    z_blocks = _split(plan, z)

    def step(stats, tile):
        return plan.criterion.update(stats, _logits(plan, z_blocks, head, tile), targets, tile)

    return plan.fold(step, plan.criterion.start((len(plan.nesting), z.shape[0])))


def gradients(plan: Plan, z: jax.Array, head: Head, saved, scales: jax.Array, targets: jax.Array):
    """dz (B, D) in float32, of the classes at hand, and the gradient of the head."""
    z_blocks = _split(plan, z)

    def step(carry, tile):
        dz, kernels, biases = carry[0], *map(list, carry[1])
        logits, r = _logits(plan, z_blocks, head, tile), None
        for g, (i, low, high) in reversed(list(enumerate(plan.blocks))):
            level = jax.tree.map(lambda s, g=g: s[g], saved)
            own = scales[g] * plan.criterion.residual(logits[g], level, targets, tile)
            r = own if r is None or not plan.tied else r + own
            rounded = r.astype(head.kernels[i].dtype)
            block = product(rounded, tile.cut(head.kernels[i], low, high), (1, 1))
            dz = lax.dynamic_update_slice(dz, dz[:, low:high] + block, (0, low))
            kernels[i] = tile.put(kernels[i], product(z_blocks[g], rounded, (0, 0)), low)
            if g == 0 or not plan.tied:
                biases[i] = tile.put(biases[i], r.sum(axis=0))
        return dz, Head(tuple(kernels), tuple(biases))

    return plan.fold(step, (jnp.zeros(z.shape, jnp.float32), jax.tree.map(unwritten, head)))


def _split(plan: Plan, z: jax.Array) -> list[jax.Array]:
    """The features that each level adds; cut once, outside of the loop over the classes."""
    return [z[:, low:high] for _, low, high in plan.blocks]


def _logits(plan: Plan, z_blocks: list[jax.Array], head: Head, tile: Tile) -> list[jax.Array]:
    """The logits of a chunk at every level: G arrays (B, c), float32."""
    logits = []
    for g, (i, low, high) in enumerate(plan.blocks):
        kernel = tile.cut(head.kernels[i], low, high)
        if plan.tied and g:
            logits.append(logits[-1] + product(z_blocks[g], kernel, (1, 0)))
        else:
            logits.append(_affine(z_blocks[g], kernel, tile.cut(head.biases[i])))
    return logits


def _affine(z: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """z @ kernel + bias; in float32 as one product, the bias the row of a constant feature: a pass over memory less."""
    if bias.dtype != kernel.dtype or kernel.dtype != jnp.float32:
        return product(z, kernel, (1, 0)) + bias.astype(jnp.float32)[None]
    ones = jnp.ones((z.shape[0], 1), z.dtype)
    return product(jnp.concatenate([ones, z], axis=1), jnp.concatenate([bias[None], kernel]), (1, 0))
