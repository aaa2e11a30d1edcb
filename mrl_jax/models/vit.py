"""Vision transformers (Dosovitskiy et al. 2020, arXiv 2010.11929; sizes of Zhai et al. 2021, arXiv 2106.04560).

Module names and parameter shapes follow the published Linen checkpoints of this family.
"""

import math
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.choices import choose
from mrl_jax.models.drop_path import check_rate, drop_path, rates
from mrl_jax.models.elastic import Private, scaled
from mrl_jax.models.last_stage import Stage


class Size(NamedTuple):
    """Features, layers, hidden features of the MLP and attention heads of a transformer.

    The heads have `head_dim` features each; 0 for an equal share of the width.
    """

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    head_dim: int = 0

    @property
    def of_head(self) -> int:
        """The features of an attention head."""
        return self.head_dim or self.width // self.num_heads


SIZES = {
    "mu": Size(32, 1, 128, 2),  # for tests and debugging
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "H": Size(1280, 32, 5120, 16),
}
POSEMBS = ("learn", "sincos2d")
POOLS = ("gap", "map", "tok")
GELUS = ("exact", "tanh")
XAVIER = nn.initializers.xavier_uniform()


class MultiHeadDotProductAttention(nn.Module):
    """Attention of every query to every key by `num_heads` heads of `of_head` features, softmax in float32."""

    num_heads: int
    of_head: int

    @nn.compact
    def __call__(self, q_BxTxD: jax.Array, kv_BxSxD: jax.Array) -> jax.Array:
        """(B, T, D) queries, (B, S, D) keys and values, to (B, T, D)."""
        dtype, width = q_BxTxD.dtype, q_BxTxD.shape[-1]

        def heads(x: jax.Array, name: str) -> jax.Array:
            return nn.DenseGeneral((self.num_heads, self.of_head), dtype=dtype, kernel_init=XAVIER, name=name)(x)

        query, key, value = heads(q_BxTxD, "query"), heads(kv_BxSxD, "key"), heads(kv_BxSxD, "value")
        x_BxTxNxH = jax.nn.dot_product_attention(query, key, value)
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=dtype, kernel_init=XAVIER, name="out")(x_BxTxNxH)


