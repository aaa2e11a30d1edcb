"""The fixed low-pass filter that precedes a subsampling convolution (BlurPool: Zhang 2019, arXiv 1904.11486)."""

import jax
import jax.numpy as jnp


def blur(x_BxHxWxC: jax.Array) -> jax.Array:
    """Each channel filtered with the outer product of [1, 2, 1] / 4 by itself: stride 1, zero padding of 1.

    Same shape and dtype as the input. Sums of shifted slices rather than a depthwise convolution: XLA fuses them into
    one pass over the image.
    """
    x = jnp.pad(x_BxHxWxC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
