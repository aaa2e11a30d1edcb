"""Residual networks (He et al. 2015, arXiv 1512.03385), v1.5: the bottleneck strides in its 3x3 convolution.

Names, padding, initialisation and normalisation are torchvision's, so that its weights carry over: `layer1.0.conv1` is
`layer1_0/conv1` here, and `downsample.0` is `downsample_0`.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrl_jax.choices import choose
from mrl_jax.models.blurpool import blur
from mrl_jax.models.drop_path import check_rate, drop_path, rates
from mrl_jax.models.elastic import Private, scaled
from mrl_jax.models.last_stage import Stage

# variant: bottleneck blocks or basic ones, and the number of blocks in each stage.
VARIANTS = {
    "10": (False, (1, 1, 1, 1)),
    "18": (False, (2, 2, 2, 2)),
    "34": (False, (3, 4, 6, 3)),
    "50": (True, (3, 4, 6, 3)),
    "101": (True, (3, 4, 23, 3)),
    "152": (True, (3, 8, 36, 3)),
}
STEMS = ("imagenet", "small")
BLUR_MIN_CHANNELS = 16
MOMENTUM = 0.9  # of the running statistics
KAIMING_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(x: jax.Array, features: int, size: int, stride: int, *, name: str, blurpool: bool) -> jax.Array:
    """A convolution without bias, zero padded by size // 2 on each side; see `ResNet` for `blurpool`."""
    if blurpool and stride > 1 and x.shape[-1] >= BLUR_MIN_CHANNELS:
        x = blur(x)
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=size // 2,
        use_bias=False,
        dtype=x.dtype,
        kernel_init=KAIMING_NORMAL,
        name=name,
    )(x)


