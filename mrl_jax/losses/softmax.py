"""Softmax cross-entropy at every nested dim (MRL, section 3): the objective of classification."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_head, check_labels, check_smoothing
from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.core import nested
from mrl_jax.losses.plan import Head, Plan, make_plan
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


class _Statistics(NamedTuple):
    """Of the logits seen so far, each (G, B): a maximum, the sum of exponentials below it, the label's logit."""

    rival: jax.Array
    sumexp: jax.Array
    label: jax.Array


def _rivals(logits: jax.Array, before_label: jax.Array) -> jax.Array:
    """The logits, one float higher for classes before the label: the label is ranked first if none exceeds its own.

    One maximum then serves both the softmax, which any value near the largest logit keeps in range, and the rank, with
    ties going to the lower class as in argmax. 0.6 of the spacing of floats rounds to one step for every mantissa,
    and a sum and a product are what the compiler fuses into the maximum, unlike `nextafter`.

    Args:
      logits: (B, c).
      before_label: (B, c), 1.0 for classes before the label of the row, else 0.0.
    """
    step = jnp.finfo(jnp.float32)
    return logits + before_label * (0.6 * step.eps * jnp.abs(logits) + step.tiny)


class Softmax(NamedTuple):
    """The criterion -sum over c of target_c log softmax(logits)_c, target = (1 - s) onehot(label) + s/C."""

    label_smoothing: float
    n_classes: int

    def start(self, shape):
        """No class seen."""
        return _Statistics(jnp.full(shape, jnp.finfo(jnp.float32).min), jnp.zeros(shape), jnp.full(shape, -jnp.inf))

    def update(self, stats, logits, targets, tile: Tile):
        """Online log-sum-exp: the sum is rescaled to each new maximum."""
        position = tile.position(targets)
        before = (jnp.arange(tile.size)[None] < position).astype(jnp.float32)
        rival = jnp.maximum(stats.rival, jnp.stack([_rivals(a, before).max(axis=1) for a in logits]))
        sumexp = jnp.stack([jnp.exp(a - rival[g][:, None]).sum(axis=1) for g, a in enumerate(logits)])
        inside = ((position >= 0) & (position < tile.size))[:, 0]
        label = jnp.stack([jnp.take_along_axis(a, position, axis=1, mode="clip")[:, 0] for a in logits])
        return _Statistics(
            rival,
            stats.sumexp * jnp.exp(stats.rival - rival) + sumexp,
            jnp.where(inside[None], label, stats.label),
        )

    def finish(self, stats, plan: Plan, z_BxD, head):
        """Merges the shards of the classes; saves the log-sum-exp."""
        rival, label = plan.max(stats.rival), plan.max(stats.label)
        lse = rival + jnp.log(plan.sum(stats.sumexp * jnp.exp(stats.rival - rival)))
        expected = label
        if self.label_smoothing:
            expected = (1 - self.label_smoothing) * label + self.label_smoothing * _mean_logits(plan, z_BxD, head)
        return lse - expected, label >= rival, lse

    def residual(self, logits, saved, targets, tile: Tile):
        """softmax - target."""
        onehot = tile.position(targets) == jnp.arange(tile.size)[None]
        target = jnp.where(onehot, 1 - self.label_smoothing, 0.0) + self.label_smoothing / self.n_classes
        return jnp.exp(logits - saved[:, None]) - target


def _mean_logits(plan: Plan, z_BxD: jax.Array, head: Head) -> jax.Array:
    """The mean over classes of each level's logits, (G, B), by linearity: the logit of the mean kernel column."""
    columns = [plan.sum(k.sum(axis=1, dtype=jnp.float32)) / plan.n_classes for k in head.kernels]
    means = []
    for g, (i, low, high) in enumerate(plan.blocks):
        before = means[-1] if plan.tied and g else plan.sum(head.biases[i].sum(dtype=jnp.float32)) / plan.n_classes
        product = jnp.dot(z_BxD[:, low:high].astype(jnp.float32), columns[i][low:high])
        means.append(before + product)
    return jnp.stack(means)


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
    return nested(make_plan(criterion, nesting, z.shape[0], head, chunk), z, head, labels)
