"""The passes over the levels written out one by one: for any dims, tied or not.

Shapes are as written where the plan is not `turned`; else every matrix lies as its transpose.
"""

import jax
import jax.numpy as jnp

from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.plan import Head, Plan, unwritten

# Products of levels under way at once in a plan that is `ordered`: narrow ones leave a core idle, see `Plan`.
_TOGETHER = 2


def statistics(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The criterion's statistics of all classes at hand, and the logits that are kept, in the place of the head."""
    z_blocks = _split(plan, z)

    def step(carry, tile):
        logits, label, _ = _logits(plan, z_blocks, head, targets, tile)
        kept = carry[1]._replace(kernels=(tile.put(carry[1].kernels[0], logits[-1]),)) if plan.keeps else None
        return plan.criterion.update(carry[0], logits, label, targets, tile), kept

    start = plan.criterion.start((len(plan.nesting), z.shape[0]))
    return plan.fold(step, (start, unwritten(head) if plan.keeps else None))


def gradients(plan: Plan, z: jax.Array, head: Head, saved, kept: Head | None, scales: jax.Array, targets: jax.Array):
    """dz (B, D) in float32, of the classes at hand, and the gradient of the head."""
    z_blocks, last = _split(plan, z), len(plan.nesting) - 1
    z_turned = [block.T for block in z_blocks]  # outside of the loop: products that sum over the rows are faster so
    in_place = plan.ordered or plan.chunk < plan.width

    def step(carry, tile):
        kernels, biases, rows, columns, r = *map(list, carry[1]), [], [], None
        logits, _, used = _logits(plan, z_blocks, head, targets, tile, last if plan.keeps else last + 1)
        turned = [block.T for block in used] if plan.ordered else z_turned
        if plan.keeps:
            logits.append(tile.cut(kernels[0], 0, z.shape[0]))
        for g, (i, low, high) in reversed(list(enumerate(plan.blocks))):
            level = jax.tree.map(lambda s, g=g: s[g], saved)
            own = plan.criterion.residual(logits[g], level, targets, tile, plan.lay(scales[g]))
            r = own if r is None or not plan.tied else r + own
            rounded = r.astype(head.kernels[i].dtype)
            rows.append(plan.product(rounded, tile.cut(head.kernels[i], low, high), (1, 1)))
            columns.append(plan.product(turned[g], rounded).astype(rounded.dtype))
            if in_place:
                kernels[i] = tile.put(kernels[i], columns[-1], low)
            if g == 0 or not plan.tied:
                biases[i] = tile.put(biases[i], r.sum(axis=plan.axis(0)))
        if not in_place:
            kernels = [jnp.concatenate(columns[::-1], axis=plan.axis(0))] if plan.tied else columns[::-1]
        return carry[0] + _join(plan, rows), Head(tuple(kernels), tuple(biases))

    dz, grads = plan.fold(step, (jnp.zeros(plan.lay(z).shape, jnp.float32), kept or unwritten(head)))
    return plan.lay(dz), grads


def _join(plan: Plan, rows: list[jax.Array]) -> jax.Array:
    """dz (B, D) from the parts of the levels, the last one first."""
    if plan.tied:
        return jnp.concatenate(rows[::-1], axis=plan.axis(1))
    return sum(jnp.pad(part, ((0, 0), (0, plan.nesting.full - part.shape[1]))) for part in rows)


def _split(plan: Plan, z: jax.Array) -> list[jax.Array]:
    """The features that each level adds; cut once, outside of the loop over the classes."""
    return [plan.lay(z[:, low:high]) for _, low, high in plan.blocks]


def _logits(
    plan: Plan, z_blocks: list[jax.Array], head: Head, targets: jax.Array, tile: Tile, upto: int | None = None
) -> tuple[list[jax.Array], jax.Array | None, list[jax.Array]]:
    """The logits of a chunk at every level, or the first `upto`: (B, c) each, float32.

    And the label's own (G, B) where it is apart, from the products themselves; and the features as they were used.
    """
    logits, label, used, parts, apart = [], [], [], [], plan.criterion.label_apart
    for g, (i, low, high) in enumerate(plan.blocks[:upto]):
        kernel, first = tile.cut(head.kernels[i], low, high), g == 0 or not plan.tied
        used.append(_after(parts[-_TOGETHER], z_blocks[g]) if plan.ordered and g >= _TOGETHER else z_blocks[g])
        part = _affine(plan, used[g], kernel, tile.cut(head.biases[i])) if first else plan.product(used[g], kernel)
        parts.append(part)
        if apart:
            own = tile.pick(part, targets)
            label.append(own if first else label[-1] + own)
        logits.append(plan.hide(part, targets, tile) if first else logits[-1] + part)
    return logits, jnp.stack(label) if label else None, used


def _after(first: jax.Array, then: jax.Array) -> jax.Array:
    """`then`, which waits for `first`: 0 is added, whatever that is. A barrier would not outlast the compiler."""
    return then + 0 * jnp.isnan(first[:1, :1]).astype(then.dtype)


def _affine(plan: Plan, z: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """z @ kernel + bias; in float32 as one product, the bias the row of a constant feature: a pass over memory less."""
    bias = plan.lay(bias[None])
    if bias.dtype != kernel.dtype or kernel.dtype != jnp.float32:
        return plan.product(z, kernel) + bias.astype(jnp.float32)
    ones = plan.lay(jnp.ones((z.shape[plan.axis(0)], 1), z.dtype))
    wider = jnp.concatenate([ones, z], axis=plan.axis(1)), jnp.concatenate([bias, kernel], axis=plan.axis(0))
    return plan.product(*wider)
