"""Margins on cosines, and the cross-entropy of given logits: what makes a shared classifier a metric space.

Logits of a margin are those of unit features and unit class vectors, with the label's made harder by a margin and all
multiplied by a scale. Either loss, cross-entropy or `evidential`, takes them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax.choices import choose
from mrl_jax.losses.checks import check_head, check_labels
from mrl_jax.losses.chunks import Tile
from mrl_jax.losses.core import nested
from mrl_jax.losses.exponentials import exp
from mrl_jax.losses.plan import Plan, make_plan
from mrl_jax.losses.softmax import Softmax, merge_rivals
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


def arcface(cosines_BxK: jax.Array, labels_B: jax.Array, *, margin: float = 0.5, scale: float = 64.0) -> jax.Array:
    """scale * cos(angle + margin) for the label, scale * cosine for the others (ArcFace, Deng et al. 2019); float32.

    Beyond angle = pi - margin, where the cosine would rise again, the label's is cosine - margin sin(margin), which
    falls on. A cosine of 1 or -1 has a finite gradient.

    Raises:
      ValueError: if a shape does not fit, margin is not in 0..pi or scale not above 0.
    """
    return _of_all(cosines_BxK, labels_B, "arcface", margin, scale)


def cosface(cosines_BxK: jax.Array, labels_B: jax.Array, *, margin: float = 0.35, scale: float = 64.0) -> jax.Array:
    """scale * (cosine - margin) for the label, scale * cosine for the others (CosFace, Wang et al. 2018); float32.

    Raises:
      ValueError: if a shape does not fit, margin is not in 0..2 or scale not above 0.
    """
    return _of_all(cosines_BxK, labels_B, "cosface", margin, scale)


def plain(logits_BxK: jax.Array, labels_B: jax.Array) -> jax.Array:
    """The logits as they are, float32."""
    check_labels(labels_B, logits_BxK.shape[0])
    return logits_BxK.astype(jnp.float32)


MARGINS = {"arcface": arcface, "cosface": cosface, "plain": plain}


def cross_entropy(logits_BxK: jax.Array, labels_B: jax.Array) -> jax.Array:
    """Per-example softmax cross-entropy (B,), float32; a label outside 0..K-1 makes it infinite."""
    check_labels(labels_B, logits_BxK.shape[0])
    logits = logits_BxK.astype(jnp.float32)
    own_B = jnp.where(_is_label(labels_B, logits), logits, 0.0).sum(axis=1)
    inside = (labels_B >= 0) & (labels_B < logits.shape[1])
    return jnp.where(inside, jax.nn.logsumexp(logits, axis=1) - own_B, jnp.inf)


class Margin(NamedTuple):
    """The criterion of softmax cross-entropy whose logits are scaled cosines, the label's made harder."""

    harder: Callable[[jax.Array, float], jax.Array]
    margin: float
    scale: float
    n_classes: int

    label_apart = True
    start = Softmax.start

    def update(self, stats, logits, label, targets, tile: Tile):
        """That of the softmax, of scaled cosines."""
        return Softmax.update(self, stats, [self.scale * c for c in logits], self.scale * label, targets, tile)

    def finish(self, stats, plan: Plan, z_BxD, head, targets):
        """Merges the shards of the classes, and makes the label's logit harder; `correct` is without the margin."""
        rival, rivals = merge_rivals(plan, stats)
        own, inside = plan.sum(stats.label), ((targets >= 0) & (targets < self.n_classes))[None]
        cosine = own / self.scale
        harder, slope = jax.jvp(lambda c: self.harder(c, self.margin), (cosine,), (jnp.ones_like(cosine),))
        label = jnp.where(inside, self.scale * harder, -jnp.inf)
        saved = jnp.logaddexp(rivals, label), self.scale * slope * jax.nn.sigmoid(rivals - label)
        return jax.nn.softplus(rivals - label), {"correct": inside & (own > rival)}, saved

    def residual(self, logits, saved, targets, tile: Tile, scale):
        """scale x own scale (softmax - target), that of the label times the slope of what makes it harder."""
        lse_Bx1, label_Bx1 = (x[:, None] for x in saved)
        elsewhere = self.scale * scale * exp(self.scale * logits - lse_Bx1)
        return jnp.where(tile.is_label(targets), -scale * label_Bx1, elsewhere)


def nested_margin(
    z_BxD: jax.Array,
    kernels: list[jax.Array],
    labels_B: jax.Array,
    nesting: Nesting,
    *,
    name: str,
    margin: float,
    scale: float,
    chunk: int | None = None,
) -> NestedLoss:
    """Cross-entropy of the cosines of every prefix with the columns of its kernel, the label's made harder.

    Args:
      z_BxD: features; D is the nesting's full dim.
      kernels: one (D, C) for all dims, or one (m_g, C) per dim.
      labels_B: integer classes. A label outside 0..C-1 makes the loss infinite.
      nesting: dims and weights.
      name: "arcface" or "cosface"; margin and scale as theirs.
      margin: what makes it harder.
      scale: of the cosines.
      chunk: classes visited at a time; None chooses by backend and shape.

    Raises:
      ValueError: if a shape, a dtype or an option does not fit; the message names it.
    """
    choose("name", name, _HARDER)
    head = check_head(z_BxD, list(kernels), [None] * len(kernels), nesting, tied=len(kernels) == 1)
    check_labels(labels_B, z_BxD.shape[0])
    harder, most = _HARDER[name]
    _check_options(margin, most, scale)
    criterion = Margin(harder, float(margin), float(scale), kernels[0].shape[1])
    plan = make_plan(criterion, nesting, z_BxD.shape[0], head, chunk, cosine=True)
    return nested(plan, z_BxD, head, labels_B, None)


def _turned(c: jax.Array, margin: float) -> jax.Array:
    squared_sine = jnp.maximum(1 - c * c, 1e-7)
    turned = c * math.cos(margin) - jnp.sqrt(squared_sine) * math.sin(margin)
    return jnp.where(c > -math.cos(margin), turned, c - margin * math.sin(margin))


def _less(c: jax.Array, margin: float) -> jax.Array:
    return c - margin


_HARDER = {"arcface": (_turned, math.pi), "cosface": (_less, 2.0)}  # and the largest margin


def _of_all(cosines: jax.Array, labels: jax.Array, name: str, margin: float, scale: float) -> jax.Array:
    harder, most = _HARDER[name]
    if cosines.ndim != 2:
        raise ValueError(f"cosines have shape {cosines.shape}; they must be (B, K)")
    check_labels(labels, cosines.shape[0])
    _check_options(margin, most, scale)
    c = cosines.astype(jnp.float32)
    return scale * jnp.where(_is_label(labels, c), harder(c, margin), c)


def _is_label(labels: jax.Array, logits: jax.Array) -> jax.Array:
    return labels[:, None] == jnp.arange(logits.shape[1])[None]


def _check_options(margin: float, most: float, scale: float) -> None:
    if not 0 <= margin <= most:
        raise ValueError(f"margin={margin} must be in 0..{most:.3g}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale} must be above 0")
