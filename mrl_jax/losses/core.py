"""The nested linear head in one pass: prefix-accumulated logits, classes in chunks, its own backward pass.

Let m_1 < ... < m_G be the nested dims, block g the features between m_{g-1} and m_g. With a tied head the logits of
dim m_g are those of dim m_{g-1} plus z_block_g @ W_block_g, so one full product passes through every level.
In the backward pass every level h >= g reads block g: with P_h - Y the residual of level h and w_h its weight,
    R_g = sum over h >= g of w_h / B x (P_h - Y),   dz_block_g = R_g @ W_block_g^T,   dW_block_g = z_block_g^T @ R_g,
a suffix sum over levels. An untied head shares nothing: level g reads features 0..m_g and neither sum accumulates.

The forward pass saves its inputs and O(G B) statistics; the backward pass computes the logits of each chunk again.
Sums and statistics are float32; products take the dtype of z and kernel, to which R is rounded, and sum in float32.

Where the mesh in use has a `model` axis that divides the classes, each of its devices visits its own share of them and
the statistics and dz are summed over the axis once, at the end; were the sharded axis itself cut into chunks, every
device would gather the whole kernel. All other axes are left to the compiler.
"""

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from mrl_jax.losses.chunks import Tile, choose_chunk, fold
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting

CLASS_AXIS = "model"


class Head(NamedTuple):
    """A linear head: one (D, C) kernel and (C,) bias for every dim (tied), or one (m_g, C) kernel and bias per dim."""

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]


# How a head lies on the shards of the classes.
SPLIT = Head(P(None, CLASS_AXIS), P(CLASS_AXIS))


class Criterion(Protocol):
    """What a loss does with logits; hashable. c counts the classes of a chunk, S are statistics of its choice."""

    def start(self, shape: tuple[int, int]):
        """S before any class is seen, from (G, B)."""

    def update(self, stats, logits: list[jax.Array], targets: jax.Array, tile: Tile):
        """S after a chunk, from its logits: G arrays (B, c), float32."""

    def finish(self, stats, plan: "Plan", z_BxD: jax.Array, head: Head):
        """Per-example losses (G, B), `correct` (G, B) or None, and what `residual` needs: (G, ...) or None."""

    def residual(self, logits_Bxc: jax.Array, saved, targets: jax.Array, tile: Tile) -> jax.Array:
        """P - Y: the derivative of one level's per-example loss by its logits."""


