"""Models whose output is the embedding itself: of texts, of pairs of an image and a text, and of a taught backbone."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from mrl_jax import trees
from mrl_jax.choices import check_like, choose, pick
from mrl_jax.models import bert, elastic, resnet, vit
from mrl_jax.models.dual_encoder import DualEncoder
from mrl_jax.models.elastic import whole
from mrl_jax.models.frozen import frozen_norms
from mrl_jax.models.taught import Taught
from mrl_jax.models.temperature import Temperature
from mrl_jax.models.text import TextModel
from mrl_jax.nesting import Nesting

# Each takes its options as keywords and returns a Linen module: standardised images to (B, embed_dim) features.
BACKBONES = {"resnet": resnet.build, "vit": vit.build}
HEADS = ("mrl_e", "none", "ff")


class Inputs(NamedTuple):
    """What a model must know of its inputs.

    Attributes:
      vocabulary: how many token ids there are.
      pad: the one that fills up a text.
      mean: of pixels, see `pixels.standardize`.
      std: likewise.
    """

    vocabulary: int
    pad: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build(
    name: str, options: Mapping[str, Any], head: str, nesting: Nesting, dtype: str, inputs: Inputs
) -> tuple[nn.Module, Callable[[str], Any]]:
    """A model of BUILDERS, and the distance of its parameters from the output; ValueError for what does not fit."""
    choose("head", head, HEADS)
    options = dict(options)
    own = ("scale", "max_scale", "bias", "scale_per_dim")
    temperature = _temperature(nesting, **{k: options.pop(k) for k in own if k in options})
    return BUILDERS[name](options, head, nesting, temperature, dtype, inputs)


def _text(options, head, nesting, temperature, dtype, inputs):
    tower = _text_tower("model", options, inputs)
    _check_dims(head, nesting, {"text": tower.embed_dim})

    def distance(name):
        return tower.distance(name.removeprefix("encoder/")) if name.startswith("encoder/") else 0

    return TextModel(tower, nesting.full, temperature, dtype), distance


def _dual(options, head, nesting, temperature, dtype, inputs):
    if set(options) != {"image", "text"}:
        raise ValueError(f"model of two towers: it has the options image and text, not {sorted(options)}")
    make_image, own = pick("model.image", BACKBONES, whole(options["image"]))
    towers = {"image": make_image(**own), "text": _text_tower("model.text", options["text"], inputs)}
    choose("head", head, ("none", "ff"))
    _check_dims(head, nesting, {tower: module.embed_dim for tower, module in towers.items()})
    pixels = (inputs.mean, inputs.std)

    def distance(name):
        tower, _, within = name.partition("/")
        return towers[tower].distance(within) if tower in towers else 0

    return DualEncoder(*towers.values(), nesting.full, temperature, *pixels, dtype), distance


def _taught(options, head, nesting, temperature, dtype, inputs):
    del temperature
    if set(options) != {"student", "teacher"}:
        raise ValueError(f"model of a student and a teacher: it has these two options, not {sorted(options)}")
    choose("head", head, ("none", "ff"))
    parts = {part: _image_tower(f"model.{part}", options[part]) for part in ("student", "teacher")}
    _check_dims(head, nesting, {part: module.embed_dim for part, module in parts.items()})

    def distance(name):
        part, _, within = name.partition("/")
        return parts[part].distance(within)

    return Taught(**parts, full=nesting.full, mean=inputs.mean, std=inputs.std, dtype=dtype), distance


def _image_tower(field, options):
    """A backbone, which may be the narrow one of a width."""
    width = options.get("width", 1.0)
    make, own = pick(field, BACKBONES, whole({**options, "width": 1.0}))
    tower = make(**own)
    elastic.check_width(f"{field}.width", width)
    if width != 1 and not hasattr(tower, "narrow"):
        raise ValueError(f"{field}.width={width}: this model has one width only; leave it out")
    return tower.narrow(width, "equal") if width != 1 else tower


def _text_tower(field, options, inputs):
    make, own = pick(field, {"bert": bert.build}, {"name": "bert"} | dict(options))
    if inputs.vocabulary < 1:
        raise ValueError(f"{field} reads texts, and the data have none: set data.kind to one that has")
    return make(inputs.vocabulary, inputs.pad, **own)


BUILDERS = {"bert": _text, "dual_encoder": _dual, "taught": _taught}


def reads_texts(name: str) -> bool:
    """See `models.reads_texts`; of a head over the vocabulary, its bias."""
    return name.startswith(("text/", "encoder/", "head_bias"))


def functions(name: str, module: nn.Module, freeze: str) -> tuple[Callable, Callable]:
    """`init` and `apply` as `models.Model` has them."""

    def init(key, batch):
        return module.init(key, batch, train=False)

    def apply(variables, batch, *, train, rngs=None, width=1.0):
        if width != 1.0 or "offset" in batch:
            raise ValueError(f"model.name={name!r} has one width only and no last stage to look into")
        if not train:
            return module.apply(variables, batch, train=False)
        with frozen_norms(freeze):
            (z, out), updated = module.apply(variables, batch, train=True, rngs=rngs, mutable=["batch_stats"])
        return z, out | trees.flatten(updated)

    return init, apply


def _temperature(
    nesting: Nesting,
    *,
    scale: float = 1 / 0.07,
    max_scale: float = 100.0,
    bias: float = 0.0,
    scale_per_dim: bool = False,
) -> Temperature:
    for name, value in {"scale": scale, "max_scale": max_scale, "bias": bias}.items():
        check_like(f"model.{name}", value, 1.0)
    check_like("model.scale_per_dim", scale_per_dim, False)
    if not 0 < scale <= max_scale:
        raise ValueError(f"model.scale={scale} must be positive and at most model.max_scale={max_scale}")
    return Temperature(float(scale), float(max_scale), float(bias), nesting.dims if scale_per_dim else ())


def _check_dims(head: str, nesting: Nesting, widths: Mapping[str, int]) -> None:
    """Raises ValueError unless the towers are of one width, and the nesting ends there (for ff: lies within)."""
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ValueError(f"the towers have different widths ({found}): choose variants of the same")
    (width,) = set(widths.values())
    if head == "ff" and (len(nesting) != 1 or nesting.full > width):
        raise ValueError(f"nesting.dims={nesting.dims}: head='ff' needs exactly one dim, at most the model's {width}")
    if head != "ff" and nesting.full != width:
        raise ValueError(
            f"nesting.dims={nesting.dims} ends at {nesting.full}, but the embedding has {width} features: change the "
            "dims or the variant"
        )
