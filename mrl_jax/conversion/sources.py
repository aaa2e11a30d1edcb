"""Opens whatever `--src` names: a file of weights of any known kind, a folder that holds one, or a run."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import weights
from mrl_jax.choices import choose
from mrl_jax.conversion import FORMATS, npz_files, torch_files
from mrl_jax.conversion.request import Converted, Request

IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


class Opened(NamedTuple):
    """A file of weights of another program: its tensors by name, and the `config.json` beside it, if any."""

    path: pathlib.Path
    tensors: dict[str, np.ndarray]
    settings: dict[str, Any]


def locate(path: pathlib.Path) -> pathlib.Path:
    """The file of weights that `path` is or holds.

    Raises:
      FileNotFoundError: if there is none.
    """
    if path.is_dir():
        found = [path / name for name in IN_FOLDER if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(
                f"--src={path} is a folder with neither the checkpoints of a run nor {' or '.join(IN_FOLDER)}"
            )
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"--src={path} does not exist: give a file of weights or the folder of a run")
    return path


def is_safetensors(path: pathlib.Path) -> bool:
    """Whether the file begins as such files do, with the length of a JSON header and its brace."""
    with open(path, "rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def open_file(path: pathlib.Path) -> Opened:
    """Reads the tensors of a file of another program, told by its content.

    Raises:
      ValueError: if it is damaged or of no known kind.
    """
    beside = path.with_name("config.json")
    settings = {}
    if beside.is_file():
        settings = json.loads(beside.read_text(encoding="utf-8"))
    if is_safetensors(path):
        return Opened(path, weights.read_tensors(path)[0], settings)
    return Opened(path, npz_files.read(path) if npz_files.is_npz(path) else torch_files.read(path), settings)


def convert(opened: Opened, name: str, request: Request) -> tuple[str, Converted]:
    """The format of a file and its weights in our terms.

    Args:
      opened: what `open_file` gave.
      name: of FORMATS, or "" to tell it from the names of the tensors.
      request: what the file cannot tell; its settings are those found beside the file.

    Raises:
      ValueError: if no format fits, or the tensors do not.
    """
    if not name:
        fitting = [n for n, module in FORMATS.items() if module.fits(set(opened.tensors))]
        if len(fitting) != 1:
            some = ", ".join(list(opened.tensors)[:5])
            raise ValueError(
                f"{opened.path} holds tensors of no known model ({some}, ...): it is none of {list(FORMATS)}; "
                "--format=NAME takes it for one of them and lists what differs"
            )
        name = fitting[0]
    choose("--format", name, FORMATS)
    try:
        return name, FORMATS[name].read(opened.tensors, request._replace(settings=opened.settings))
    except ValueError as error:
        raise ValueError(f"{opened.path} (as {name}): {error}") from error
