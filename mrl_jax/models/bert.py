"""BERT encoders (Devlin et al. 2018, arXiv 1810.04805; small sizes of Turc et al. 2019, arXiv 1908.08962)."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrl_jax.choices import choose
from mrl_jax.models.vit import GELUS, Size

SIZES = {
    "mu": Size(32, 1, 64, 2),  # for tests and debugging
    "Tiny": Size(128, 2, 512, 2),
    "Mini": Size(256, 4, 1024, 4),
    "MiniLM": Size(384, 6, 1536, 12),
    "Small": Size(512, 4, 2048, 8),
    "Medium": Size(512, 8, 2048, 8),
    "Base": Size(768, 12, 3072, 12),
    "Large": Size(1024, 24, 4096, 16),
}
NORMS = ("post", "pre")
POOLS = ("cls", "mean", "max")
NORMAL = nn.initializers.normal(0.02)


class Layer(nn.Module):
    """Attention and an MLP, each with its residual; the norm after it (post) or before it (pre).

    Attributes:
      size: of the encoder.
      norm: see `Bert`.
      norm_eps: see `Bert`.
      gelu: see `Bert`.
      dropout: see `Bert`.
      deterministic: no dropout.
    """

    size: Size
    norm: str
    norm_eps: float
    gelu: str
    dropout: float
    deterministic: bool

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """(B, T, D) to (B, T, D); the mask tells the tokens that are looked at."""
        x = self._residual("attention_norm", x_BxTxD, lambda y: self._attention(y, mask_BxT))
        return self._residual("mlp_norm", x, self._mlp)

    def _residual(self, name, x, branch):
        norm = nn.LayerNorm(self.norm_eps, dtype=x.dtype, name=name)
        if self.norm == "pre":
            return x + self._drop(branch(norm(x)))
        return norm(x + self._drop(branch(x)))

    def _attention(self, x, mask_BxT):
        heads = (self.size.num_heads, self.size.width // self.size.num_heads)
        options = {"dtype": x.dtype, "kernel_init": NORMAL}
        query, key, value = (nn.DenseGeneral(heads, name=name, **options)(x) for name in ("query", "key", "value"))
        x_BxTxNxH = jax.nn.dot_product_attention(query, key, value, mask=mask_BxT[:, None, None, :])
        return nn.DenseGeneral(self.size.width, axis=(-2, -1), name="out", **options)(x_BxTxNxH)

    def _mlp(self, x):
        x = nn.Dense(self.size.mlp_dim, dtype=x.dtype, kernel_init=NORMAL, name="mlp_in")(x)
        x = nn.gelu(x, approximate=self.gelu == "tanh")
        return nn.Dense(self.size.width, dtype=x.dtype, kernel_init=NORMAL, name="mlp_out")(x)

    def _drop(self, x):
        return nn.Dropout(self.dropout, deterministic=self.deterministic)(x)


class Bert(nn.Module):
    """A text encoder.

    Attributes:
      size: of the layers.
      vocabulary: how many token ids there are.
      pad: the id that fills up a text; nothing looks at it.
      norm: "post", the published form; "pre", the norm before each branch and once at the end.
      pool: "cls", the first token's output; "mean" or "max" over the tokens of the text.
      positions: the longest text, in tokens.
      dropout: rate, after the embeddings and every branch.
      norm_eps: added to the variance in every LayerNorm.
      gelu: "exact" or "tanh".
      remat: compute each layer's activations again in the backward pass.
    """

    size: Size
    vocabulary: int
    pad: int
    norm: str = "post"
    pool: str = "cls"
    positions: int = 512
    dropout: float = 0.1
    norm_eps: float = 1e-12
    gelu: str = "exact"
    remat: bool = False

    @property
    def embed_dim(self) -> int:
        """The number of pooled features, D."""
        return self.size.width

    def distance(self, name: str) -> int:
        """How many layers a parameter is from the output: 1 in the last layer, 0 above it."""
        layer = re.search(r"layer_(\d+)/", name)
        if layer:
            return self.size.depth - int(layer[1])
        return 0 if "final_norm" in name else self.size.depth + 1

    @nn.compact
    def __call__(
        self, tokens_BxT: jax.Array, *, train: bool, dtype: str = "float32"
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The pooled features (B, D), those of every token (B, T, D), and the table of token embeddings (V, D).

        Raises:
          ValueError: for a text longer than `positions`.
        """
        length = tokens_BxT.shape[1]
        if length > self.positions:
            field = "model.text" if self.name == "text" else "model"  # of a dual encoder it is one of two towers
            raise ValueError(
                f"texts of {length} tokens are longer than {field}.positions={self.positions}: raise it, or lower "
                "data.text.context"
            )
        mask_BxT = tokens_BxT != self.pad
        word = nn.Embed(self.vocabulary, self.size.width, dtype=dtype, embedding_init=NORMAL, name="word")
        position_LxD = self.param("position", NORMAL, (self.positions, self.size.width))
        x = word(tokens_BxT) + position_LxD[None, :length].astype(dtype)
        if self.norm == "post":
            x = nn.LayerNorm(self.norm_eps, dtype=dtype, name="embed_norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        layer = nn.remat(Layer) if self.remat else Layer
        arguments = (self.size, self.norm, self.norm_eps, self.gelu, self.dropout, not train)
        for i in range(self.size.depth):
            x = layer(*arguments, name=f"layer_{i}")(x, mask_BxT)
        if self.norm == "pre":
            x = nn.LayerNorm(self.norm_eps, dtype=dtype, name="final_norm")(x)
        return pool(x, mask_BxT, self.pool), x, word.embedding


def pool(x_BxTxD: jax.Array, mask_BxT: jax.Array, kind: str) -> jax.Array:
    """One vector a text, (B, D): its first token's, or the mean or maximum over those of its mask (0 where none is)."""
    if kind == "cls":
        return x_BxTxD[:, 0]
    mask_BxTx1 = mask_BxT[:, :, None]
    if kind == "max":
        highest = jnp.where(mask_BxTx1, x_BxTxD, jnp.finfo(x_BxTxD.dtype).min).max(axis=1)
        return jnp.where(mask_BxT.any(axis=1)[:, None], highest, 0)
    count_Bx1 = jnp.maximum(mask_BxT.sum(axis=1)[:, None], 1)
    total_BxD = jnp.where(mask_BxTx1, x_BxTxD, 0).sum(axis=1, dtype=jnp.float32)
    return (total_BxD / count_Bx1).astype(x_BxTxD.dtype)


def build(
    vocabulary: int,
    pad: int,
    *,
    variant: str = "Base",
    norm: str = "post",
    pool: str = "cls",
    positions: int = 512,
    dropout: float = 0.1,
    norm_eps: float = 1e-12,
    gelu: str = "exact",
    remat: bool = False,
) -> Bert:
    """An encoder whose `variant` is a key of SIZES, for so many token ids; for the rest see `Bert`.

    Raises:
      ValueError: for a bad value.
    """
    choose("model.variant", variant, SIZES)
    choose("model.norm", norm, NORMS)
    choose("model.pool", pool, POOLS)
    choose("model.gelu", gelu, GELUS)
    if not 0 <= dropout < 1 or not norm_eps > 0 or positions < 3:
        raise ValueError(
            f"model.dropout={dropout} must be in [0, 1), model.norm_eps={norm_eps} positive, and "
            f"model.positions={positions} at least 3"
        )
    return Bert(SIZES[variant], vocabulary, pad, norm, pool, positions, dropout, norm_eps, gelu, remat)
