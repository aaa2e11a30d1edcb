"""BERT encoders of Hugging Face transformers (BertModel, or what is built on one), from their files or a state dict.

Every text is of the first kind: the embedding of that is added to the positions. The number of heads, the epsilon of
the norms and the form of the GELU are not in the tensors: they come from `config.json` where it lies beside the file.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mrl_jax import config as configs
from mrl_jax import models, trees
from mrl_jax.conversion import classifiers, ours, vits
from mrl_jax.conversion.hf_vit import GELUS, LEAVES
from mrl_jax.conversion.matching import Slot, fill
from mrl_jax.conversion.request import Converted, Request
from mrl_jax.models.bert import SIZES
from mrl_jax.nesting import Nesting

NORM_EPS = 1e-12  # the library's default, and that of the published weights
WORDS, POSITIONS, KINDS = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
LEFT_OUT = {
    "pooler.": "the pooler behind the first token was left out",
    "cls.": "the heads of pretraining were left out",
    "embeddings.position_ids": "",
}


def fits(names: set[str]) -> bool:
    """Whether tensors of these names are a BERT of transformers."""
    return {WORDS, POSITIONS, KINDS} <= {_file_name(name) for name in names}


def read(state: Mapping[str, np.ndarray], request: Request) -> Converted:
    """A state dict as the variables of an encoder without a head.

    Raises:
      ValueError: listing the tensors that are missing, unknown or of another shape, or where the request or the
        config.json does not fit.
    """
    found = {_file_name(name): value for name, value in state.items()}
    if request.mean or request.std:
        raise ValueError("it reads texts: leave --mean and --std out")
    vits.need(found, {WORDS: 2, POSITIONS: 2, KINDS: 2, "encoder.layer.0.intermediate.dense.weight": 2})
    model, notes = _model(found, request.settings)
    width, vocabulary = SIZES[model["variant"]].width, len(found[WORDS])
    head = classifiers.tell([], False, width, request)
    found[POSITIONS] = found[POSITIONS] + found.pop(KINDS)[:1]
    slots = {name: _slot(name, shape) for name, shape in _shapes(model, width, vocabulary).items()}
    left_out = {name: note for name in found for start, note in LEFT_OUT.items() if name.startswith(start)}
    flat = fill(slots, found, left_out, f"a BERT-{model['variant']}")
    notes += tuple(filter(None, dict.fromkeys(left_out.values())))
    notes += (f"texts for it are prepared with its own tokenizer.json, of {vocabulary} pieces",)
    return Converted(trees.unflatten(flat), ours.about(model, head, request, ((), ()), None), notes)


def _file_name(name: str) -> str:
    # The first files name the parameters of norms otherwise.
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name.removeprefix("bert.")))


def _model(found: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The options of our model, and notes."""
    kind, act = settings.get("model_type", "bert"), settings.get("hidden_act", "gelu")
    if kind != "bert":
        raise ValueError(f"config.json has model_type={kind!r}, whose tensors only have the names of a BERT's")
    if act not in GELUS:
        raise ValueError(f"config.json has hidden_act={act!r}, which is not one of {list(GELUS)}")
    depth = vits.depth(found, r"encoder\.layer\.(\d{1,3})\.")
    size = found[WORDS].shape[1], depth, len(found["encoder.layer.0.intermediate.dense.weight"])
    heads = settings.get("num_attention_heads")
    fitting = [name for name, own in SIZES.items() if own[:3] == size and heads in (None, own.num_heads)]
    if not fitting:
        raise ValueError(
            f"a BERT of width {size[0]}, depth {depth}, MLP {size[2]} and {heads or 'unknown'} heads is none of "
            f"{ {name: tuple(own) for name, own in SIZES.items()} }: add its size to SIZES in mrl_jax/models/bert.py"
        )
    notes = () if settings else (f"no config.json beside the file: norm_eps {NORM_EPS} and the exact GELU are assumed",)
    own = {name: value for name, value in configs.bert(fitting[0]).items() if name not in configs.TEMPERATURE}
    own |= {"norm_eps": float(settings.get("layer_norm_eps", NORM_EPS)), "gelu": GELUS[act]}
    return own | {"positions": len(found[POSITIONS])}, notes


def _shapes(model: Mapping[str, Any], width: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    options = dict(model)
    own = {"head": "none", "nesting": Nesting((width,)), "num_classes": 1, "vocabulary": vocabulary}
    init = models.build(options.pop("name"), options, **own).init
    flat = trees.flatten(jax.eval_shape(init, jax.random.key(0), {"tokens": jax.ShapeDtypeStruct((1, 3), np.int32)}))
    return {name: value.shape for name, value in flat.items() if name.startswith("params/encoder/")}


def _slot(name: str, shape: tuple[int, ...]) -> Slot:
    module, _, leaf = name.removeprefix("params/encoder/").rpartition("/")
    if leaf in ("position", "embedding"):
        return Slot(POSITIONS if leaf == "position" else WORDS, shape, lambda x: x)
    layer, _, part = module.partition("/")
    theirs = f"encoder.layer.{layer.removeprefix('layer_')}.{LAYER[part]}" if part else "embeddings.LayerNorm"
    theirs = f"{theirs}.{LEAVES[leaf]}"
    if leaf != "kernel":
        return Slot(theirs, (int(np.prod(shape)),), lambda x: x.reshape(shape))
    inputs = shape[0] * shape[1] if part == "out" else shape[0]
    return Slot(theirs, (int(np.prod(shape)) // inputs, inputs), lambda x: x.T.reshape(shape))
