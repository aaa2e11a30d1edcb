"""Masked language modelling with a nested head tied to the token embeddings (MRL, section 3; BERT, section 3.1)."""

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_head
from mrl_jax.losses.core import nested
from mrl_jax.losses.plan import make_plan
from mrl_jax.losses.softmax import Softmax
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


def nested_masked_lm(
    z_BxSxD: jax.Array,
    kernel_DxV: jax.Array,
    bias_V: jax.Array | None,
    targets_BxS: jax.Array,
    nesting: Nesting,
    *,
    chunk: int | None = None,
) -> NestedLoss:
    """Nested softmax cross-entropy over the vocabulary at the masked places alone.

    The head is one kernel, the transposed table of token embeddings, so that MRL is MRL-E here. Cost and memory are
    those of `nested_softmax` on B x S rows: nothing that grows with B x S x V is kept. The table is read as it lies.

    Args:
      z_BxSxD: features at S places of each text; D is the nesting's full dim.
      kernel_DxV: the head's kernel, shared by every dim.
      bias_V: its bias; None for none.
      targets_BxS: what stood at those places; a slot with a negative one is not used and counts for nothing.
      nesting: dims and weights.
      chunk: vocabulary entries visited at a time; None chooses by backend and shape.

    Returns:
      The mean over all places that are used, wherever they are (0 without any); `correct` and `weight` are of B x S
      rows.

    Raises:
      ValueError: if a shape, a dtype or chunk does not fit; the message names it.
    """
    if z_BxSxD.ndim != 3 or targets_BxS.shape != z_BxSxD.shape[:2]:
        raise ValueError(f"z of shape {z_BxSxD.shape} must be (B, S, D), and targets {targets_BxS.shape} (B, S)")
    if not jnp.issubdtype(targets_BxS.dtype, jnp.integer):
        raise ValueError(f"targets are {targets_BxS.dtype}; they must be integers")
    z, targets = z_BxSxD.reshape(-1, z_BxSxD.shape[2]), targets_BxS.reshape(-1)
    weight = (targets >= 0).astype(jnp.float32)
    head = check_head(z, [kernel_DxV], [bias_V], nesting, True)
    plan = make_plan(Softmax(0.0, kernel_DxV.shape[1]), nesting, z.shape[0], head, chunk)
    if not plan.even:  # the caller's own transposition, of the table, falls away
        plan, head = plan._replace(turned=True), head._replace(kernels=(head.kernels[0].T,))
    # A slot that is not used has some entry of the vocabulary for its target, so that its loss is finite.
    return nested(plan, z, head, jnp.maximum(targets, 0), weight)._replace(weight=weight)
