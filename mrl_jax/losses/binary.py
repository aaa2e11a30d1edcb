"""Sigmoid cross-entropy at every nested dim: multi-label classification, as on JFT (MRL, section 4.1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_head, check_targets
from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.core import nested
from mrl_jax.losses.plan import make_plan
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


class Binary(NamedTuple):
    """The criterion sum over c of softplus(logit_c) - target_c logit_c; its running sum needs no maximum."""

    label_apart = False

    def start(self, shape):
        """No class seen."""
        return jnp.zeros(shape)

    def update(self, stats, logits, label, targets, tile: Tile):
        """Adds the terms of a chunk."""
        t = tile.cut(targets).astype(jnp.float32)
        return stats + jnp.stack([(jax.nn.softplus(a) - t * a).sum(axis=1) for a in logits])

    def finish(self, stats, plan, z_BxD, head, targets):
        """Merges the shards of the classes."""
        return plan.sum(stats), {"correct": None}, None

    def residual(self, logits, saved, targets, tile: Tile, scale):
        """scale (sigmoid - target)."""
        return scale * (jax.nn.sigmoid(logits) - tile.cut(targets).astype(jnp.float32))


def nested_binary(
    z_BxD: jax.Array,
    kernel_DxC: jax.Array,
    bias_C: jax.Array | None,
    targets_BxC: jax.Array,
    nesting: Nesting,
    *,
    chunk: int | None = None,
) -> NestedLoss:
    """Nested sigmoid cross-entropy of a weight-tied head, summed over classes; `correct` is None.

    Args:
      z_BxD: features; D is the nesting's full dim.
      kernel_DxC: the head's kernel, shared by every dim.
      bias_C: its bias, shared by every dim; None for none.
      targets_BxC: 0 or 1, or any number between, of any dtype; a constant, it gets no gradient.
      nesting: dims and weights.
      chunk: classes visited at a time; None chooses by backend and shape.

    Raises:
      ValueError: if a shape or chunk does not fit; the message names it.
    """
    head = check_head(z_BxD, [kernel_DxC], [bias_C], nesting, tied=True)
    check_targets(targets_BxC, (z_BxD.shape[0], kernel_DxC.shape[1]))
    return nested(make_plan(Binary(), nesting, z_BxD.shape[0], head, chunk), z_BxD, head, targets_BxC, None)
