"""ResNets under torchvision's names, with a plain classifier or a nested one of the published MRL code, both ways.

`fc` is a plain classifier (FF-k reads k features) or, in the released MRL-E weights, the tied one. Later code stores
nested heads as `fc.nesting_classifier_{i}`, one per dim, or one alone for MRL-E. A convolution behind a fixed blur is
`<its name>.conv`, beside the buffer `<its name>.blur_filter`. Weights of distributed runs begin with `module.`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrl_jax import config as configs
from mrl_jax import trees
from mrl_jax.conversion import classifiers, ours
from mrl_jax.conversion.matching import Slot, fill
from mrl_jax.conversion.request import Converted, Request
from mrl_jax.models.resnet import BLUR_MIN_CHANNELS, VARIANTS

PREFIX = "module."
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,), (0.5,))
BLUR_FILTER = np.outer((1, 2, 1), (1, 2, 1)).astype(np.float32) / 16
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
NESTED = re.compile(r"fc\.nesting_classifier_(\d{1,3})\.\w+")
# The axes of ours in torch's order, by the number of axes, and back.
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
FROM_TORCH = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def fits(names: set[str]) -> bool:
    """Whether tensors of these names are a ResNet of torchvision's."""
    return any(re.fullmatch(r"(module\.)?layer1\.0\.conv1\.(conv\.)?weight", name) for name in names)


def read(state: Mapping[str, np.ndarray], request: Request) -> Converted:
    """A state dict as our variables.

    Raises:
      ValueError: listing the tensors that are missing, unknown or of another shape, or where the request does not fit.
    """
    prefixed = all(name.startswith(PREFIX) for name in state)
    found = {name.removeprefix(PREFIX) if prefixed else name: value for name, value in state.items()}
    model, embed_dim, notes = _model(found)
    nested, matrices = _classifiers(found)
    head = classifiers.tell(matrices, nested, embed_dim, request)
    channels = found["conv1.weight"].shape[1] if np.ndim(found.get("conv1.weight")) == 4 else 3
    slots = _slots(ours.shapes(model, head, embed_dim, (32, 32, channels)), model, head, nested)
    ignored = {name for name in found if name.endswith((".num_batches_tracked", ".blur_filter"))}
    if head.kind == "none":
        ignored |= {name for name in found if name.startswith("fc.")}
    flat = fill(slots, found, ignored, f"a resnet{model['variant']} with {_describe(head)}")
    _check_filters({name: found[name] for name in found if name.endswith(".blur_filter")})
    about = ours.about(model, head, request, IMAGENET if channels == 3 else HALF, None)
    return Converted(trees.unflatten(flat), about, (*notes, *head.notes))


def write(variables: Mapping[str, Any], about: Mapping[str, Any], *, released: bool) -> dict[str, np.ndarray]:
    """Our variables as a state dict, with every buffer that the module has.

    Args:
      variables: of a ResNet.
      about: its description.
      released: a tied head as `fc`, the layout of the released MRL-E weights, not as `fc.nesting_classifier_0`.

    Raises:
      ValueError: if the model is not a ResNet.
    """
    model = about["model"]
    if model["name"] != "resnet":
        raise ValueError(f"the model is a {model['name']}: only a resnet has names in torchvision's layout")
    head = classifiers.Classifier(about["head"], tuple(about["nesting"]["dims"]), about["num_classes"])
    flat = trees.flatten(variables)
    nested = head.kind == "mrl" or (head.kind == "mrl_e" and not released)
    shapes = {name: np.shape(value) for name, value in flat.items()}
    state = {}
    for name, slot in _slots(shapes, model, head, nested).items():
        value = np.asarray(flat[name], np.float32)
        state[slot.name] = np.ascontiguousarray(value.transpose(TO_TORCH[value.ndim]))
        if slot.name.endswith(".conv.weight"):
            channels = value.shape[2]
            state[slot.name.replace(".conv.weight", ".blur_filter")] = np.tile(BLUR_FILTER, (channels, 1, 1, 1))
        if slot.name.endswith("running_var"):
            state[slot.name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def _model(found: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], int, tuple[str, ...]]:
    """The options of the model that the names tell, or the nearest one, and its embedding size."""
    depths = [len({m.group(1) for m in (re.match(rf"layer{s}\.(\d+)\.", n) for n in found) if m}) for s in range(1, 5)]
    bottleneck = any(".conv3." in name for name in found)
    alike = {v: layers for v, (kind, layers) in VARIANTS.items() if kind == bottleneck}
    variant = min(alike, key=lambda v: sum(abs(a - b) for a, b in zip(alike[v], depths)))
    stem = found.get("conv1.weight", np.empty((64, 3, 7, 7)))
    options = {
        "stem": "small" if stem.shape[-1:] == (3,) else "imagenet",
        "base_width": len(stem) if stem.ndim else 64,
        "blurpool": any(name.endswith(".blur_filter") or re.search(r"\.conv\d\.conv\.weight$", name) for name in found),
    }
    notes = ("a 3x3 stem is taken to have stride 1 and no max-pool behind it",) if options["stem"] == "small" else ()
    return configs.resnet(variant) | options, options["base_width"] * 8 * (4 if bottleneck else 1), notes


