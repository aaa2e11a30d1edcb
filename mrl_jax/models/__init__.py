"""Backbones and nested heads, reached only through `init` and `apply`. The only package that imports flax."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import trees
from mrl_jax.choices import choose, pick
from mrl_jax.models import embedders, heads, resnet, vit
from mrl_jax.models.classifier import Classifier
from mrl_jax.models.frozen import frozen_norms
from mrl_jax.models.last_stage import tapped
from mrl_jax.nesting import Nesting

# Each takes its options as keywords and returns a Linen module: standardised images to (B, embed_dim) features.
BACKBONES = {"resnet": resnet.build, "vit": vit.build}
DTYPES = ("float32", "bfloat16")


class Model(NamedTuple):
    """A model as pure functions.

    Attributes:
      init: `init(key, batch) -> variables`, a dict with "params" (float32) and, where the model has BatchNorm,
        "batch_stats". Jit it: then no forward pass runs.
      apply: `apply(variables, batch, *, train, rngs=None, width=1.0) -> (z, out)`. `batch["image"]` is (B, H, W,
        channels), uint8 or standardised floats; `z` is the embedding (B, embed_dim) in the compute dtype; `out` is a
        flat dict: the parameters of the head as `head/...` (see `heads.Head`) and, if `train`, the updated running
        statistics as `batch_stats/<path>`. `rngs={"dropout": key}` feeds dropout. ValueError for a width other than 1.
        Where the batch has an `offset` (a scalar, or an array of their shape), it is added to the activations of the
        last stage, which come as `last_stage`, (B, H, W, channels) or (B, tokens, channels): for gradients by them.
      embed_dim: D, the size of z.
      distance: `distance(name) -> int` of a parameter: its layers from the output, 0 in the head; for a parameter that
        stacks layers along its first axis, an array of one int for each.
    """

    init: Callable
    apply: Callable
    embed_dim: int
    distance: Callable[[str], Any]


def fit(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """A stored parameter made to fit another shape (position embeddings, another grid); None where it cannot be."""
    return vit.fit(name, value, shape)


def build(
    name: str,
    options: Mapping[str, Any],
    *,
    head: str,
    nesting: Nesting,
    num_classes: int,
    dtype: str = "float32",
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    freeze: str = "",
    vocabulary: int = 0,
    pad: int = 0,
) -> Model:
    """An image classifier with a nested head; or a model of texts or of pairs, whose embedding is its output.

    Args:
      name: a key of `BACKBONES`, or of `embedders.BUILDERS`.
      options: the keywords of that function, and `head_init`: "uniform" (default) or "zeros".
      head: "mrl", "mrl_e" or "ff", see `heads.Head`; of a model of texts "mrl_e", "none" or "ff".
      nesting: ends at the backbone's embedding size; for "ff" one dim, at most that size.
      num_classes: C.
      dtype: of the computation, "float32" or "bfloat16".
      mean: of the pixels over 255: one float per channel or a single one.
      std: likewise.
      freeze: a regular expression of parameter names; a BatchNorm that it finds whole uses and keeps its running
        statistics in training too.
      vocabulary: how many token ids there are; 0 where there are no texts.
      pad: the id that fills up a text.

    Raises:
      ValueError: for an unknown name, option or value, or a nesting that does not fit; the message lists the choices.
    """
    mean, std = (tuple(np.ravel(x).tolist()) for x in (mean, std))
    choose("dtype", dtype, DTYPES)
    if min(std) <= 0:
        raise ValueError(f"std={std} must be positive")
    if name in embedders.BUILDERS:
        inputs = embedders.Inputs(vocabulary, pad, mean, std)
        module, distance = embedders.build(name, options, head, nesting, dtype, inputs)
        return Model(*embedders.functions(name, module, freeze), nesting.full, distance)
    options = {**options, "name": name}
    head_init = options.pop("head_init", "uniform")
    choose("model.head_init", head_init, heads.INITS)
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be positive")
    choose("model.name", name, [*BACKBONES, *embedders.BUILDERS])
    build_backbone, options = pick("model", BACKBONES, options)
    backbone = build_backbone(**options)
    heads.check(head, nesting, backbone.embed_dim)
    module = Classifier(backbone, heads.Head(head, nesting, num_classes, head_init), mean, std, dtype)
    return _functions(name, module, nesting.full, freeze)


def _functions(name: str, module: Classifier, embed_dim: int, freeze: str) -> Model:
    def init(key, batch):
        return module.init(key, batch["image"], train=False)

    def apply(variables, batch, *, train, rngs=None, width=1.0):
        if width != 1.0:
            raise ValueError(f"width={width}: model.name={name!r} has one width only; pass width=1.0")
        if "offset" in batch:
            if train:
                raise ValueError("batch['offset'] is for gradients in evaluation: pass train=False")
            with tapped(module.backbone.last_stage, batch["offset"]) as seen:
                z, out = module.apply(variables, batch["image"], train=False)
            return z, out | {"last_stage": seen[0]}
        if not train:
            return module.apply(variables, batch["image"], train=False)
        with frozen_norms(freeze):
            (z, out), updated = module.apply(variables, batch["image"], train=True, rngs=rngs, mutable=["batch_stats"])
        return z, out | trees.flatten(updated)

    def distance(name):
        within = name.removeprefix("backbone/")
        return 0 if within == name else module.backbone.distance(within)

    return Model(init, apply, embed_dim, distance)
