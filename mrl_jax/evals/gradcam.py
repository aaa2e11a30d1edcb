"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) at every dim: where in the image the logit of a class comes from.

The logit of dim m reads the first m features only, so that its gradient by the embedding is the class's column of that
head, filled up with zeros. One forward pass serves all dims; each costs a backward pass through the pooling.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals.linear_heads import Heads


def maps(
    apply: Callable[..., Any], variables: Any, image_BxHxWxC: jax.Array, heads: Heads, class_GxB: np.ndarray
) -> np.ndarray:
    """Maps (G, B, h, w) in 0..1, each scaled to the maximum of 1 unless it is zero everywhere.

    Args:
      apply: of a model (`models.Model.apply`).
      variables: its variables.
      image_BxHxWxC: what the model takes.
      heads: of G dims.
      class_GxB: whose logit is explained, by dim and image.

    Raises:
      ValueError: if the activations form no grid over the image, or one of a single place.
    """

    @jax.jit
    def forward(offset):
        z, out = apply(variables, {"image": image_BxHxWxC, "offset": offset}, train=False)
        return z, out["last_stage"]

    z, activations = forward(jnp.zeros(()))
    if np.prod(_grid(activations, image_BxHxWxC.shape[1:3]).shape[1:3]) == 1:
        raise ValueError(
            f"the last stage has one place for the whole image of {image_BxHxWxC.shape[1]}x{image_BxHxWxC.shape[2]} "
            "pixels, so that there is no map to draw: use larger images, or model.stem='small'"
        )

    @jax.jit
    def gradients(z_bar_BxD):
        _, back = jax.vjp(lambda offset: forward(offset)[0], jnp.zeros_like(activations))
        return back(z_bar_BxD)[0]

    found = []
    for kernel_mxC, classes_B in zip(heads.kernels, class_GxB):
        z_bar = np.zeros(z.shape, np.float32)
        z_bar[:, : len(kernel_mxC)] = kernel_mxC[:, classes_B].T
        gradient = gradients(jnp.asarray(z_bar, z.dtype))
        found.append(
            cam(*(_grid(np.asarray(x, np.float32), image_BxHxWxC.shape[1:3]) for x in (activations, gradient)))
        )
    return np.stack(found)


def cam(activations_BxHxWxD: np.ndarray, gradient_BxHxWxD: np.ndarray) -> np.ndarray:
    """(B, H, W): the positive part of the channels' sum, each weighted by its mean gradient; scaled to 1."""
    weight_BxD = gradient_BxHxWxD.mean(axis=(1, 2))
    map_BxHxW = np.maximum(np.einsum("bhwd,bd->bhw", activations_BxHxWxD, weight_BxD), 0.0)
    top = map_BxHxW.max(axis=(1, 2), keepdims=True)
    return map_BxHxW / np.where(top > 0, top, 1.0)


def _grid(x: np.ndarray, image_HxW: tuple[int, int]) -> np.ndarray:
    """(B, H, W, D) of activations, which may be a row of tokens, after a class token or not."""
    if x.ndim == 4:
        return x
    height, width = image_HxW
    for extra in (0, 1):
        count = x.shape[1] - extra
        patch = math.isqrt(height * width // count) if count else 0
        if patch and (height // patch) * (width // patch) == count:
            return x[:, extra:].reshape(len(x), height // patch, width // patch, -1)
    raise ValueError(f"{x.shape[1]} tokens form no grid over an image of {height}x{width} pixels")
