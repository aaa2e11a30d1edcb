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
    """The criterion's statistics of all classes at hand."""
    z_GxBxm, levels = _split(plan, z), jnp.arange(len(plan.nesting))

    def step(stats, tile):
        def level(logits, x):
            g, z_Bxm, own = x
            logits += product(z_Bxm, _rows(plan, head, tile, g), (1, 0))
            own = plan.criterion.update(jax.tree.map(lambda s: s[None], own), [logits], targets, tile)
            return logits, jax.tree.map(lambda s: s[0], own)

        bias = tile.cut(head.biases[0]).astype(jnp.float32)
        first = jnp.broadcast_to(bias[None], (z.shape[0], tile.size))
        return lax.scan(level, first, (levels, z_GxBxm, stats))[1]

    return plan.fold(step, plan.criterion.start((len(plan.nesting), z.shape[0])))


def gradients(plan: Plan, z: jax.Array, head: Head, saved, scales: jax.Array, targets: jax.Array):
    """dz (B, D) in float32, of the classes at hand, and the gradient of the head."""
    z_GxBxm, width = _split(plan, z), plan.nesting.dims[0]
    kernel, bias = head.kernels[0], head.biases[0]

    def step(carry, tile):
        def read(g, logits, r, dz, d_kernel):
            level = jax.tree.map(lambda s: s[g], saved)
            r = r + scales[g] * plan.criterion.residual(logits, level, targets, tile)
            rounded = r.astype(kernel.dtype)
            dz = dz.at[g].add(product(rounded, _rows(plan, head, tile, g), (1, 1)))
            return r, dz, tile.put(d_kernel, product(z_GxBxm[g], rounded, (0, 0)), g * width)

        def below(i, state):
            g, logits, *rest = len(plan.nesting) - 2 - i, *state
            # Before the residual reads them: the loop then needs no copy of the logits.
            logits = logits - product(z_GxBxm[g + 1], _rows(plan, head, tile, g + 1), (1, 0))
            return logits, *read(g, logits, *rest)

        logits = product(z, tile.cut(kernel), (1, 0)) + tile.cut(bias).astype(jnp.float32)[None]
        state = read(len(plan.nesting) - 1, logits, jnp.zeros_like(logits), *carry[:2])
        _, r, dz, d_kernel = lax.fori_loop(0, len(plan.nesting) - 1, below, (logits, *state))
        return dz, d_kernel, tile.put(carry[2], r.sum(axis=0))

    start = jnp.zeros(z_GxBxm.shape, jnp.float32), unwritten(kernel), unwritten(bias)
    dz_GxBxm, d_kernel, d_bias = plan.fold(step, start)
    return dz_GxBxm.swapaxes(0, 1).reshape(z.shape), Head((d_kernel,), (d_bias,))


def _split(plan: Plan, z: jax.Array) -> jax.Array:
    """The features that each level adds: (G, B, m)."""
    return z.reshape(z.shape[0], len(plan.nesting), -1).swapaxes(0, 1)


def _rows(plan: Plan, head: Head, tile: Tile, g: jax.Array | int) -> jax.Array:
    """The chunk of the rows of the kernel that level g adds: (m, c)."""
    width = plan.nesting.dims[0]
    return lax.dynamic_slice(head.kernels[0], (g * width, tile.start), (width, tile.size))
