"""Two towers in one space: any image backbone and a text encoder (ALIGN, CLIP; MRL, section 4.1)."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from mrl_jax.models.bert import Bert
from mrl_jax.models.pixels import standardize
from mrl_jax.models.temperature import Temperature


class DualEncoder(nn.Module):
    """An image tower and a text tower of one width.

    Attributes:
      image: a backbone, standardised images to (B, D).
      text: an encoder of token ids.
      full: the features that are used of both; the others are cut off (FF-k).
      temperature: of their similarity.
      mean: see `pixels.standardize`.
      std: see `pixels.standardize`.
      dtype: of the computation.
    """

    image: nn.Module
    text: Bert
    full: int
    temperature: Temperature
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The embedding (B, D) of `image`, and of `tokens` as `pair/z`, with what `Temperature` gives.

        A batch may have one of the two alone: then the embedding is that of what there is.
        """
        z, out = None, {}
        if "tokens" in batch:
            z = self.text(batch["tokens"], train=train, dtype=self.dtype)[0][:, : self.full]
            out = {"pair/z": z} | self.temperature()
        if "image" in batch:
            x_BxHxWxC = standardize(batch["image"], self.mean, self.std, self.dtype)
            z = self.image(x_BxHxWxC, train=train)[:, : self.full]
        return z, out
