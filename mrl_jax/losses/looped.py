"""The passes as a loop over the levels, where a tied head has many that add equally many features each.

One level's logits are alive at a time, so that chunks are wide and the program does not grow with the levels. The
backward pass goes down: it computes the logits of the full dim once and subtracts the product of each block again.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.plan import Head, Plan, product, unwritten


def statistics(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The criterion's statistics of all classes at hand, and the logits that are kept, in the place of the head."""
    z_GxBxm, levels = _split(plan, z), jnp.arange(len(plan.nesting))
    apart = plan.criterion.label_apart

    def step(carry, tile):
        def level(state, x):
            (logits, label), (g, z_Bxm, own) = state, x
            part = product(z_Bxm, _rows(plan, head, tile, g), (1, 0))
            logits, label = logits + part, label + tile.pick(part, targets) if apart else None
            own = jax.tree.map(lambda s: s[None], own)
            own = plan.criterion.update(own, [logits], label[None] if apart else None, targets, tile)
            return (logits, label), jax.tree.map(lambda s: s[0], own)

        logits = jnp.broadcast_to(tile.cut(head.biases[0]).astype(jnp.float32)[None], (z.shape[0], tile.size))
        state = plan.hide(logits, targets, tile), tile.pick(logits, targets) if apart else None
        (logits, _), stats = lax.scan(level, state, (levels, z_GxBxm, carry[0]))
        kept = carry[1]._replace(kernels=(tile.put(carry[1].kernels[0], logits),)) if plan.keeps else None
        return stats, kept

    start = plan.criterion.start((len(plan.nesting), z.shape[0]))
    return plan.fold(step, (start, unwritten(head) if plan.keeps else None))


def gradients(plan: Plan, z: jax.Array, head: Head, saved, kept: Head | None, scales: jax.Array, targets: jax.Array):
    """dz (B, D) in float32, of the classes at hand, and the gradient of the head."""
    z_GxBxm, width, last = _split(plan, z), plan.nesting.dims[0], len(plan.nesting) - 1
    z_GxmxB = z_GxBxm.swapaxes(1, 2)  # outside of the loop: products that sum over the rows are faster so
    kernel, bias = head.kernels[0], head.biases[0]

    def step(carry, tile):
        def level(i, state):
            g, (logits, r, dz, d_kernel) = last - i, state
            # The block above goes, before the residual reads the logits: the loop then needs no copy of them.
            above = jnp.minimum(g + 1, last)
            z_Bxm = jnp.where(i > 0, z_GxBxm[above], 0)
            logits = logits - product(z_Bxm, _rows(plan, head, tile, above), (1, 0))
            saved_g = jax.tree.map(lambda s: s[g], saved)
            r = r + plan.criterion.residual(logits, saved_g, targets, tile, scales[g])
            rounded = r.astype(kernel.dtype)
            dz = dz.at[g].add(product(rounded, _rows(plan, head, tile, g), (1, 1)))
            return logits, r, dz, tile.put(d_kernel, product(z_GxmxB[g], rounded, (1, 0)), g * width)

        if plan.keeps:
            logits = tile.cut(carry[1], 0, z.shape[0])
        else:
            logits = product(z, tile.cut(kernel), (1, 0)) + tile.cut(bias).astype(jnp.float32)[None]
            logits = plan.hide(logits, targets, tile)
        state = logits, jnp.zeros_like(logits), *carry[:2]
        _, r, dz, d_kernel = lax.fori_loop(0, last + 1, level, state)
        return dz, d_kernel, tile.put(carry[2], r.sum(axis=0))

    place = kept or unwritten(head)
    start = jnp.zeros(z_GxBxm.shape, jnp.float32), place.kernels[0], place.biases[0]
    dz_GxBxm, d_kernel, d_bias = plan.fold(step, start)
    return dz_GxBxm.swapaxes(0, 1).reshape(z.shape), Head((d_kernel,), (d_bias,))


def _split(plan: Plan, z: jax.Array) -> jax.Array:
    """The features that each level adds: (G, B, m)."""
    return z.reshape(z.shape[0], len(plan.nesting), -1).swapaxes(0, 1)


def _rows(plan: Plan, head: Head, tile: Tile, g: jax.Array | int) -> jax.Array:
    """The chunk of the rows of the kernel that level g adds: (m, c)."""
    width = plan.nesting.dims[0]
    return lax.dynamic_slice(head.kernels[0], (g * width, tile.start), (width, tile.size))
