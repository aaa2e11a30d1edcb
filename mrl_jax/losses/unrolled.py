"""The passes over the levels written out one by one: for any dims, tied or not."""

import jax
import jax.numpy as jnp

from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.plan import Head, Plan, product, unwritten


def statistics(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The criterion's statistics of all classes at hand, and the logits that are kept, in the place of the head."""
    z_blocks = _split(plan, z)

    def step(carry, tile):
        logits = _logits(plan, z_blocks, head, tile)
        kept = carry[1]._replace(kernels=(_keep(plan, tile, carry[1].kernels[0], logits[-1]),)) if plan.keeps else None
        return plan.criterion.update(carry[0], logits, targets, tile), kept

    start = plan.criterion.start((len(plan.nesting), z.shape[0]))
    return plan.fold(step, (start, unwritten(head) if plan.keeps else None))


def gradients(plan: Plan, z: jax.Array, head: Head, saved, kept: Head | None, scales: jax.Array, targets: jax.Array):
    """dz (B, D) in float32, of the classes at hand, and the gradient of the head."""
    z_blocks, last = _split(plan, z), len(plan.nesting) - 1
    z_turned = [block.T for block in z_blocks]  # outside of the loop: products that sum over the rows are faster so

    def step(carry, tile):
        kernels, biases, rows, columns, r = *map(list, carry[1]), [], [], None
        logits = _logits(plan, z_blocks, head, tile, last if plan.keeps else last + 1)
        if plan.keeps:
            logits.append(_kept(plan, tile, kernels[0], z.shape[0]))
        for g, (i, low, high) in reversed(list(enumerate(plan.blocks))):
            level = jax.tree.map(lambda s, g=g: s[g], saved)
            own = plan.criterion.residual(logits[g], level, targets, tile, scales[g])
            r = own if r is None or not plan.tied else r + own
            rounded = r.astype(head.kernels[i].dtype)
            rows.append(product(rounded, tile.cut(head.kernels[i], low, high, plan.turned), (1, 1)))
            columns.append(_summed(plan, z_blocks[g], z_turned[g], rounded))
            if plan.chunk < plan.width:
                kernels[i] = tile.put(kernels[i], columns[-1], low, plan.turned)
            if g == 0 or not plan.tied:
                biases[i] = tile.put(biases[i], r.sum(axis=0))
        if plan.chunk == plan.width:
            kernels = [jnp.concatenate(columns[::-1])] if plan.tied else columns[::-1]
            kernels = [kernel.T for kernel in kernels] if plan.turned else kernels
        return carry[0] + _join(plan, rows), Head(tuple(kernels), tuple(biases))

    return plan.fold(step, (jnp.zeros(z.shape, jnp.float32), kept or unwritten(head)))


def _summed(plan: Plan, z: jax.Array, z_turned: jax.Array, r: jax.Array) -> jax.Array:
    """The gradient of the chunk of a kernel's rows, (high - low, c), from residuals r (B, c): laid out as it is put."""
    found = product(r, z, (0, 0)).T if plan.turned else product(z_turned, r, (1, 0))
    return found.astype(r.dtype)


def _keep(plan: Plan, tile: Tile, place: jax.Array, logits: jax.Array) -> jax.Array:
    """The place of the kernel's gradient with a chunk of logits (B, c) in it; turned: as c rows of B numbers."""
    return tile.put(place, logits.reshape(tile.size, -1).T if plan.turned else logits, turned=plan.turned)


def _kept(plan: Plan, tile: Tile, place: jax.Array, rows: int) -> jax.Array:
    """What `_keep` put there, (B, c)."""
    found = tile.cut(place, 0, rows, plan.turned)
    return found.T.reshape(rows, tile.size) if plan.turned else found


def _join(plan: Plan, rows: list[jax.Array]) -> jax.Array:
    """dz (B, D) from the parts of the levels, the last one first."""
    if plan.tied:
        return jnp.concatenate(rows[::-1], axis=1)
    return sum(jnp.pad(part, ((0, 0), (0, plan.nesting.full - part.shape[1]))) for part in rows)


def _split(plan: Plan, z: jax.Array) -> list[jax.Array]:
    """The features that each level adds; cut once, outside of the loop over the classes."""
    return [z[:, low:high] for _, low, high in plan.blocks]


def _logits(plan: Plan, z_blocks: list[jax.Array], head: Head, tile: Tile, upto: int | None = None) -> list[jax.Array]:
    """The logits of a chunk at every level, or the first `upto`: (B, c) each, float32."""
    logits = []
    for g, (i, low, high) in enumerate(plan.blocks[:upto]):
        kernel, first = tile.cut(head.kernels[i], low, high, plan.turned), g == 0 or not plan.tied
        if first:
            logits.append(_affine(z_blocks[g], kernel, tile.cut(head.biases[i])))
        else:
            logits.append(logits[-1] + product(z_blocks[g], kernel, (1, 0)))
    return logits


def _affine(z: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """z @ kernel + bias; in float32 as one product, the bias the row of a constant feature: a pass over memory less."""
    if bias.dtype != kernel.dtype or kernel.dtype != jnp.float32:
        return product(z, kernel, (1, 0)) + bias.astype(jnp.float32)[None]
    ones = jnp.ones((z.shape[0], 1), z.dtype)
    return product(jnp.concatenate([ones, z], axis=1), jnp.concatenate([bias[None], kernel]), (1, 0))
