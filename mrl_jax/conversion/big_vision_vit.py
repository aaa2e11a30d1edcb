"""ViTs published as `.npz` files of Linen parameters: big_vision's, and those of the ViT and AugReg papers before.

Names and shapes are ours but for history: modules of a block once were numbered through (`LayerNorm_2`, `MlpBlock_3`),
the position embedding lay in the Transformer and included the class token's, and a scanned Transformer stacks its
layers. These models use the tanh form of the GELU.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrl_jax import config as configs
from mrl_jax import trees
from mrl_jax.conversion import classifiers, ours, vits
from mrl_jax.conversion.matching import Slot, fill
from mrl_jax.conversion.request import Converted, Request

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Where the parameters lie in the file, and what else lies there.
PREFIXES = {"params/": ("opt/", "extra/"), "opt/target/": ("opt/state/",), "": ()}
RENAMED = {
    "/LayerNorm_2/": "/LayerNorm_1/",
    "/MultiHeadDotProductAttention_1/": "/MultiHeadDotProductAttention_0/",
    "/MlpBlock_3/": "/MlpBlock_0/",
}
OLD_POSITIONS = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding")
HIDDEN = "MlpBlock_0/Dense_0/kernel"
QUERY = "MultiHeadDotProductAttention_0/query/kernel"


def fits(names: set[str]) -> bool:
    """Whether arrays of these names are such a ViT."""
    return any(re.search(r"(^|/)Transformer/encoderblock(_0)?/", name) for name in names)


def read(state: Mapping[str, np.ndarray], request: Request) -> Converted:
    """The arrays of a file as our variables.

    Raises:
      ValueError: listing the arrays that are missing, unknown or of another shape, or where the request does not fit.
    """
    prefix = next(p for p in PREFIXES if any(name.startswith(p + "Transformer/") for name in state) or not p)
    aside = {name for name in state if name.startswith(PREFIXES[prefix])}
    found = {name.removeprefix(prefix): value for name, value in state.items() if name not in aside}
    notes = ("the optimizer's state was left out",) if aside else ()
    found = _separate_positions(_unstacked({_today(name): value for name, value in found.items()}))
    model, grid = _model(found)
    size = vits.SIZES[model["variant"].split("/")[0]]
    if "pre_logits/kernel" in found and request.head != "none":
        raise ValueError(
            "it has a tanh layer pre_logits before the classifier, which our ViT lacks: --head=none takes the rest"
        )
    classified = any(name.startswith("head/") for name in found)
    if classified:
        vits.need(found, {"head/kernel": 2})
    head = classifiers.tell([found["head/kernel"].shape[::-1]] if classified else [], False, size.width, request)
    patch = int(model["variant"].split("/")[1])
    rows, columns = grid or (2, 2)
    channels = found["embedding/kernel"].shape[2]
    shapes = ours.shapes(model, head, size.width, (rows * patch, columns * patch, channels))
    slots = {n: Slot(n.removeprefix("params/").removeprefix("backbone/"), s, lambda x: x) for n, s in shapes.items()}
    ignored = {n for n in found if n.startswith(("head/", "pre_logits/"))} if request.head == "none" else ()
    flat = fill(slots, found, ignored, f"a ViT-{model['variant']}")
    about = ours.about(model, head, request, HALF, grid)
    return Converted(trees.unflatten(flat), about, (*notes, *head.notes))


def _today(name: str) -> str:
    """The name that this array has in a file written now."""
    for old, new in RENAMED.items():
        name = name.replace(old, new) if name.startswith("Transformer/encoderblock") else name
    return "pos_embedding" if name in OLD_POSITIONS else name


def _unstacked(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The layers of a scanned Transformer one by one."""
    start = "Transformer/encoderblock/"
    flat = {}
    for name, value in found.items():
        if name.startswith(start) and value.ndim:
            flat |= {f"Transformer/encoderblock_{i}/{name.removeprefix(start)}": layer for i, layer in enumerate(value)}
        else:
            flat[name] = value
    return flat


def _separate_positions(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The class token with its own position added, if it had one, and the positions of the patches alone."""
    positions, token = found.get("pos_embedding"), found.get("cls")
    if positions is not None and token is not None and positions.ndim == 3:
        count = positions.shape[1]
        if int(count**0.5) ** 2 != count:
            found |= {"cls": token + positions[:, :1], "pos_embedding": positions[:, 1:]}
    return found


def _model(found: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """The options of our model and its grid of patches, None where the positions are not learned."""
    hidden, query = (f"Transformer/encoderblock_0/{name}" for name in (HIDDEN, QUERY))
    vits.need(found, {"embedding/kernel": 4, hidden: 2, query: 3})
    patch, _, _, width = found["embedding/kernel"].shape
    layers = vits.depth(found, r"Transformer/encoderblock_(\d{1,3})/")
    variant = vits.variant(width, layers, found[hidden].shape[1], found[query].shape[1], patch)
    pool = "map" if any(n.startswith("MAPHead_0/") for n in found) else "tok" if "cls" in found else "gap"
    positions = found.get("pos_embedding")
    if positions is not None:
        vits.need(found, {"pos_embedding": 3})
    options = {"pool": pool, "posemb": "sincos2d" if positions is None else "learn", "norm_eps": 1e-6, "gelu": "tanh"}
    return configs.vit(variant) | options, None if positions is None else vits.grid(positions.shape[1])
