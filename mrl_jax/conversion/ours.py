"""The parameters that a model of ours has, by name and shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mrl_jax import models, trees
from mrl_jax.conversion.classifiers import Classifier
from mrl_jax.conversion.request import Request
from mrl_jax.nesting import Nesting


def shapes(
    model: Mapping[str, Any], head: Classifier, embed_dim: int, image: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """The shape of each variable by its flat name, without those of the head where there is none.

    Raises:
      ValueError: where the dims of the head do not fit.
    """
    options = dict(model)
    nesting = Nesting(head.dims or (embed_dim,))
    kind, classes = ("ff", 1) if head.kind == "none" else (head.kind, head.num_classes)
    built = models.build(options.pop("name"), options, head=kind, nesting=nesting, num_classes=classes)
    batch = {"image": jax.ShapeDtypeStruct((1, *image), np.float32)}
    flat = trees.flatten(jax.eval_shape(built.init, jax.random.key(0), batch))
    return {n: s.shape for n, s in flat.items() if head.kind != "none" or not n.startswith("params/head/")}


def about(
    model: Mapping[str, Any],
    head: Classifier,
    request: Request,
    pixels: tuple[Sequence[float], Sequence[float]],
    grid: tuple[int, int] | None,
) -> dict[str, Any]:
    """The description of converted weights (`weights.ABOUT`); `pixels`: the usual mean and std of such files."""
    return {
        "model": dict(model),
        "head": head.kind,
        "nesting": {"dims": list(head.dims), "weights": [1.0] * len(head.dims)},
        "num_classes": head.num_classes,
        "mean": list(request.mean or pixels[0]),
        "std": list(request.std or pixels[1]),
        "grid": list(grid) if grid else None,
    }
