"""The nested linear head in one pass: prefix-accumulated logits, classes in chunks, its own backward pass.

Let m_1 < ... < m_G be the nested dims, block g the features between m_{g-1} and m_g. With a tied head the logits of
dim m_g are those of dim m_{g-1} plus z_block_g @ W_block_g, so one full product passes through every level.
In the backward pass every level h >= g reads block g: with P_h - Y the residual of level h and w_h its weight,
    R_g = sum over h >= g of w_h / B x (P_h - Y),   dz_block_g = R_g @ W_block_g^T,   dW_block_g = z_block_g^T @ R_g,
a suffix sum over levels. An untied head shares nothing: level g reads features 0..m_g and neither sum accumulates.

The forward pass saves its inputs and O(G B) statistics; the backward pass computes the logits of each chunk again (on
a CPU those of the full dim are kept where that takes no memory, see `Plan`).
Sums and statistics are float32; products take the dtype of z and kernel, to which R is rounded, and sum in float32.

Where the mesh in use has a `model` axis that divides the classes, each of its devices visits its own share of them and
the statistics and dz are summed over the axis once, at the end; were the sharded axis itself cut into chunks, every
device would gather the whole kernel. All other axes are left to the compiler.
"""

from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mrl_jax.losses import cosines, looped, unrolled
from mrl_jax.losses.plan import Head, Plan
from mrl_jax.losses.types import NestedLoss


def _passes(plan: Plan) -> ModuleType:
    if plan.cosine:
        return cosines
    return looped if plan.even else unrolled


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def nested(plan: Plan, z_BxD: jax.Array, head: Head, targets: jax.Array, weight_B: jax.Array | None) -> NestedLoss:
    """The nested loss of a linear head. `total` and `per_dim` carry gradients to z and head, not to the rest.

    The mean over the batch is weighted by weight_B, float32 and not negative; None: all rows count the same. A row of
    weight 0 has no part in values or gradients.
    """
    return _forward(plan, z_BxD, head, targets, weight_B)[0]


def _forward(plan: Plan, z: jax.Array, head: Head, targets: jax.Array, weight: jax.Array | None):
    """The loss, and what the backward pass needs."""

    def local(z, head, targets):
        stats, kept = _passes(plan).statistics(plan, z, head, targets)
        return *plan.criterion.finish(stats, plan, z, head, targets), kept

    whole = (P(), P(), P(), plan.split if plan.keeps else P())
    loss_GxB, known, saved, kept = plan.over_shards(local, z, head, targets, returns=whole)
    if weight is None:
        per_dim = loss_GxB.mean(axis=1)
    else:
        weight = weight / jnp.maximum(weight.sum(), 1e-9)
        per_dim = jnp.where(weight[None] > 0, loss_GxB * weight[None], 0).sum(axis=1)
    total = jnp.sum(jnp.asarray(plan.nesting.weights, per_dim.dtype) * per_dim)
    correct = known.pop("correct", None)
    return NestedLoss(total, per_dim, correct, known=known), (z, head, targets, weight, saved, kept)


def _backward(plan: Plan, residuals, cotangent: NestedLoss):
    """The gradients by z and head."""
    z, head, targets, weight, saved, kept = residuals
    scales = cotangent.total * jnp.asarray(plan.nesting.weights) + cotangent.per_dim
    scales = scales / z.shape[0] if weight is None else scales[:, None, None] * weight[None, :, None]

    def local(z, head, saved, kept, scales, targets):
        dz, grads = _passes(plan).gradients(plan, z, head, saved, kept, scales, targets)
        return plan.sum(dz), grads

    dz, grads = plan.over_shards(local, z, head, saved, kept, scales, targets, returns=(P(), plan.split))
    return dz.astype(z.dtype), grads, None, None


nested.defvjp(_forward, _backward)