class MlpBlock(nn.Module):
    """Two dense layers with a GELU between."""

    mlp_dim: int
    dropout: float
    deterministic: bool
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., D) to (..., D)."""
        width = x.shape[-1]
        x = nn.Dense(self.mlp_dim, dtype=x.dtype, kernel_init=XAVIER)(x)
        x = nn.gelu(x, approximate=self.gelu == "tanh")
        x = nn.Dropout(self.dropout, deterministic=self.deterministic)(x)
        return nn.Dense(width, dtype=x.dtype, kernel_init=XAVIER)(x)


class EncoderBlock(nn.Module):
    """A pre-norm transformer layer, in the form of a scan body: it returns the carry and nothing else."""

    size: Size
    dropout: float
    deterministic: bool
    norm_eps: float = 1e-6
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array, drop_path_rate: Any) -> tuple[jax.Array, None]:
        """(B, T, D) to (B, T, D); the rate of stochastic depth is a number, or None for none."""
        x = x_BxTxD
        y = nn.LayerNorm(self.norm_eps, dtype=x.dtype)(x)
        y = MultiHeadDotProductAttention(self.size.num_heads, self.size.of_head)(y, y)
        x = x + self._branch(y, drop_path_rate)
        y = nn.LayerNorm(self.norm_eps, dtype=x.dtype)(x)
        y = MlpBlock(self.size.mlp_dim, self.dropout, self.deterministic, self.gelu)(y)
        return x + self._branch(y, drop_path_rate), None

    def _branch(self, y_BxTxD: jax.Array, drop_path_rate: Any) -> jax.Array:
        y = nn.Dropout(self.dropout, deterministic=self.deterministic)(y_BxTxD)
        return y if drop_path_rate is None else drop_path(y, drop_path_rate, self.make_rng("dropout"))


class Transformer(nn.Module):
    """The stack of layers and the final norm.

    Attributes:
      size: of every layer.
      dropout: rate after the attention, the MLP and inside the MLP.
      drop_path: rate of stochastic depth in the last layer, growing linearly from 0 in the first.
      deterministic: no dropout, no stochastic depth.
      remat: recompute each layer's activations in the backward pass.
      scan: loop over the layers in one compiled body; the parameters `encoderblock` gain a leading axis of `size.depth`
        where they were `encoderblock_{i}`.
      norm_eps: see `ViT`.
      gelu: see `ViT`.
    """

    size: Size
    dropout: float
    drop_path: float
    deterministic: bool
    remat: bool
    scan: bool
    norm_eps: float = 1e-6
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        """(B, T, D) to (B, T, D)."""
        x, block = x_BxTxD, EncoderBlock
        if self.remat:
            block = nn.remat(block, prevent_cse=not self.scan)
        if self.scan:
            rngs = {"params": True, "dropout": True}
            block = nn.scan(block, variable_axes={"params": 0}, split_rngs=rngs, length=self.size.depth)
        dropped = rates(self.drop_path, self.size.depth) if self.drop_path and not self.deterministic else None
        arguments = (self.size, self.dropout, self.deterministic, self.norm_eps, self.gelu)
        if self.scan:
            x, _ = block(*arguments, name="encoderblock")(x, None if dropped is None else jnp.asarray(dropped))
        else:
            for i in range(self.size.depth):
                x, _ = block(*arguments, name=f"encoderblock_{i}")(x, None if dropped is None else dropped[i])
        return nn.LayerNorm(self.norm_eps, dtype=x.dtype, name="encoder_norm")(x)


class MAPHead(nn.Module):
    """Attention pooling with one learned query (Zhai et al. 2021, section 3.2)."""

    size: Size
    norm_eps: float = 1e-6
    gelu: str = "exact"

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        """(B, T, D) to (B, D)."""
        x = x_BxTxD
        probe_1x1xD = self.param("probe", XAVIER, (1, 1, x.shape[-1]))
        probe_Bx1xD = jnp.broadcast_to(probe_1x1xD.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = MultiHeadDotProductAttention(self.size.num_heads, self.size.of_head)(probe_Bx1xD, x)
        y = nn.LayerNorm(self.norm_eps, dtype=x.dtype)(x)
        x = x + MlpBlock(self.size.mlp_dim, dropout=0.0, deterministic=True, gelu=self.gelu)(y)
        return x[:, 0]


def sincos2d(height: int, width: int, features: int) -> jax.Array:
    """Fixed position embedding (1, height x width, features): sines, cosines of x, then of y (MoCo v3)."""
    y_L, x_L = (axis.ravel().astype(jnp.float32) for axis in jnp.mgrid[:height, :width])
    omega_F = 10_000.0 ** -jnp.linspace(0.0, 1.0, features // 4)
    angles = [jnp.outer(position_L, omega_F) for position_L in (x_L, y_L)]
    return jnp.concatenate([f(a) for a in angles for f in (jnp.sin, jnp.cos)], axis=1)[None]


class ViT(nn.Module):
    """A vision transformer up to its pooled features; it computes in the dtype of its input.

    Attributes:
      patch: side of a patch, pixels.
      size: of the transformer.
      posemb: "learn", for the image size that the model was initialised with; "sincos2d", fixed, for any image size.
      pool: "gap", mean over the patches; "map", attention pooling; "tok", an extra token.
      dropout: rate.
      drop_path: see `Transformer`.
      remat: see `Transformer`.
      scan: see `Transformer`.
      norm_eps: added to the variance in every LayerNorm. Published weights were trained with 1e-6 or 1e-12.
      gelu: "exact", or "tanh", the approximation that weights published in JAX were trained with.
      private_norm: every width has LayerNorms of its own (see `elastic`); else their leading entries are shared.
      elastic_depth: a narrow network has its share of the layers too, the first ones.
    """

    patch: int
    size: Size
    posemb: str = "learn"
    pool: str = "gap"
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = False
    norm_eps: float = 1e-6
    gelu: str = "exact"
    private_norm: bool = False
    elastic_depth: bool = False

    @property
    def private(self) -> Private:
        """The LayerNorms, where that is asked for."""
        norms = r"^params/backbone/.*(LayerNorm_\d+|encoder_norm)/(scale|bias)$"
        return Private(norms if self.private_norm else "")

    def narrow(self, width: float, embedding: str) -> "ViT":
        """The network of this width: its share of the heads and of the hidden features of the MLP.

        The features that the layers add up to are all kept for an "equal" embedding; of a "scaled" one as many as its
        heads have together. ValueError where the width does not divide the heads or leaves no hidden feature.
        """
        size, heads, mlp_dim = self.size, self.size.num_heads * width, scaled(self.size.mlp_dim, width)
        if abs(heads - round(heads)) > 1e-6 or round(heads) < 1 or mlp_dim < 1:
            raise ValueError(
                f"width {width} of {size.num_heads} attention heads is {heads:g} of them: take a width that leaves a "
                f"whole number, such as {1 / size.num_heads:g}, or another model.variant"
            )
        features = size.width if embedding == "equal" else round(heads) * size.of_head
        depth = max(scaled(size.depth, width), 1) if self.elastic_depth else size.depth
        return self.clone(size=Size(features, depth, mlp_dim, round(heads), size.of_head))

    @property
    def embed_dim(self) -> int:
        """The number of pooled features, D."""
        return self.size.width

    @property
    def last_stage(self) -> Stage:
        """The tokens that are pooled; with a class token, which is all that is read in the end, those before the last
        layer. ValueError where that layer is one of a scan.
        """
        if self.pool != "tok":
            return Stage(("Transformer", "encoder_norm"), "output")
        if self.scan:
            raise ValueError("model.pool='tok' with model.scan=True: the last layer of a scan cannot be looked into")
        return Stage(("Transformer", f"encoderblock_{self.size.depth - 1}"), "input")

    def distance(self, name: str) -> int | np.ndarray:
        """How many layers a parameter is from the head: 1 in the last block, 0 above it; one number for each layer of
        a parameter that stacks them.
        """
        block = re.search(r"encoderblock(_\d+)?/", name)
        if block:
            return self.size.depth - int(block[1][1:]) if block[1] else np.arange(self.size.depth, 0, -1)
        return 0 if re.search("encoder_norm|MAPHead", name) else self.size.depth + 1

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, *, train: bool) -> jax.Array:
        """The pooled features (B, D); ValueError if the image is not a whole number of patches."""
        batch, height, width, _ = x_BxHxWxC.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"image size {height}x{width} is not divisible by the patch size {self.patch}: resize it")
        patch = (self.patch, self.patch)
        x = nn.Conv(self.size.width, patch, patch, padding="VALID", dtype=x_BxHxWxC.dtype, name="embedding")(x_BxHxWxC)
        x = x + self._position_embedding(*x.shape[1:3]).astype(x.dtype)
        x_BxTxD = x.reshape(batch, -1, self.size.width)
        if self.pool == "tok":
            token_1x1xD = self.param("cls", nn.initializers.zeros, (1, 1, self.size.width)).astype(x.dtype)
            token_Bx1xD = jnp.broadcast_to(token_1x1xD, (batch, 1, self.size.width))
            x_BxTxD = jnp.concatenate([token_Bx1xD, x_BxTxD], axis=1)
        x_BxTxD = nn.Dropout(self.dropout, deterministic=not train)(x_BxTxD)
        options = {"norm_eps": self.norm_eps, "gelu": self.gelu}
        depth = (self.dropout, self.drop_path, not train, self.remat, self.scan)
        x_BxTxD = Transformer(self.size, *depth, **options, name="Transformer")(x_BxTxD)
        if self.pool == "map":
            return MAPHead(self.size, **options, name="MAPHead_0")(x_BxTxD)
        return x_BxTxD[:, 0] if self.pool == "tok" else jnp.mean(x_BxTxD, axis=1)

    def _position_embedding(self, height: int, width: int) -> jax.Array:
        """(1, height, width, D)."""
        features = self.size.width
        if self.posemb == "sincos2d":
            return sincos2d(height, width, features).reshape(1, height, width, features)
        stored = self.variables.get("params", {}).get("pos_embedding")
        if stored is not None and stored.shape[1] != height * width:
            raise ValueError(
                f"the image has {height}x{width} patches, but pos_embedding was initialised for {stored.shape[1]}: "
                "keep the image size of the training, or use posemb='sincos2d'"
            )
        initializer = nn.initializers.normal(stddev=features**-0.5)
        return self.param("pos_embedding", initializer, (1, height * width, features)).reshape(
            1, height, width, features
        )


def fit(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Learned position embeddings of one square grid resized to another, bilinearly; None for any other parameter."""
    sides = [math.isqrt(size[1]) if len(size) == 3 else 0 for size in (value.shape, shape)]
    square = all(side**2 == size[1] for side, size in zip(sides, (value.shape, shape)) if len(size) == 3)
    if not name.endswith("pos_embedding") or 0 in sides or not square or value.shape[2] != shape[2]:
        return None
    grid = value.reshape(sides[0], sides[0], -1)
    resized = jax.image.resize(grid, (sides[1], sides[1], shape[2]), "bilinear")
    return np.asarray(resized).reshape(shape)


