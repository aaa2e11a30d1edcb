"""From the pixels of a batch to the input of a backbone, on the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def standardize(image_BxHxWxC: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: str) -> jax.Array:
    """uint8 pixels as (x / 255 - mean) / std; float images, already standardised, as they are. Both cast to `dtype`.

    Args:
      image_BxHxWxC: uint8 or floating point.
      mean: one float per channel or a single one, on the scale where white is 1.
      std: likewise.
      dtype: of the result; the arithmetic is float32.

    Raises:
      ValueError: for another shape or dtype, or if mean or std do not fit the channels.
    """
    if image_BxHxWxC.ndim != 4:
        raise ValueError(f"batch['image'] has shape {image_BxHxWxC.shape}: expected (B, H, W, channels)")
    if jnp.issubdtype(image_BxHxWxC.dtype, jnp.floating):
        return image_BxHxWxC.astype(dtype)
    if image_BxHxWxC.dtype != jnp.uint8:
        raise ValueError(f"batch['image'] is {image_BxHxWxC.dtype}: pass uint8 in 0..255, or standardised floats")
    channels = image_BxHxWxC.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ValueError(
                f"data.{name}={tuple(values)} does not fit {channels} channels: pass one float, or one for each"
            )
    mean_1x1x1xC = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
    std_1x1x1xC = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
    return ((image_BxHxWxC.astype(jnp.float32) / 255 - mean_1x1x1xC) / std_1x1x1xC).astype(dtype)
