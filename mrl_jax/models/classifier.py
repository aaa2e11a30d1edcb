"""Pixels, a backbone and a nested head as one Linen module."""

import flax.linen as nn
import jax

from mrl_jax.models.heads import Head
from mrl_jax.models.pixels import standardize


class Classifier(nn.Module):
    """An image backbone with a nested head.

    Attributes:
      backbone: a module from standardised images to (B, D) features, with the keyword `train`.
      head: reads the first `head.nesting.full` features; the others, if any (FF-k), are cut off and get no gradient.
      mean: see `pixels.standardize`.
      std: see `pixels.standardize`.
      dtype: of the computation; parameters and BatchNorm statistics are float32.
    """

    backbone: nn.Module
    head: Head
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str

    def __call__(self, image_BxHxWxC: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The embedding (B, D) in the compute dtype, and the parameters of the head under `head/<name>`."""
        x_BxHxWxC = standardize(image_BxHxWxC, self.mean, self.std, self.dtype)
        z_BxD = self.backbone(x_BxHxWxC, train=train)[:, : self.head.nesting.full]
        return z_BxD, {f"head/{name}": value for name, value in self.head().items()}
