"""A model's weights as one file, which other programs read too; the only file that imports safetensors.

The tensors of a `.safetensors` file of ours are named by the paths of the variables (`params/head/kernel_8`); its
metadata describes the model in JSON and holds the SHA-256 of the content.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from mrl_jax import trees

FORMAT = "mrl_jax weights 1"
# What `about` holds; `load` refuses a file that lacks one of these.
ABOUT = {
    "model": "options of the backbone, as in config.model",
    "head": "mrl, mrl_e, ff, or none where the file holds no classifier",
    "nesting": "dims and weights; no dims where head is none",
    "num_classes": "of the head; 0 where head is none",
    "mean": "per channel, of images in 0..1; none for a model of texts",
    "std": "per channel, of images in 0..1; none for a model of texts",
    "grid": "rows and columns of patches that position embeddings are for; null where there are none",
    "source": "where the weights came from",
}


def save(path: os.PathLike | str, variables: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Writes the variables of a model and its description in one rename: no reader sees half of the file.

    Args:
      path: its folder exists; a file of that name is replaced.
      variables: nested dicts of arrays, "params" and, where the model has BatchNorm, "batch_stats".
      about: JSON values by the names of `ABOUT`.

    Raises:
      FileNotFoundError: if the folder does not exist.
      ValueError: if `about` lacks a name or has one too many.
    """
    if set(about) != set(ABOUT):
        raise ValueError(f"the description of weights holds {sorted(about)}: it needs {sorted(ABOUT)}")
    tensors = {name: np.asarray(value) for name, value in trees.flatten(variables).items()}
    text = json.dumps(about)
    metadata = {"format": FORMAT, "about": text, "sha256": _digest(tensors, text)}
    write_tensors(path, tensors, metadata)


def load(path: os.PathLike | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables, nested dicts of numpy arrays, and the description that `save` got.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not a weights file of this project, or its content is damaged.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT or {"about", "sha256"} - set(metadata):
        raise ValueError(
            f"{path} is a safetensors file, but not one of this project's weights files: make one from it with "
            f"`python -m mrl_jax.convert --src={path} --dst=NEW.safetensors`"
        )
    if metadata["sha256"] != _digest(tensors, metadata["about"]):
        raise ValueError(f"{path} is damaged: its content differs from what was written; copy or convert it again")
    about = json.loads(metadata["about"])
    if set(about) != set(ABOUT):
        raise ValueError(
            f"{path} describes its weights by {sorted(about)} instead of {sorted(ABOUT)}: convert it again"
        )
    return trees.unflatten(tensors), about


def is_ours(path: os.PathLike | str) -> bool:
    """Whether the metadata of a safetensors file say that `save` wrote it; ValueError as from `read_tensors`."""
    return _open(path, lambda file: (file.metadata() or {}).get("format") == FORMAT)


def write_tensors(path: os.PathLike | str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a flat dict of arrays as a safetensors file in one rename; FileNotFoundError without its folder."""
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: make it first, or write {path.name} elsewhere")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({n: np.ascontiguousarray(t).reshape(t.shape) for n, t in tensors.items()}, unfinished, metadata)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_tensors(path: os.PathLike | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of any safetensors file by name, and its metadata.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not a safetensors file, is cut short, or holds a dtype that numpy lacks.
    """
    return _open(path, lambda file: ({n: _tensor(file, n, path) for n in file.keys()}, file.metadata() or {}))  # noqa: SIM118


def _open(path: os.PathLike | str, read: Any) -> Any:
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give the path of a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return read(file)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or it is damaged or cut short ({error}): copy or convert it again"
        ) from error


def _tensor(file: Any, name: str, path: Any) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (TypeError, AttributeError, KeyError) as error:
        kind = file.get_slice(name).get_dtype()
        raise ValueError(f"{path}: tensor {name!r} is {kind}, which numpy lacks: save it as float32 first") from error


def _digest(tensors: Mapping[str, np.ndarray], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {tensors[name].shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
