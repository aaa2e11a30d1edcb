"""The passes over cosines of prefixes, tied or not: of each chunk, autodiff of `prefix_cosines`.

A prefix has a norm of its own, as has each column of its kernel, so that gradients of the dims do not just add up.
"""

import jax
import jax.numpy as jnp

from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.plan import Head, Plan, unwritten
from mrl_jax.losses.prefixes import prefix_cosines


def statistics(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The criterion's statistics of all classes at hand; nothing is kept."""

    def step(stats, tile):
        found, label = prefix_cosines(z, _columns(head, tile), plan.nesting), None
        if plan.criterion.label_apart:
            label = jnp.stack([tile.pick(a, targets) for a in found])
        found = [plan.hide(a, targets, tile) for a in found]
        return plan.criterion.update(stats, found, label, targets, tile)

    return plan.fold(step, plan.criterion.start((len(plan.nesting), z.shape[0]))), None


def gradients(plan: Plan, z: jax.Array, head: Head, saved, kept: None, scales: jax.Array, targets: jax.Array):
    """dz (B, D) in float32, of the classes at hand, and the gradient of the head."""

    def step(carry, tile):
        def cosines(z, kernels):
            return prefix_cosines(z, kernels, plan.nesting)

        found, pull = jax.vjp(cosines, z, _columns(head, tile))
        levels = [jax.tree.map(lambda s, g=g: s[g], saved) for g in range(len(found))]
        found = [plan.hide(a, targets, tile) for a in found]
        own = [plan.criterion.residual(*of, targets, tile, scale) for *of, scale in zip(found, levels, scales)]
        dz, columns = pull(own)
        return carry[0] + dz.astype(jnp.float32), tuple(tile.put(x, y) for x, y in zip(carry[1], columns))

    dz, kernels = plan.fold(step, (jnp.zeros(z.shape, jnp.float32), unwritten(head).kernels))
    return dz, Head(kernels, jax.tree.map(jnp.zeros_like, head.biases))


def _columns(head: Head, tile: Tile) -> list[jax.Array]:
    return [tile.cut(kernel) for kernel in head.kernels]
