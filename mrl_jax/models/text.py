"""A text encoder with what its training needs: a head over the vocabulary, or the temperature of pairs."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrl_jax.models.bert import NORMAL, Bert
from mrl_jax.models.temperature import Temperature


class TextModel(nn.Module):
    """Texts, texts with gaps, or pairs of texts, as the batch has them.

    Attributes:
      encoder: of the texts; both texts of a pair pass through it.
      full: the features that are used; the others are cut off (FF-k).
      temperature: of pairs.
      dtype: of the computation.
    """

    encoder: Bert
    full: int
    temperature: Temperature
    dtype: str

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The embedding (B, D) of `tokens` (B, T), and by name, where the batch has what they are of:

        `positions` (B, S): `masked/z` (B, S, D), the features there; `head/kernel` (D, V), the table of token
        embeddings, and `head/bias` (V,).
        `tokens_2`: `pair/z` (B, D), its embedding, and what `Temperature` gives.
        `negatives` (B, K, T) besides: `pair/negatives` (B, K, D), their embeddings.
        """
        z, x_BxTxD, table_VxD = self.encoder(batch["tokens"], train=train, dtype=self.dtype)
        out = {}
        if "positions" in batch:
            at_BxSxD = jnp.take_along_axis(x_BxTxD, batch["positions"][:, :, None], axis=1)
            out["masked/z"] = self._transform(at_BxSxD)[:, :, : self.full]
            out["head/kernel"] = table_VxD.T[: self.full]
            out["head/bias"] = self.param("head_bias", nn.initializers.zeros, (self.encoder.vocabulary,))
        if "tokens_2" in batch:
            others = batch["tokens_2"][:, None]
            if "negatives" in batch:
                others = jnp.concatenate([others, batch["negatives"]], axis=1)
            found, _, _ = self.encoder(others.reshape(-1, others.shape[2]), train=train, dtype=self.dtype)
            found = found.reshape(*others.shape[:2], -1)[:, :, : self.full]
            out |= {"pair/z": found[:, 0]} | self.temperature()
            if "negatives" in batch:
                out["pair/negatives"] = found[:, 1:]
        return z[:, : self.full], out

    def _transform(self, x: jax.Array) -> jax.Array:
        """What BERT does between its last layer and the vocabulary."""
        x = nn.Dense(x.shape[-1], dtype=x.dtype, kernel_init=NORMAL, name="head_transform")(x)
        x = nn.gelu(x, approximate=self.encoder.gelu == "tanh")
        return nn.LayerNorm(self.encoder.norm_eps, dtype=x.dtype, name="head_norm")(x)
