"""The second label of a mixed example (mixup, CutMix), added to a nested softmax loss that knows the first one only.

With target w onehot(a) + (1 - w) onehot(b), smoothed by s, the cross-entropy is that of label a plus
(1 - s) (1 - w) (logit_a - logit_b), as log-sum-exp and the mean logit are the same for both. So the second label needs
two columns of the kernel per example, and not a second pass over the classes.
"""

import jax
import jax.numpy as jnp

from mrl_jax.losses.checks import check_labels
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


def add_second_label(
    nested: NestedLoss,
    z_BxD: jax.Array,
    kernels: list[jax.Array],
    biases: list[jax.Array],
    labels_B: jax.Array,
    second_B: jax.Array,
    weight_B: jax.Array,
    nesting: Nesting,
    *,
    label_smoothing: float = 0.0,
) -> NestedLoss:
    """`nested`, the loss of `labels_B`, as that of the target weight x label + (1 - weight) x second label.

    `total` and `per_dim` change, `correct` still tells of the first label.

    Args:
      nested: what `nested_softmax` or `nested_softmax_untied` gave for `labels_B`.
      z_BxD: features.
      kernels: one (D, C) for all dims, or one (m_g, C) per dim.
      biases: (C,) each, as many as kernels.
      labels_B: integer classes.
      second_B: integer classes.
      weight_B: of the first label, in 0..1; a constant, it gets no gradient.
      nesting: dims and weights.
      label_smoothing: as it was given to the loss.

    Raises:
      ValueError: if the second labels or the weights do not fit.
    """
    check_labels(second_B, z_BxD.shape[0])
    if weight_B.shape != labels_B.shape:
        raise ValueError(f"weights have shape {weight_B.shape}; they must have {labels_B.shape}, as the labels")
    share_B = (1 - label_smoothing) * (1 - jax.lax.stop_gradient(weight_B))
    gap_GxB = _gaps(z_BxD, kernels, biases, labels_B, second_B, nesting)
    added_G = jnp.mean(share_B[None] * gap_GxB, axis=1)
    total = nested.total + jnp.vdot(jnp.asarray(nesting.weights, jnp.float32), added_G)
    return nested._replace(total=total, per_dim=nested.per_dim + added_G)


def _gaps(z_BxD, kernels, biases, labels_B, second_B, nesting: Nesting) -> jax.Array:
    """The logit of the first label less that of the second at every dim, (G, B), float32."""
    gaps, before, low = [], 0.0, 0
    for g, m in enumerate(nesting.dims):
        if g == 0 or len(kernels) > 1:
            kernel, bias = kernels[g], biases[g]
            column_BxD = (kernel[:, labels_B].astype(jnp.float32) - kernel[:, second_B].astype(jnp.float32)).T
            before, low = (bias[labels_B] - bias[second_B]).astype(jnp.float32), 0
        # A tied head adds the features of one level after the other, as the loss itself does.
        gaps.append(before + jnp.sum(z_BxD[:, low:m].astype(jnp.float32) * column_BxD[:, low:m], axis=1))
        before, low = gaps[-1], m
    return jnp.stack(gaps)
