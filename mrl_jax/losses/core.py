"""The nested linear head in one pass: prefix-accumulated logits, classes in chunks, its own backward pass.

Let m_1 < ... < m_G be the nested dims, block g the features between m_{g-1} and m_g. With a tied head the logits of
dim m_g are those of dim m_{g-1} plus z_block_g @ W_block_g, so one full product passes through every level.
In the backward pass every level h >= g reads block g: with P_h - Y the residual of level h and w_h its weight,
    R_g = sum over h >= g of w_h / B x (P_h - Y),   dz_block_g = R_g @ W_block_g^T,   dW_block_g = z_block_g^T @ R_g,
a suffix sum over levels. An untied head shares nothing: level g reads features 0..m_g and neither sum accumulates.

The forward pass saves its inputs and O(G B) statistics; the backward pass computes the logits of each chunk again.
Sums and statistics are float32; products take the dtype of z and kernel, to which R is rounded, and sum in float32.
"""

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from mrl_jax.losses.chunks import Tile, Visit, fold
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


class Head(NamedTuple):
    """A linear head: one (D, C) kernel and (C,) bias for every dim (tied), or one (m_g, C) kernel and bias per dim."""

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]


class Criterion(Protocol):
    """What a loss does with logits; a static argument. K counts the shards of the classes, c those of a chunk."""

    def start(self, shape: tuple[int, int, int]):
        """The statistics before any class is seen, of shape (G, B, K)."""

    def update(self, stats, logits: list[jax.Array], targets: jax.Array, tile: Tile):
        """The statistics after a chunk, from its logits: G arrays (B, K, c), float32."""

    def finish(self, stats, plan: "Plan", z_BxD: jax.Array, head: Head):
        """Per-example losses (G, B), `correct` (G, B) or None, and the statistics `residual` needs, (G, ...) or None."""

    def residual(self, logits_BxKxc: jax.Array, saved, targets: jax.Array, tile: Tile) -> jax.Array:
        """P - Y: the derivative of one level's per-example loss by its logits."""


class Plan(NamedTuple):
    """The static part of a nested loss."""

    criterion: Criterion
    nesting: Nesting
    tied: bool
    visit: Visit

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Per level: the kernel that it reads, the first and the past-the-last feature that it adds."""
        dims = self.nesting.dims
        return [(0, low, high) if self.tied else (g, 0, high) for g, (low, high) in enumerate(zip((0, *dims), dims))]


def _dot(x: jax.Array, y: jax.Array, contract: tuple[int, int], batch: tuple[tuple, tuple] = ((), ())) -> jax.Array:
    return lax.dot_general(x, y, (((contract[0],), (contract[1],)), batch), preferred_element_type=jnp.float32)


def _logits(plan: Plan, z: jax.Array, head: Head, tile: Tile) -> list[jax.Array]:
    """The logits of a chunk at every level: G arrays (B, K, c), float32."""
    logits = []
    for g, (i, low, high) in enumerate(plan.blocks):
        before = logits[-1] if plan.tied and g else tile.cut(head.biases[i]).astype(jnp.float32)[None]
        logits.append(before + _dot(z[:, low:high], tile.cut(head.kernels[i], low, high), (1, 0)))
    return logits


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def nested(plan: Plan, z_BxD: jax.Array, head: Head, targets: jax.Array) -> NestedLoss:
    """The nested loss of a linear head. Only `total` carries a gradient, to z and head; the targets are constants."""
    return _forward(plan, z_BxD, head, targets)[0]


def _forward(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The loss, and what the backward pass needs."""

    def step(stats, tile):
        return plan.criterion.update(stats, _logits(plan, z, head, tile), targets, tile)

    stats = plan.criterion.start((len(plan.nesting), z.shape[0], plan.visit.shards))
    stats = fold(step, stats, plan.visit)
    loss_GxB, correct_GxB, saved = plan.criterion.finish(stats, plan, z, head)
    per_dim = loss_GxB.mean(axis=1)
    total = sum(w * per_dim[g] for g, w in enumerate(plan.nesting.weights))
    return NestedLoss(total, per_dim, correct_GxB), (z, head, targets, saved)


def _backward(plan: Plan, residuals, cotangent: NestedLoss):
    """The gradients by z and head."""
    z, head, targets, saved = residuals
    scales = [cotangent.total * (w / z.shape[0]) for w in plan.nesting.weights]

    def step(carry, tile):
        dz, kernels, biases = carry[0], *map(list, carry[1])
        logits, r = _logits(plan, z, head, tile), None
        for g, (i, low, high) in reversed(list(enumerate(plan.blocks))):
            own = scales[g] * plan.criterion.residual(logits[g], jax.tree.map(lambda s, g=g: s[g], saved), targets, tile)
            r = own if r is None or not plan.tied else r + own
            rounded = r.astype(head.kernels[i].dtype)
            product = _dot(rounded, tile.cut(head.kernels[i], low, high), (2, 2), ((1,), (1,)))
            dz = lax.dynamic_update_slice(dz, dz[:, :, low:high] + product, (0, 0, low))
            kernels[i] = tile.put(kernels[i], _dot(z[:, low:high], rounded, (0, 0)), low)
            if g == 0 or not plan.tied:
                biases[i] = tile.put(biases[i], r.sum(axis=0))
        return dz, Head(tuple(kernels), tuple(biases))

    zeros = jax.tree.map(lambda p: plan.visit.split(jnp.zeros_like(p)), head)
    dz, grads = fold(step, (jnp.zeros((plan.visit.shards, *z.shape), jnp.float32), zeros), plan.visit)
    return dz.sum(axis=0).astype(z.dtype), jax.tree.map(lambda d, p: d.reshape(p.shape), grads, head), None


nested.defvjp(_forward, _backward)