def _slots(
    shapes: Mapping[str, tuple[int, ...]], model: Mapping[str, Any], head: classifiers.Classifier, nested: bool
) -> dict[str, Slot]:
    slots = {}
    for name, shape in shapes.items():
        back = FROM_TORCH[len(shape)]
        torch_shape = tuple(shape[axis] for axis in TO_TORCH[len(shape)])
        torch_name = _head_name(name, head, nested) if "/head/" in name else _backbone_name(name, shape, model)
        slots[name] = Slot(torch_name, torch_shape, lambda x, back=back: x.transpose(back))
    return slots


def _head_name(name: str, head: classifiers.Classifier, nested: bool) -> str:
    kind, _, dim = name.split("/")[-1].partition("_")
    place = head.dims.index(int(dim)) if dim else 0
    return f"fc.nesting_classifier_{place}.{LEAVES[kind]}" if nested else f"fc.{LEAVES[kind]}"


def _backbone_name(name: str, shape: tuple[int, ...], model: Mapping[str, Any]) -> str:
    _, _, *modules, leaf = name.split("/")
    path = re.sub(r"^(layer\d)_", r"\1.", ".".join(modules).replace("downsample_", "downsample."))
    blurred = model["blurpool"] and leaf == "kernel" and _strided(path, model) and shape[2] >= BLUR_MIN_CHANNELS
    return f"{path}{'.conv' if blurred else ''}.{LEAVES[leaf]}"


def _strided(path: str, model: Mapping[str, Any]) -> bool:
    bottleneck, _ = VARIANTS[model["variant"]]
    return re.fullmatch(rf"layer[234]\.0\.(conv{2 if bottleneck else 1}|downsample\.0)", path) is not None


def _classifiers(found: Mapping[str, np.ndarray]) -> tuple[bool, list[tuple[int, int]]]:
    """Whether the classifiers are stored as nested ones, and the shape of each."""
    indices = [int(m.group(1)) for m in map(NESTED.fullmatch, found) if m]
    names = [f"fc.nesting_classifier_{i}.weight" for i in range(max(indices, default=-1) + 1)]
    if not names and any(name.startswith("fc.") for name in found):
        names = ["fc.weight"]
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"its classifiers are not whole; {len(missing)} missing: {', '.join(missing)}")
    for name in names:
        if found[name].ndim != 2:
            raise ValueError(f"{name} has shape {found[name].shape}: a classifier has (classes, features)")
    return bool(indices), [found[name].shape for name in names]


def _check_filters(filters: Mapping[str, np.ndarray]) -> None:
    for name, value in filters.items():
        if value.shape[1:] != (1, 3, 3) or not np.allclose(value, BLUR_FILTER, atol=1e-6):
            raise ValueError(f"{name} is another filter than the outer product of [1, 2, 1] / 4 that blurpool means")


def _describe(head: classifiers.Classifier) -> str:
    return "no classifier" if head.kind == "none" else f"head {head.kind} of dims {head.dims}"
