"""Softmax cross-entropy at every nested dim (MRL, section 3): the objective of classification."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_head, check_labels, check_smoothing
from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.core import nested
from mrl_jax.losses.exponentials import exp
from mrl_jax.losses.plan import Head, Plan, make_plan
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


class _Statistics(NamedTuple):
    """Of the classes seen so far, each (G, B).

    The label is no rival of itself: so the largest logit among its rivals tells its rank, and the loss of an example
    that is all but certain keeps its digits, as softplus(rivals - label) instead of a difference of large numbers.
    """

    rival: jax.Array  # the largest logit
    sumexp: jax.Array  # the sum of exponentials below it
    label: jax.Array  # the label's own logit; 0 before it is seen


class Softmax(NamedTuple):
    """The criterion -sum over c of target_c log softmax(logits)_c, target = (1 - s) onehot(label) + s/C."""

    label_apart = True
    label_smoothing: float
    n_classes: int

    def start(self, shape):
        """No class seen."""
        return _Statistics(jnp.full(shape, jnp.finfo(jnp.float32).min), jnp.zeros(shape), jnp.zeros(shape))

    def update(self, stats, logits, label, targets, tile: Tile):
        """Online log-sum-exp: the sum is rescaled to each new maximum."""
        # Level by level, and stacked at last: none waits for the products of those after it.
        rivals = [jnp.maximum(before, a.max(axis=tile.axis)) for before, a in zip(stats.rival, logits)]
        terms = [exp(a - tile.rows(r)).sum(axis=tile.axis) for r, a in zip(rivals, logits)]
        rival = jnp.stack(rivals)
        sumexp = jnp.stack(terms) + stats.sumexp * jnp.exp(stats.rival - rival)
        return _Statistics(rival, sumexp, stats.label + label)

    def finish(self, stats, plan: Plan, z_BxD, head, targets):
        """Merges the shards of the classes; saves the largest rival's logit, its probability and that of all rivals."""
        rival, rivals = merge_rivals(plan, stats)
        own = plan.sum(stats.label)
        label = jnp.where((targets >= 0) & (targets < self.n_classes), own, -jnp.inf)
        loss = jax.nn.softplus(rivals - label)
        if self.label_smoothing:
            # `own` is finite for a label of no class, so that the loss stays infinite.
            loss += self.label_smoothing * (own - _mean_logits(plan, z_BxD, head))
        saved = rival, jnp.exp(rival - jnp.logaddexp(rivals, label)), jax.nn.sigmoid(rivals - label)
        return loss, {"correct": label > rival}, saved

    def residual(self, logits, saved, targets, tile: Tile, scale):
        """scale (softmax - target), of the terms that `update` sums: where one chunk is all, they are computed once.

        No factor is left for the end, after `where`: the compiler would compute the exponentials again for every use.
        """
        rival_Bx1, share_Bx1, rivals_Bx1 = map(tile.rows, saved)
        even = self.label_smoothing / self.n_classes
        label_Bx1 = scale * (self.label_smoothing - even - rivals_Bx1)
        elsewhere = exp(logits - rival_Bx1) * (scale * share_Bx1) - scale * even
        return jnp.where(tile.is_label(targets), label_Bx1, elsewhere)


def merge_rivals(plan: Plan, stats: _Statistics) -> tuple[jax.Array, jax.Array]:
    """Over the shards of the classes: the largest logit of another class than the label; the log-sum-exp of them."""
    rival = plan.max(stats.rival)
    return rival, rival + jnp.log(plan.sum(stats.sumexp * jnp.exp(stats.rival - rival)))


def _mean_logits(plan: Plan, z_BxD: jax.Array, head: Head) -> jax.Array:
    """The mean over classes of each level's logits, (G, B), by linearity: the logit of the mean kernel column."""
    z_BxD = z_BxD.astype(jnp.float32)
    columns = [plan.sum(k.sum(axis=1, dtype=jnp.float32)) / plan.n_classes for k in head.kernels]
    biases = [plan.sum(bias.sum(dtype=jnp.float32)) / plan.n_classes for bias in head.biases]
    columns, biases = ([x[0]] * len(plan.nesting) if plan.tied else x for x in (columns, biases))
    padded = [jnp.pad(w[:m], (0, plan.nesting.full - m)) for w, m in zip(columns, plan.nesting.dims)]
    return jnp.einsum("gd,bd->gb", jnp.stack(padded), z_BxD, precision="highest") + jnp.stack(biases)[:, None]


def nested_softmax(
    z_BxD: jax.Array,
    kernel_DxC: jax.Array,
    bias_C: jax.Array | None,
    labels_B: jax.Array,
    nesting: Nesting,
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> NestedLoss:
    """Nested softmax cross-entropy of a weight-tied head (MRL-E): logits of dim m are z[:, :m] @ kernel[:m] + bias.

    Costs 8BCD multiply-adds where one plain head costs 6, and no memory that grows with B x C (see `core`).

    Args:
      z_BxD: features; D is the nesting's full dim.
      kernel_DxC: the head's kernel, shared by every dim.
      bias_C: its bias, shared by every dim; None for none.
      labels_B: integer classes. A label outside 0..C-1 makes the loss infinite.
      nesting: dims and weights.
      label_smoothing: share of the target spread evenly over the classes, at every dim.
      chunk: classes visited at a time; None chooses by backend and shape.

    Raises:
      ValueError: if a shape, a dtype, label_smoothing or chunk does not fit; the message names it.
    """
    return _softmax(z_BxD, [kernel_DxC], [bias_C], labels_B, nesting, label_smoothing, chunk, tied=True)


def nested_softmax_untied(
    z_BxD: jax.Array,
    kernels: list[jax.Array],
    biases: list[jax.Array | None],
    labels_B: jax.Array,
    nesting: Nesting,
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> NestedLoss:
    """Nested softmax cross-entropy with one head per dim (MRL): logits of dim m_g are z[:, :m_g] @ kernels[g] +
    biases[g].

    As `nested_softmax`, save that kernels[g] is (m_g, C) and biases[g] (C,) or None. Heads that share no weight share
    no product either: the cost is that of the sum of the dims.
    """
    return _softmax(z_BxD, list(kernels), list(biases), labels_B, nesting, label_smoothing, chunk, tied=False)


def _softmax(z, kernels, biases, labels, nesting, label_smoothing, chunk, tied) -> NestedLoss:
    head = check_head(z, kernels, biases, nesting, tied)
    check_labels(labels, z.shape[0])
    check_smoothing(label_smoothing)
    criterion = Softmax(float(label_smoothing), head.kernels[0].shape[1])
    return nested(make_plan(criterion, nesting, z.shape[0], head, chunk), z, head, labels, None)
