"""Reads `.npz` archives of arrays, each declared size compared with the bytes there before memory is taken for it."""

import math
import pathlib
import zipfile

import numpy as np

# A deflated archive can declare a thousand times its size; weights hardly shrink.
MAX_EXPANSION = 64


def is_npz(path: pathlib.Path) -> bool:
    """Whether the file is a zip archive of .npy entries."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays by name; those of two nameless bytes, which is how bfloat16 gets stored, as float32.

    Raises:
      ValueError: if the file is damaged or holds anything but arrays of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_EXPANSION * path.stat().st_size + 2**20:
                raise ValueError(f"it declares more than {MAX_EXPANSION} times its own size")
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    except (ValueError, zipfile.BadZipFile, zipfile.zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as an npz archive: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ValueError(f"{entry.filename!r} holds Python objects, which only code could load")
        size = math.prod(shape) * dtype.itemsize
        if size != entry.file_size - file.tell():
            raise ValueError(f"{entry.filename!r} declares shape {shape}, {dtype}, and has {entry.file_size} bytes")
        data = file.read()
    if dtype.kind == "V" and dtype.itemsize == 2:
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if fortran else "C")
