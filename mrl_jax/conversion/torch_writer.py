"""Writes a state dict that `torch.load(PATH, weights_only=True)` reads, without torch.

The file is a zip archive: `data.pkl`, a pickle of the names, shapes and storage keys, and `data/<key>`, the bytes of
each tensor.
"""

import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}


def write(path: pathlib.Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes float32 and int64 tensors by name, in one rename.

    Raises:
      FileNotFoundError: if the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: make it first, or write {path.name} elsewhere")
    root = path.stem
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(unfinished, "x", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{root}/data.pkl", _pickle(state))
            archive.writestr(f"{root}/byteorder", "little")
            for key, array in enumerate(state.values()):
                archive.writestr(f"{root}/data/{key}", array.astype(array.dtype.newbyteorder("<")).tobytes())
            archive.writestr(f"{root}/version", "3\n")
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _pickle(state: Mapping[str, np.ndarray]) -> bytes:
    """An OrderedDict of tensors; each calls _rebuild_tensor_v2(storage, offset, shape, strides, False, hooks)."""
    items = b"".join(_text(name) + _tensor(key, array) for key, (name, array) in enumerate(state.items()))
    return b"\x80\x02" + _EMPTY_ORDERED_DICT + b"(" + items + b"u."


_EMPTY_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _tensor(key: int, array: np.ndarray) -> bytes:
    kind = STORAGES[array.dtype.name]
    storage = b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text(str(key)) + _text("cpu")
    storage += _int(array.size) + b"tQ"
    strides = [stride // array.itemsize for stride in np.empty_like(array, order="C").strides]
    arguments = storage + _int(0) + _ints(array.shape) + _ints(strides) + b"\x89" + _EMPTY_ORDERED_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _ints(numbers) -> bytes:
    return b"(" + b"".join(map(_int, numbers)) + b"t"