def build(
    *,
    variant: str = "B/16",
    posemb: str = "learn",
    pool: str = "gap",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    remat: bool = False,
    scan: bool = False,
    norm_eps: float = 1e-6,
    gelu: str = "exact",
    private_norm: bool = False,
    elastic_depth: bool = False,
) -> ViT:
    """A ViT whose `variant` is size/patch, such as "B/16"; for the rest see `ViT`. ValueError for a bad value."""
    name, _, patch = variant.partition("/")
    if name not in SIZES or not patch.isdecimal() or int(patch) < 1:
        raise ValueError(
            f"model.variant={variant!r}: name a size of {list(SIZES)} and a patch in pixels, such as 'B/16'"
        )
    choose("model.posemb", posemb, POSEMBS)
    choose("model.pool", pool, POOLS)
    choose("model.gelu", gelu, GELUS)
    if not norm_eps > 0:
        raise ValueError(f"model.norm_eps={norm_eps} must be positive")
    if not 0 <= dropout < 1:
        raise ValueError(f"model.dropout={dropout} must be in [0, 1)")
    check_rate("model.drop_path", drop_path)
    options = (posemb, pool, dropout, drop_path, remat, scan, norm_eps, gelu, private_norm, elastic_depth)
    return ViT(int(patch), SIZES[name], *options)
