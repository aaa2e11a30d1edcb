"""Backbones and nested heads, reached only through `init` and `apply`. The only package that imports flax."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import trees
from mrl_jax.choices import check_like, choose, pick
from mrl_jax.models import elastic, embedders, heads, resnet, vit
from mrl_jax.models.classifier import Classifier
from mrl_jax.models.embedders import BACKBONES
from mrl_jax.models.frozen import frozen_norms
from mrl_jax.models.last_stage import tapped
from mrl_jax.nesting import Nesting

DTYPES = ("float32", "bfloat16")
MOMENTUM = resnet.MOMENTUM  # of running statistics: the share of the old ones that an update keeps


class Model(NamedTuple):
    """A model as pure functions.

    Attributes:
      init: `init(key, batch) -> variables`, a dict with "params" (float32) and, where the model has BatchNorm,
        "batch_stats". Jit it: then no forward pass runs.
      apply: `apply(variables, batch, *, train, rngs=None, width=1.0) -> (z, out)`. `batch["image"]` is (B, H, W,
        channels), uint8 or standardised floats; `z` is the embedding (B, embed_dim) in the compute dtype; `out` is a
        flat dict: the parameters of the head as `head/...` (see `heads.Head`) and, if `train`, the updated running
        statistics of this width as `batch_stats/<path>`. `rngs={"dropout": key}` feeds dropout. `width` is a Python
        number, one of `widths`; ValueError for another.
        Where the batch has an `offset` (a scalar, or an array of their shape), it is added to the activations of the
        last stage, which come as `last_stage`, (B, H, W, channels) or (B, tokens, channels): for gradients by them.
      embed_dim: D, the size of z at full width.
      widths: those that `apply` takes, rising to 1.
      nestings: by width the nesting of its embedding and head.
      narrow: `narrow(variables, batch, width)`: the variables of the network of that width alone, as `build` with the
        option `width` in place of `widths` and with that nesting makes it.
      owned: `owned(batch, width)`: of the parameters, by flat name, the shapes of their leading entries that the width
        has a part in.
      distance: `distance(name) -> int` of a parameter: its layers from the output, 0 in the head; for a parameter that
        stacks layers along its first axis, an array of one int for each.
    """

    init: Callable
    apply: Callable
    embed_dim: int
    widths: tuple[float, ...]
    nestings: Mapping[float, Nesting]
    narrow: Callable
    owned: Callable
    distance: Callable[[str], Any]


def fit(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """A stored parameter made to fit another shape (position embeddings, another grid); None where it cannot be."""
    return vit.fit(name, value, shape)


def reads_texts(name: str) -> bool:
    """Whether a parameter belongs to a text encoder, and so to the tokenizer that it was trained with."""
    return embedders.reads_texts(name)


def bank(name: str, values: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """What a private parameter of a narrow width starts as where only the full width's is stored: the leading part of
    that. None for any other parameter.
    """
    full = elastic.full_name(name)
    if full == name or full not in values:
        return None
    return np.asarray(values[full])[tuple(slice(n) for n in shape)]


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
      options: the keywords of that function, and for an image classifier `head_init`: see `heads.Head`; `widths`, those
        of one network of several (see `elastic`), by default none but the whole; `width` of the channels, for a narrow
        network alone; `embedding`: "equal" for as many features at every width (default), or "scaled" for the width's
        share of them, of which each width then has one nested dim, its own.
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
        raise ValueError(f"data.std={std} must be positive")
    if name in embedders.BUILDERS:
        inputs = embedders.Inputs(vocabulary, pad, mean, std)
        module, distance = embedders.build(name, options, head, nesting, dtype, inputs)
        own = embedders.functions(name, module, freeze)
        return Model(*own, nesting.full, (1.0,), {1.0: nesting}, _one_width, _one_width, distance)
    options = {**options, "name": name}
    head_init = options.pop("head_init", "uniform")
    choose("model.head_init", head_init, heads.INITS)
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be positive")
    choose("model.name", name, [*BACKBONES, *embedders.BUILDERS])
    whole, backbones = _backbones(options)
    heads.check(head, nesting, whole.embed_dim)
    nestings = _nestings(
        nesting, {width: b.embed_dim for width, b in backbones.items()}, options.get("embedding", "equal")
    )

    def classifier(backbone, nesting):
        return Classifier(backbone, heads.Head(head, nesting, num_classes, head_init), mean, std, dtype)

    modules = {width: classifier(backbones[width], nestings[width]) for width in backbones}
    return _functions(name, classifier(whole, nesting), modules, nestings, freeze)


def _one_width(*arguments: Any) -> None:
    raise ValueError("models of texts and of pairs have one width only: there is nothing to cut out of them")


def embed_dim(options: Mapping[str, Any]) -> int:
    """The features D of the backbone that these options make, its name among them."""
    return _backbones({k: v for k, v in options.items() if k != "head_init"})[0].embed_dim


def _backbones(options: Mapping[str, Any]) -> tuple[Any, dict[float, Any]]:
    """The backbone whose variables are stored, and those of all widths."""
    options = dict(options)
    widths, width = options.pop("widths", ()), options.pop("width", 1.0)
    check_like("model.widths", widths, (0.25, 0.5, 1.0))
    widths = tuple(widths)
    embedding = options.pop("embedding", "equal")
    make, options = pick("model", BACKBONES, options)
    backbone = make(**options)
    choose("model.embedding", embedding, elastic.EMBEDDINGS)
    elastic.check_widths(widths)
    elastic.check_width("model.width", width)
    if (widths or width != 1) and not hasattr(backbone, "narrow"):
        raise ValueError(f"model.widths={widths}, model.width={width}: this model has one width only; leave them out")
    if widths and width != 1:
        raise ValueError(f"model.width={width} is for one network, and model.widths={widths} for several: set one")
    if not widths:
        backbone = backbone.narrow(width, embedding) if width != 1 else backbone
        return backbone, {1.0: backbone}
    return backbone, {float(w): backbone.narrow(float(w), embedding) for w in widths}


def _nestings(nesting: Nesting, embed_dims: Mapping[float, int], embedding: str) -> dict[float, Nesting]:
    """The nesting of every width."""
    if embedding == "equal" or len(embed_dims) == 1:
        return dict.fromkeys(embed_dims, nesting)
    dims = tuple(embed_dims.values())
    if nesting.dims != dims:
        raise ValueError(
            f"nesting.dims={nesting.dims}: with model.embedding='scaled' every width has one dim of its own, here "
            f"{dims} for the widths {tuple(embed_dims)}: set nesting.dims to them"
        )
    return {width: Nesting((m,), (weight,)) for (width, m), weight in zip(embed_dims.items(), nesting.weights)}


def _functions(
    name: str, whole: Classifier, modules: Mapping[float, Classifier], nestings: Mapping[float, Nesting], freeze: str
) -> Model:
    private = whole.backbone.private if len(modules) > 1 else elastic.Private("")

    def initialiser(module):
        return lambda key, image: module.init(key, image, train=False)

    shapes = elastic.Shapes({width: initialiser(module) for width, module in modules.items()}, initialiser(whole))

    def check(width):
        if width not in modules:
            few = "has one width only; pass width=1.0" if len(modules) == 1 else f"was trained at {tuple(modules)} only"
            raise ValueError(f"width={width}: model.name={name!r} {few}")

    def narrow(variables, batch, width):
        check(width)
        image = batch["image"]
        own, stored = shapes.of(image, width), shapes.of(image, None)
        return elastic.take(variables, own, stored, lambda name: private.stored(name, width))

    def owned(batch, width):
        check(width)
        found = shapes.of(batch["image"], width).items()
        return {private.stored(n, width).removeprefix("params/"): s for n, s in found if n.startswith("params/")}

    def init(key, batch):
        variables = whole.init(key, batch["image"], train=False)
        if len(modules) == 1:
            return variables
        return elastic.add_banks(variables, {w: shapes.of(batch["image"], w) for w in modules}, private)

    def apply(variables, batch, *, train, rngs=None, width=1.0):
        check(width)
        module = modules[width]
        own = narrow(variables, batch, width) if len(modules) > 1 else variables
        if "offset" in batch:
            if train:
                raise ValueError("batch['offset'] is for gradients in evaluation: pass train=False")
            with tapped(module.backbone.last_stage, batch["offset"]) as seen:
                z, out = module.apply(own, batch["image"], train=False)
            return z, out | {"last_stage": seen[0]}
        if not train:
            return module.apply(own, batch["image"], train=False)
        with frozen_norms(freeze, elastic.suffix(width)):
            (z, out), updated = module.apply(own, batch["image"], train=True, rngs=rngs, mutable=["batch_stats"])
        return z, out | {private.stored(name, width): value for name, value in trees.flatten(updated).items()}

    def distance(name):
        within = name.removeprefix("backbone/")
        return 0 if within == name else whole.backbone.distance(within)

    return Model(init, apply, nestings[1.0].full, tuple(modules), nestings, narrow, owned, distance)