class Plan(NamedTuple):
    """The static part of a nested loss: of n_classes classes in `shards` equal parts, `chunk` at a time of each."""

    criterion: Criterion
    nesting: Nesting
    tied: bool
    n_classes: int
    shards: int
    chunk: int

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Per level: the kernel that it reads, the first and the past-the-last feature that it adds."""
        dims = self.nesting.dims
        return [(0, low, high) if self.tied else (g, 0, high) for g, (low, high) in enumerate(zip((0, *dims), dims))]

    def split(self, z: jax.Array) -> list[jax.Array]:
        """The features that each level adds; cut once, outside of the loop over the classes."""
        return [z[:, low:high] for _, low, high in self.blocks]

    def fold(self, step, carry):
        """`step(carry, tile)` over the classes at hand."""
        width = self.n_classes // self.shards
        first = lax.axis_index(CLASS_AXIS) * width if self.shards > 1 else 0
        return fold(step, carry, width, self.chunk, first)

    def sum(self, x):
        """The sum over the shards of the classes."""
        return lax.psum(x, CLASS_AXIS) if self.shards > 1 else x

    def max(self, x):
        """The maximum over the shards of the classes."""
        return lax.pmax(x, CLASS_AXIS) if self.shards > 1 else x

    def over_shards(self, f, *args, returns):
        """f(*args) on each shard of the classes: heads and the last argument (targets) are split, the others whole.

        `returns` is the partition of what f returns: P() for what is whole, SPLIT for a head.
        """
        if self.shards == 1:
            return f(*args)
        specs = [SPLIT if isinstance(x, Head) else P() for x in args]
        specs[-1] = P(None, CLASS_AXIS) if args[-1].ndim == 2 else P()
        options = {"axis_names": {CLASS_AXIS}, "check_vma": False}
        return jax.shard_map(f, in_specs=tuple(specs), out_specs=returns, **options)(*args)


def make_plan(criterion: Criterion, nesting: Nesting, rows: int, head: Head, chunk: int | None) -> Plan:
    """The plan for `rows` examples of these shapes on the mesh in use. Raises ValueError on a chunk below 1."""
    n_classes = head.kernels[0].shape[1]
    axis = jax.sharding.get_abstract_mesh().shape.get(CLASS_AXIS, 1)
    shards = axis if n_classes % axis == 0 else 1
    chunk = choose_chunk(n_classes, len(nesting), rows, shards, chunk)
    return Plan(criterion, nesting, len(head.kernels) < len(nesting), n_classes, shards, chunk)


def _dot(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    return lax.dot_general(x, y, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)


def _unwritten(x: jax.Array) -> jax.Array:
    """An array like x that the chunks will fill: zeros would be one more pass over the memory of the kernel."""
    return lax.empty(x.shape, x.dtype)


def _logits(plan: Plan, z_blocks: list[jax.Array], head: Head, tile: Tile) -> list[jax.Array]:
    """The logits of a chunk at every level: G arrays (B, c), float32."""
    logits = []
    for g, (i, low, high) in enumerate(plan.blocks):
        before = logits[-1] if plan.tied and g else tile.cut(head.biases[i]).astype(jnp.float32)[None]
        logits.append(before + _dot(z_blocks[g], tile.cut(head.kernels[i], low, high), (1, 0)))
    return logits


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def nested(plan: Plan, z_BxD: jax.Array, head: Head, targets: jax.Array) -> NestedLoss:
    """The nested loss of a linear head. Only `total` carries a gradient, to z and head; the targets are constants."""
    return _forward(plan, z_BxD, head, targets)[0]


def _forward(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The loss, and what the backward pass needs."""

    def local(z, head, targets):
        z_blocks = plan.split(z)

        def step(stats, tile):
            return plan.criterion.update(stats, _logits(plan, z_blocks, head, tile), targets, tile)

        stats = plan.fold(step, plan.criterion.start((len(plan.nesting), z.shape[0])))
        return plan.criterion.finish(stats, plan, z, head)

    loss_GxB, correct_GxB, saved = plan.over_shards(local, z, head, targets, returns=P())
    per_dim = loss_GxB.mean(axis=1)
    total = sum(w * per_dim[g] for g, w in enumerate(plan.nesting.weights))
    return NestedLoss(total, per_dim, correct_GxB), (z, head, targets, saved)


def _backward(plan: Plan, residuals, cotangent: NestedLoss):
    """The gradients by z and head."""
    z, head, targets, saved = residuals
    scales = jnp.stack([cotangent.total * (w / z.shape[0]) for w in plan.nesting.weights])

    def local(z, head, saved, scales, targets):
        z_blocks = plan.split(z)

        def step(carry, tile):
            dz, kernels, biases = carry[0], *map(list, carry[1])
            logits, r = _logits(plan, z_blocks, head, tile), None
            for g, (i, low, high) in reversed(list(enumerate(plan.blocks))):
                level = jax.tree.map(lambda s, g=g: s[g], saved)
                own = scales[g] * plan.criterion.residual(logits[g], level, targets, tile)
                r = own if r is None or not plan.tied else r + own
                rounded = r.astype(head.kernels[i].dtype)
                product = _dot(rounded, tile.cut(head.kernels[i], low, high), (1, 1))
                dz = lax.dynamic_update_slice(dz, dz[:, low:high] + product, (0, low))
                kernels[i] = tile.put(kernels[i], _dot(z_blocks[g], rounded, (0, 0)), low)
                if g == 0 or not plan.tied:
                    biases[i] = tile.put(biases[i], r.sum(axis=0))
            return dz, Head(tuple(kernels), tuple(biases))

        dz, grads = plan.fold(step, (jnp.zeros(z.shape, jnp.float32), jax.tree.map(_unwritten, head)))
        return plan.sum(dz), grads

    dz, grads = plan.over_shards(local, z, head, saved, scales, targets, returns=(P(), SPLIT))
    return dz.astype(z.dtype), grads, None


nested.defvjp(_forward, _backward)
