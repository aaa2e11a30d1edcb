"""Sigmoid loss of all pairs at every nested dim (SigLIP: Zhai et al. 2023, with the nesting of MRL)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax.losses.pairs import check_pairs, dot_products, for_each_dim, nested_pairs, scaled_cosine
from mrl_jax.losses.tiles import Layout, Side, every_pair, replace, without_fillers
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


class Sigmoid(NamedTuple):
    """Softplus of the logit of a pair that does not match, and of minus the logit of one that does."""

    biased: bool = True

    def statistics(self, layout: Layout, u: Side, v: Side, scale_G, bias_G, others):
        """Sums over the rivals and the largest of them, by row."""

        def tile(row, column, state, _, diagonal):
            sums, largest, label = map(list, state)
            for g, dots in enumerate(dot_products(row, column, layout.nesting)):
                logits = bias_G[g] + scaled_cosine(dots, row, column, g)
                if diagonal:
                    label[g] = jnp.diagonal(logits)
                logits = replace(logits, row, column, diagonal, -jnp.inf, True)
                logits = without_fillers(logits, row, column)
                sums[g] = sums[g] + jax.nn.softplus(logits).sum(axis=1)
                largest[g] = jnp.maximum(largest[g], logits.max(axis=1))
            return tuple(map(jnp.stack, (sums, largest, label))), ()

        zeros = layout.vary(jnp.zeros((layout.count, len(layout.nesting), layout.size)))
        state, _ = every_pair(layout, tile, u, v, (zeros, zeros - jnp.inf, zeros), ())
        sums, largest, label = jax.tree.map(layout.join, state)
        return sums + jax.nn.softplus(-label), label > largest, label

    def residuals(self, layout: Layout, saved, weights_GxB, run, bias_G):
        """The sigmoid of the logit, less one for the matching pair."""

        def residual(g, logits, mine, theirs):
            logits = without_fillers(logits + bias_G[g], mine, theirs)
            return mine.extra[g][:, None] * jax.nn.sigmoid(logits)

        return run(residual, layout.cut(weights_GxB), None, -weights_GxB * jax.nn.sigmoid(-saved))


def nested_sigmoid(
    u_BxD: jax.Array,
    v_BxD: jax.Array,
    scale: jax.Array | float,
    bias: jax.Array | float,
    nesting: Nesting,
    *,
    chunk: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    ids_B: jax.Array | None = None,
    v_ids_B: jax.Array | None = None,
) -> NestedLoss:
    """Nested sigmoid loss: -1/B times the sum over all pairs of log sigmoid(+-(scale x cosine + bias)).

    The sign is plus for row i of u with row i of v. All else is as in `nested_contrastive`.

    Args:
      u_BxD: features of one side, of any length; D is the nesting's full dim. A prefix of zeros has cosine 0.
      v_BxD: features of the other side, of the same shape and dtype.
      scale: the inverse temperature, one number or (G,) of each dim; differentiable.
      bias: added to every logit, likewise; differentiable.
      nesting: dims and weights.
      chunk: rows and columns of a tile; None chooses by backend.
      axis_name: the mesh axis, or axes, inside shard_map along which the batch is shared; None outside of it.
      ids_B: integers; two rows of the same one (a caption that comes twice) are no negatives of each other. Or (B, I):
        two rows that share the i-th of theirs are none.
      v_ids_B: those of the rows of v, where they differ: row i of u and row j of v are no negatives if `ids_B` of i is
        `v_ids_B` of j (a text that comes on both sides).

    Raises:
      ValueError: if a shape, a dtype or chunk does not fit; the message names it.
    """
    ids = check_pairs(u_BxD, v_BxD, nesting, ids_B, v_ids_B)
    scale_G, bias_G = for_each_dim("scale", scale, nesting), for_each_dim("bias", bias, nesting)
    return nested_pairs(Sigmoid(), u_BxD, v_BxD, scale_G, bias_G, nesting, chunk, axis_name, ids)
