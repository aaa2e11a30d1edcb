"""Softmax contrastive loss in both directions at every nested dim: image-text and sentence pairs (MRL, section 4.1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mrl_jax.losses.exponentials import exp
from mrl_jax.losses.negatives import check_negatives, rivals
from mrl_jax.losses.pairs import check_pairs, dot_products, for_each_dim, nested_pairs, scaled_cosine
from mrl_jax.losses.tiles import Layout, Side, every_pair, replace, without_fillers
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting

# Exponentials are taken of logits less max(0, |scale| - _RANGE): none is beyond exp(_RANGE), so that neither the sum of
# millions nor the inverse of one leaves float32. A sum below _LEAST would have lost digits: then maxima are needed.
_RANGE, _LEAST = 60.0, 1e-25


class _Saved(NamedTuple):
    """What the backward pass needs, (G, B) each but the last two: (G,) and a scalar.

    The matching pair is no rival of itself: the loss of a pair that is all but certain keeps its digits.
    """

    row: jax.Array  # log-sum-exp of the rivals among the columns, and of those that a row has besides
    column: jax.Array  # and among the rows
    label: jax.Array  # the logit of the matching pair
    shift: jax.Array
    bounded: jax.Array  # whether exponentials of logits - shift suffice


class Contrastive(NamedTuple):
    """Half the softmax cross-entropy of each row, half that of each column.

    A cosine is at most 1, so one exponential of a pair, with no maximum known, does for both directions. Only where all
    of a row or column lies so far below `scale` that its sum vanishes, the maxima are found first, in a pass more.
    """

    biased: bool = False

    def statistics(self, layout: Layout, u: Side, v: Side, scale_G, bias_G, others):
        """Log-sum-exps of rows and columns."""
        shift_G = jnp.maximum(jnp.abs(scale_G) - _RANGE, 0.0)
        row, column, label, correct, least = _bounded(layout, u, v, shift_G)
        if layout.axis_name is not None:
            least = lax.pmin(least, layout.axis_name)
        bounded = least > _LEAST
        row, column, label, correct = lax.cond(
            bounded, lambda: (row, column, label, correct), lambda: _with_maxima(layout, u, v)
        )
        if others is not None:
            row = jnp.logaddexp(row, others)
        loss = 0.5 * (jax.nn.softplus(row - label) + jax.nn.softplus(column - label))
        return loss, correct, _Saved(row, column, label, shift_G, bounded)

    def residuals(self, layout: Layout, saved: _Saved, weights_GxB, run, bias_G):
        """Half the softmax of the row, half that of the column, less one for the matching pair."""
        half = 0.5 * weights_GxB
        row, column = (jnp.logaddexp(rivals, saved.label) for rivals in (saved.row, saved.column))
        matching = -half * (jax.nn.sigmoid(saved.row - saved.label) + jax.nn.sigmoid(saved.column - saved.label))

        def shared(g, logits, mine, theirs):
            e = exp(without_fillers(logits - saved.shift[g], mine, theirs))
            return e * (mine.extra[g][:, None] + theirs.extra[g][None])

        def separate(g, logits, mine, theirs):
            logits = without_fillers(logits, mine, theirs)
            by_row = mine.extra[0][g][:, None] * exp(logits - mine.extra[1][g][:, None])
            return by_row + theirs.extra[0][g][None] * exp(logits - theirs.extra[1][g][None])

        def one():
            return run(shared, *(layout.cut(half * jnp.exp(saved.shift[:, None] - x)) for x in (row, column)), matching)

        def two():
            return run(separate, *((layout.cut(half), layout.cut(x)) for x in (row, column)), matching)

        return lax.cond(saved.bounded, one, two)

    def by_others(self, saved: _Saved, weights_GxB, others_GxB):
        """Half the softmax of the row."""
        return 0.5 * weights_GxB * jnp.exp(others_GxB - jnp.logaddexp(saved.row, saved.label))


def _bounded(layout: Layout, u: Side, v: Side, shift_G):
    """Log-sum-exps of rivals by row and by column, the matching logit, `correct`, and the least of all sums."""

    def tile(row, column, row_state, column_state, diagonal):
        (rows, largest, label, own), columns = map(list, row_state), list(column_state)
        for g, dots in enumerate(dot_products(row, column, layout.nesting)):
            logits = scaled_cosine(dots, row, column, g)
            e = exp(without_fillers(logits - shift_G[g], row, column))
            if diagonal:
                label[g], own[g] = jnp.diagonal(logits), jnp.diagonal(e)
            e = replace(e, row, column, diagonal, 0.0, True)
            rows[g], columns[g] = rows[g] + e.sum(axis=1), columns[g] + e.sum(axis=0)
            largest[g] = jnp.maximum(largest[g], e.max(axis=1))
        return tuple(map(jnp.stack, (rows, largest, label, own))), jnp.stack(columns)

    zeros = layout.vary(jnp.zeros((layout.count, len(layout.nesting), layout.size)))
    states = every_pair(layout, tile, u, v, (zeros,) * 4, zeros)
    (rows, largest, label, own), columns = jax.tree.map(layout.join, states)
    least = jnp.minimum(rows + own, columns + own).min()
    rows, columns = (shift_G[:, None] + jnp.log(x) for x in (rows, columns))
    return rows, columns, label, own > largest, least


def _with_maxima(layout: Layout, u: Side, v: Side):
    """As `_bounded`, less the last, for any logits."""
    lowest = jnp.finfo(jnp.float32).min

    def logits_of(row, column, diagonal):
        for g, dots in enumerate(dot_products(row, column, layout.nesting)):
            logits = scaled_cosine(dots, row, column, g)
            label = jnp.diagonal(logits)
            logits = without_fillers(logits, row, column)
            yield replace(logits, row, column, diagonal, -jnp.inf, True), label

    def maxima(row, column, row_state, column_state, diagonal):
        logits, labels = zip(*logits_of(row, column, diagonal))
        largest, label = row_state
        largest = jnp.maximum(largest, jnp.stack([a.max(axis=1) for a in logits]))
        columns = jnp.maximum(column_state, jnp.stack([a.max(axis=0) for a in logits]))
        return (largest, jnp.stack(labels) if diagonal else label), columns

    def sums(row, column, row_state, column_state, diagonal):
        logits, _ = zip(*logits_of(row, column, diagonal))
        rows = [exp(a - row.extra[g][:, None]).sum(axis=1) for g, a in enumerate(logits)]
        columns = [exp(a - column.extra[g][None]).sum(axis=0) for g, a in enumerate(logits)]
        return row_state + jnp.stack(rows), column_state + jnp.stack(columns)

    zeros = layout.vary(jnp.zeros((layout.count, len(layout.nesting), layout.size)))
    (row_max, label), column_max = every_pair(layout, maxima, u, v, (zeros + lowest, zeros), zeros + lowest)
    u, v = u._replace(extra=row_max), v._replace(extra=column_max)
    row, column = every_pair(layout, sums, u, v, zeros, zeros)
    row, column = row_max + jnp.log(row), column_max + jnp.log(column)
    return tuple(layout.join(x) for x in (row, column, label, label > row_max))


def nested_contrastive(
    u_BxD: jax.Array,
    v_BxD: jax.Array,
    scale: jax.Array | float,
    nesting: Nesting,
    *,
    chunk: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    ids_B: jax.Array | None = None,
    v_ids_B: jax.Array | None = None,
    negatives_BxKxD: jax.Array | None = None,
    negative_ids_BxK: jax.Array | None = None,
) -> NestedLoss:
    """Nested contrastive loss: row i of u matches row i of v, every other row of v is a negative, and the reverse.

    The logits of dim m are scale x the cosines of the first m features; the loss of an example is half the softmax
    cross-entropy of its row and half that of its column. `correct` tells that the pair is ranked first in its row of u.
    Costs 8BBD multiply-adds where one plain loss costs 6, and no memory that grows with B x B (see `pairs`).

    Hard negatives (query, positive, negative, ...) are rivals of the match in their own row alone: a negative was
    found for one query, and for another may be a right answer. They take part in the row's softmax and in `correct`,
    not in the columns', as no row of u belongs to them.

    Inside `jax.shard_map`, with the batch shared among the devices of `axis_name`, the loss is that of the whole batch:
    `total` and `per_dim` are the same on all devices, `correct` is about the rows at hand, and memory per device falls
    with their number.

    Args:
      u_BxD: features of one side, of any length; D is the nesting's full dim. A prefix of zeros has cosine 0.
      v_BxD: features of the other side, of the same shape and dtype.
      scale: the inverse temperature, one number or (G,) of each dim; differentiable.
      nesting: dims and weights.
      chunk: rows and columns of a tile; None chooses by backend.
      axis_name: the mesh axis, or axes, inside shard_map along which the batch is shared; None outside of it.
      ids_B: integers; two rows of the same one (a caption that comes twice) are no negatives of each other. Or (B, I):
        two rows that share the i-th of theirs are none.
      v_ids_B: those of the rows of v, where they differ: row i of u and row j of v are no negatives if `ids_B` of i is
        `v_ids_B` of j (a text that comes on both sides).
      negatives_BxKxD: K hard negatives of each row of u, as u in dtype and dims; None for none.
      negative_ids_BxK: integers; a negative with its own row's (first) id in ids_B is the match itself, and left out.

    Returns:
      The loss; where negatives are given, `ahead` tells that the match is ahead of its row's own.

    Raises:
      ValueError: if a shape, a dtype or chunk does not fit; the message names it.
    """
    ids = check_pairs(u_BxD, v_BxD, nesting, ids_B, v_ids_B)
    scale_G = for_each_dim("scale", scale, nesting)
    arguments = (Contrastive(), u_BxD, v_BxD, scale_G, jnp.zeros(len(nesting)), nesting, chunk, axis_name, ids)
    if negatives_BxKxD is None:
        return nested_pairs(*arguments)
    check_negatives(u_BxD, negatives_BxKxD, ids_B, negative_ids_BxK)
    masked_BxK = None if negative_ids_BxK is None else negative_ids_BxK == ids_B.reshape(len(ids_B), -1)[:, :1]
    others_GxB, ahead_GxB = rivals(u_BxD, v_BxD, negatives_BxKxD, scale_G, nesting, masked_BxK)
    found = nested_pairs(*arguments, others_GxB)
    return found._replace(correct=found.correct & ahead_GxB, known={"ahead_of_negatives": ahead_GxB})
