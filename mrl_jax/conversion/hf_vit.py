"""ViTs of Hugging Face transformers (ViTModel, ViTForImageClassification), from their files or from a state dict.

The files name a layer `encoder.layer.{i}.attention.attention.query`, the modules of transformers 5 the same one
`layers.{i}.attention.q_proj`; both are read. The number of heads, the epsilon of the norms and the form of the GELU
are not in the tensors: they come from `config.json` where it lies beside the file.
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
NORM_EPS = 1e-12  # the library's default, and that of the published weights
GELUS = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh"}
# The names of a state dict of transformers 5 as its files have them.
MODULES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
LAYER = {
    "LayerNorm_0": "layernorm_before",
    "LayerNorm_1": "layernorm_after",
    "MultiHeadDotProductAttention_0/query": "attention.attention.query",
    "MultiHeadDotProductAttention_0/key": "attention.attention.key",
    "MultiHeadDotProductAttention_0/value": "attention.attention.value",
    "MultiHeadDotProductAttention_0/out": "attention.output.dense",
    "MlpBlock_0/Dense_0": "intermediate.dense",
    "MlpBlock_0/Dense_1": "output.dense",
}
OUTSIDE = {
    "embedding": "embeddings.patch_embeddings.projection",
    "Transformer/encoder_norm": "layernorm",
}
CLS, POSITIONS = "embeddings.cls_token", "embeddings.position_embeddings"
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
LEFT_OUT = {
    "pooler.": "the pooler behind the class token was left out: the embedding is the class token itself",
    "embeddings.mask_token": "the token for masked patches was left out",
}


def fits(names: set[str]) -> bool:
    """Whether tensors of these names are a ViT of transformers."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in names)


def read(state: Mapping[str, np.ndarray], request: Request) -> Converted:
    """A state dict as our variables.

    Raises:
      ValueError: listing the tensors that are missing, unknown or of another shape, or where the request or the
        config.json does not fit.
    """
    found = _separate_positions({_file_name(name): value for name, value in state.items()})
    model, grid, notes = _model(found, request.settings)
    size = vits.SIZES[model["variant"].split("/")[0]]
    classified = any(name.startswith("classifier.") for name in found)
    if classified:
        vits.need(found, {"classifier.weight": 2})
    head = classifiers.tell([found["classifier.weight"].shape] if classified else [], False, size.width, request)
    patch = int(model["variant"].split("/")[1])
    channels = found[OUTSIDE["embedding"] + ".weight"].shape[1]
    shapes = ours.shapes(model, head, size.width, (grid[0] * patch, grid[1] * patch, channels))
    slots = {name: _slot(name, shape) for name, shape in shapes.items()}
    left_out = {name: note for name in found for start, note in LEFT_OUT.items() if name.startswith(start)}
    if request.head == "none":
        left_out |= {name: "" for name in found if name.startswith("classifier.")}
    flat = fill(slots, found, left_out, f"a ViT-{model['variant']}")
    about = ours.about(model, head, request, HALF, grid)
    notes = (*notes, *filter(None, dict.fromkeys(left_out.values())), *head.notes)
    return Converted(trees.unflatten(flat), about, notes)


def _file_name(name: str) -> str:
    name = re.sub(r"^layers\.", "encoder.layer.", name.removeprefix("vit."))
    for module, file_name in MODULES.items():
        name = name.replace(f".{module}.", f".{file_name}.")
    return name


def _separate_positions(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The class token with its own position added, as ours is, and the positions of the patches alone."""
    if CLS in found and POSITIONS in found and found[POSITIONS].ndim == 3:
        token, positions = found[CLS], found[POSITIONS]
        found |= {CLS: token + positions[:, :1], POSITIONS: positions[:, 1:]}
    return found


def _model(found: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> tuple[dict, tuple[int, int], tuple]:
    """The options of our model, its grid of patches, and notes."""
    projection = OUTSIDE["embedding"] + ".weight"
    hidden = "encoder.layer.0.intermediate.dense.weight"
    vits.need(found, {projection: 4, hidden: 2, POSITIONS: 3})
    width, _, patch, _ = found[projection].shape
    heads = settings.get("num_attention_heads")
    layers = vits.depth(found, r"encoder\.layer\.(\d{1,3})\.")
    variant = vits.variant(width, layers, found[hidden].shape[0], heads, patch)
    act = settings.get("hidden_act", "gelu")
    if act not in GELUS:
        raise ValueError(f"config.json has hidden_act={act!r}, which is not one of {list(GELUS)}")
    notes = () if settings else (f"no config.json beside the file: norm_eps {NORM_EPS} and the exact GELU are assumed",)
    options = {"pool": "tok", "norm_eps": float(settings.get("layer_norm_eps", NORM_EPS)), "gelu": GELUS[act]}
    return configs.vit(variant) | options, vits.grid(found[POSITIONS].shape[1]), notes


def _slot(name: str, shape: tuple[int, ...]) -> Slot:
    theirs = _name(name)
    if theirs in (CLS, POSITIONS) or len(shape) == 1:
        return Slot(theirs, shape, lambda x: x)
    if len(shape) == 4:
        return Slot(theirs, tuple(shape[axis] for axis in (3, 2, 0, 1)), lambda x: x.transpose(2, 3, 1, 0))
    if name.endswith("bias"):
        return Slot(theirs, (shape[0] * shape[1],), lambda x: x.reshape(shape))
    inputs = shape[0] * shape[1] if "/out/" in name else shape[0]
    return Slot(theirs, (int(np.prod(shape)) // inputs, inputs), lambda x: x.T.reshape(shape))


def _name(name: str) -> str:
    _, part, *modules, leaf = name.split("/")
    if part == "head":
        return f"classifier.{LEAVES[leaf]}"
    if not modules:
        return {"cls": CLS, "pos_embedding": POSITIONS}[leaf]
    if modules[0] == "Transformer" and modules[1].startswith("encoderblock_"):
        layer = modules[1].removeprefix("encoderblock_")
        return f"encoder.layer.{layer}.{LAYER['/'.join(modules[2:])]}.{LEAVES[leaf]}"
    return f"{OUTSIDE['/'.join(modules)]}.{LEAVES[leaf]}"
