"""Margins on cosines, and the cross-entropy of given logits: what makes a shared classifier a metric space.

Logits of a margin are those of unit features and unit class vectors, with the label's made harder by a margin and all
multiplied by a scale. Either loss, cross-entropy or `evidential`, takes them.
"""

import math

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_labels


def arcface(cosines_BxK: jax.Array, labels_B: jax.Array, *, margin: float = 0.5, scale: float = 64.0) -> jax.Array:
    """scale * cos(angle + margin) for the label, scale * cosine for the others (ArcFace, Deng et al. 2019); float32.

    Beyond angle = pi - margin, where the cosine would rise again, the label's is cosine - margin sin(margin), which
    falls on. A cosine of 1 or -1 has a finite gradient.

    Raises:
      ValueError: if a shape does not fit, margin is not in 0..pi or scale not above 0.
    """
    _check(cosines_BxK, labels_B, margin, math.pi, scale)
    c = cosines_BxK.astype(jnp.float32)
    squared_sine = jnp.maximum(1 - c * c, 1e-7)
    turned = c * math.cos(margin) - jnp.sqrt(squared_sine) * math.sin(margin)
    harder = jnp.where(c > -math.cos(margin), turned, c - margin * math.sin(margin))
    return scale * jnp.where(_is_label(labels_B, c), harder, c)


def cosface(cosines_BxK: jax.Array, labels_B: jax.Array, *, margin: float = 0.35, scale: float = 64.0) -> jax.Array:
    """scale * (cosine - margin) for the label, scale * cosine for the others (CosFace, Wang et al. 2018); float32.

    Raises:
      ValueError: if a shape does not fit, margin is not in 0..2 or scale not above 0.
    """
    _check(cosines_BxK, labels_B, margin, 2.0, scale)
    c = cosines_BxK.astype(jnp.float32)
    return scale * jnp.where(_is_label(labels_B, c), c - margin, c)


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


def _is_label(labels: jax.Array, logits: jax.Array) -> jax.Array:
    return labels[:, None] == jnp.arange(logits.shape[1])[None]


def _check(cosines: jax.Array, labels: jax.Array, margin: float, most: float, scale: float) -> None:
    if cosines.ndim != 2:
        raise ValueError(f"cosines have shape {cosines.shape}; they must be (B, K)")
    check_labels(labels, cosines.shape[0])
    if not 0 <= margin <= most:
        raise ValueError(f"margin={margin} must be in 0..{most:.3g}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale} must be above 0")
