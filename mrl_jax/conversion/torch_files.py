"""Reads state dicts from files of `torch.save` without torch: its zip archives, and the streams from before 1.6.

Nothing is unpacked to disk and no pickled code runs (see `pickles`). Every length that a file declares is compared with
the bytes that are there before memory is taken for it.
"""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrl_jax.conversion import pickles

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# Keys under which training scripts put the state dict beside the optimizer's.
WRAPPERS = ("state_dict", "model")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name; a bfloat16 one as float32.

    Raises:
      ValueError: if the file is damaged, is not a state dict, or holds more than one; the message names what.
    """
    try:
        if zipfile.is_zipfile(path):
            tree, storages = _read_zip(path)
        else:
            tree, storages = _read_stream(path.read_bytes())
        return _tensors(tree, storages)
    except (ValueError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a torch state dict: {error}") from error


def _read_zip(path: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        found = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise ValueError(f"it is a zip archive with {len(found)} entries data.pkl instead of 1")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("it is a compressed zip archive, which torch does not write")
        if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
            raise ValueError("its entries declare more bytes than it has")
        root = found[0].removesuffix("data.pkl")
        order = archive.read(root + "byteorder").decode() if root + "byteorder" in entries else "little"
        tree, _ = pickles.load(archive.read(found[0]))
        storages = {}
        for storage in _storages(tree):
            name = f"{root}data/{storage.key}"
            if name not in entries:
                raise ValueError(f"its entry {name!r} is missing")
            if storage.key not in storages:
                # Also compares the checksum.
                storages[storage.key] = _array(archive.read(name), storage, order)
        return tree, storages


def _read_stream(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """Five pickles (magic number, version, system, tree, keys), then for each key a length and the elements."""
    if data[:1] != b"\x80":
        raise ValueError("it is neither a zip archive nor a pickle")
    objects, at = [], 0
    for _ in range(5):
        value, size = pickles.load(data[at:])
        objects.append(value)
        at += size
        if objects[0] != LEGACY_MAGIC:
            raise ValueError("it is a pickle, but not one of torch.save")
    _, version, system, tree, keys = objects
    if version != LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise ValueError(f"its version {version!r} is not {LEGACY_PROTOCOL}")
    order = "little" if system.get("little_endian", True) else "big"
    declared = {storage.key: storage for storage in _storages(tree)}
    storages = {}
    for key in keys:
        if key not in declared:
            raise ValueError(f"it holds the storage {key!r}, which no tensor uses")
        count = int.from_bytes(data[at : at + 8], order)
        size = count * _item_size(declared[key].dtype)
        if count != declared[key].size or at + 8 + size > len(data):
            raise ValueError(f"the storage {key!r} of {declared[key].size} elements is cut short")
        storages[key] = _array(data[at + 8 : at + 8 + size], declared[key], order)
        at += 8 + size
    return tree, storages


def _storages(tree: Any) -> list[pickles.Storage]:
    return [view.storage for view in _views(tree).values()]


def _views(tree: Any) -> dict[str, pickles.View]:
    """The declared tensors by name."""
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}, not a dict of tensors")
    inner = [name for name in WRAPPERS if isinstance(dict.get(tree, name), dict)]
    if len(inner) > 1:
        raise ValueError(f"it holds several dicts {inner}: save the one that is meant alone")
    tree = tree[inner[0]] if inner else tree
    views = {}
    for name, value in dict.items(tree):
        if not isinstance(name, str) or not isinstance(value, pickles.View):
            raise ValueError(f"its entry {name!r} is a {type(value).__name__}, not a tensor: save the state dict alone")
        views[name] = value
    return views


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _array(data: bytes, storage: pickles.Storage, order: str) -> np.ndarray:
    if len(data) != storage.size * _item_size(storage.dtype):
        raise ValueError(f"the storage {storage.key!r} of {storage.size} elements has {len(data)} bytes")
    sign = {"little": "<", "big": ">"}.get(order)
    if sign is None:
        raise ValueError(f"its byte order {order[:20]!r} is unknown")
    if storage.dtype == "bfloat16":
        return (np.frombuffer(data, sign + "u2").astype(np.uint32) << 16).view(np.float32)
    array = np.frombuffer(data, np.dtype(storage.dtype).newbyteorder(sign))
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _tensors(tree: Any, storages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    views = _views(tree)
    for name, view in views.items():
        _check(name, view)
    declared = sum(_count(view.shape) for view in views.values())
    if declared > 2 * sum(array.size for array in storages.values()):
        raise ValueError(f"its tensors overlap: together they declare {declared} elements, far more than are there")
    tensors = {}
    for name, (storage, offset, shape, strides) in views.items():
        array = storages[storage.key]
        strides = tuple(stride * array.itemsize for stride in strides)
        flat = array[offset:] if _count(shape) else array[:0]
        tensors[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, strides)).reshape(shape)
    return tensors


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _check(name: str, view: pickles.View) -> None:
    """Raises ValueError unless the tensor lies within its storage."""
    storage, offset, shape, strides = view
    numbers = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
    whole = all(isinstance(n, int) and 0 <= n < 2**62 for n in numbers)
    if not isinstance(storage, pickles.Storage) or not whole or len(shape) != len(strides) or len(shape) > 8:
        raise ValueError(f"the tensor {name!r} is declared as {str(view)[:200]}, which no tensor is")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if _count(shape) and (last >= storage.size or _count(shape) > storage.size):
        raise ValueError(
            f"the tensor {name!r} of shape {shape}, strides {strides} and offset {offset} does not fit its storage of "
            f"{storage.size} elements"
        )