def batch_norm(x: jax.Array, *, name: str, train: bool, zero_scale: bool = False) -> jax.Array:
    """BatchNorm with float32 statistics.

    Under jit with a batch sharded over devices the statistics are those of the global batch. The running variance
    averages the biased estimate, torch the unbiased one: a factor n / (n - 1) of n = B x H x W.
    """
    # How it normalises is an argument of the call, so that frozen ones can be told otherwise: see `frozen.py`.
    return nn.BatchNorm(
        momentum=MOMENTUM,
        epsilon=1e-5,
        dtype=x.dtype,
        scale_init=nn.initializers.zeros if zero_scale else nn.initializers.ones,
        name=name,
    )(x, use_running_average=not train)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1; `out` features at the end, `features` before."""

    features: int
    out: int
    stride: int
    bottleneck: bool
    blurpool: bool
    zero_init_residual: bool
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, *, train: bool) -> jax.Array:
        """(B, H, W, C) to (B, H / stride, W / stride, out)."""
        if self.bottleneck:
            plan = ((self.features, 1, 1), (self.features, 3, self.stride), (self.out, 1, 1))
        else:
            plan = ((self.features, 3, self.stride), (self.out, 3, 1))
        x = y = x_BxHxWxC
        for i, (features, size, stride) in enumerate(plan, start=1):
            last = i == len(plan)
            y = conv(y, features, size, stride, name=f"conv{i}", blurpool=self.blurpool)
            y = batch_norm(y, name=f"bn{i}", train=train, zero_scale=last and self.zero_init_residual)
            y = y if last else nn.relu(y)
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = conv(x, y.shape[-1], 1, self.stride, name="downsample_0", blurpool=self.blurpool)
            x = batch_norm(x, name="downsample_1", train=train)
        if train and self.drop_path:
            y = drop_path(y, self.drop_path, self.make_rng("dropout"))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network up to its pooled features; it computes in the dtype of its input.

    Attributes:
      bottleneck: the kind of block.
      depths: number of blocks in each stage.
      base_width: channels of the stem and of the first stage, doubled by each further stage.
      stem: "imagenet", a 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2; "small", one 3x3 convolution of
        stride 1, for images of about 32 pixels.
      blurpool: a fixed blur precedes every convolution of stride > 1 with at least 16 input channels.
      zero_init_residual: each block starts as the identity.
      drop_path: rate of stochastic depth of the last block, growing linearly from 0 at the first.
      projection: features of a linear layer and a BatchNorm after the pooling; 0 for neither.
      width: share of the channels of every layer that this network has (see `elastic`).
      embedding: "equal", as many features at every width: those of the projection, or else what the blocks of the last
        stage add up to, at full width; "scaled", only this width's share of them.
    """

    bottleneck: bool
    depths: tuple[int, ...]
    base_width: int = 64
    stem: str = "imagenet"
    blurpool: bool = False
    zero_init_residual: bool = False
    drop_path: float = 0.0
    projection: int = 0
    width: float = 1.0
    embedding: str = "equal"

    @property
    def embed_dim(self) -> int:
        """The number of features, D."""
        return self._embedding(self.projection or self._channels(len(self.depths) - 1, 4 if self.bottleneck else 1))

    @property
    def private(self) -> Private:
        """Every BatchNorm."""
        return Private(r"^(params|batch_stats)/backbone/.*(scale|bias|mean|var)$")

    def narrow(self, width: float, embedding: str) -> "ResNet":
        """The network of this width. ValueError where a layer has no channel left."""
        if scaled(self.base_width, width) < 1 or (embedding == "scaled" and scaled(self.embed_dim, width) < 1):
            raise ValueError(
                f"width {width} of model.base_width={self.base_width} channels and {self.embed_dim} features leaves "
                "none of them: take a larger width or base_width"
            )
        return self.clone(width=width, embedding=embedding)

    def _channels(self, stage: int, times: int = 1) -> int:
        return self.base_width * 2**stage * times

    def _embedding(self, features: int) -> int:
        return features if self.embedding == "equal" else scaled(features, self.width)

    @property
    def last_stage(self) -> Stage:
        """What comes out of the last block."""
        return Stage((f"layer{len(self.depths)}_{self.depths[-1] - 1}",), "output")

    def distance(self, name: str) -> int:
        """How many stages a parameter is from the head: 1 for the last one, 0 above it; the stem is below them all."""
        if name.startswith("projection"):
            return 0
        stage = re.match(r"layer(\d+)_", name)
        return len(self.depths) + 1 - (int(stage[1]) if stage else 0)

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, *, train: bool) -> jax.Array:
        """The globally average-pooled features (B, D), projected where that is asked for."""
        x = x_BxHxWxC
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(x, scaled(self.base_width, self.width), size, stride, name="conv1", blurpool=False)
        x = nn.relu(batch_norm(x, name="bn1", train=train))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        block = functools.partial(
            Block, bottleneck=self.bottleneck, blurpool=self.blurpool, zero_init_residual=self.zero_init_residual
        )
        rate = iter(rates(self.drop_path, sum(self.depths)))
        for stage, depth in enumerate(self.depths):
            features, out = scaled(self._channels(stage), self.width), self._out(stage)
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = block(features, out, stride, drop_path=next(rate), name=name)(x, train=train)
        return self._project(jnp.mean(x, axis=(1, 2)), train)

    def _out(self, stage: int) -> int:
        out = self._channels(stage, 4 if self.bottleneck else 1)
        is_embedding = stage == len(self.depths) - 1 and not self.projection
        return self._embedding(out) if is_embedding else scaled(out, self.width)

    def _project(self, x_BxC: jax.Array, train: bool) -> jax.Array:
        if not self.projection:
            return x_BxC
        x = nn.Dense(self.embed_dim, use_bias=False, dtype=x_BxC.dtype, name="projection")(x_BxC)
        return batch_norm(x, name="projection_bn", train=train)


def build(
    *,
    variant: str = "50",
    stem: str = "imagenet",
    base_width: int = 64,
    blurpool: bool = False,
    zero_init_residual: bool = False,
    drop_path: float = 0.0,
    projection: int = 0,
) -> ResNet:
    """A ResNet of a named variant; for the other options see `ResNet`. ValueError for an unknown value."""
    choose("model.variant", variant, VARIANTS)
    choose("model.stem", stem, STEMS)
    if base_width < 1:
        raise ValueError(f"model.base_width={base_width} must be positive")
    if projection < 0:
        raise ValueError(f"model.projection={projection} must be a number of features, or 0 for none")
    check_rate("model.drop_path", drop_path)
    bottleneck, depths = VARIANTS[variant]
    return ResNet(bottleneck, depths, base_width, stem, blurpool, zero_init_residual, drop_path, projection)
