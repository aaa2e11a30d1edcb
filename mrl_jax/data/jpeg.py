"""Plain JPEG files, decoded fast: at a fraction of their size, and no more of them than a box needs.

TurboJPEG's own library can leave out what lies beside and below a box. It is called through ctypes, where it is found:
in the package `turbojpeg`, whose Python functions do not offer that, or on the system. Elsewhere simplejpeg decodes
the whole picture. Both are libjpeg-turbo and give the same pixels.
"""

import ctypes
import ctypes.util
import functools
import importlib.util
import math
import pathlib
import threading
from typing import Any

import numpy as np
import simplejpeg

FACTORS = (1, 2, 4, 8)  # what the decoder can divide both sides by at no cost
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

_END = b"\xff\xd9"
# Names of turbojpeg.h: parameters, colour spaces, and the width of a coded block by chroma subsampling.
_DECOMPRESS, _STOP_ON_WARNING, _SUBSAMPLING, _RGB, _GREY = 1, 0, 4, 0, 6
_BLOCK_WIDTH = {0: 8, 1: 16, 2: 16, 3: 8, 4: 8, 5: 32, 6: 8}
_MARGIN = 4  # columns beside the box whose colours reach into it


class _Region(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("x", "y", "w", "h"))


class _Scale(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("num", "denom"))


def size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a plain JPEG file: 8 bits, grey or colour, with its end. None for any other file."""
    # A file cut short has no end; one with something behind its end goes the slow way, which can tell.
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(_END):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if space in ("YCbCr", "Gray") else None


def factor(box: Box, target: int) -> int:
    """The largest of FACTORS that leaves both sides of the box at least `target` pixels."""
    shorter = min(box[2] - box[0], box[3] - box[1])
    return max(f for f in FACTORS if f == 1 or shorter >= target * f)


def decode(data: bytes, channels: int = 3, scale: int = 1) -> np.ndarray:
    """A plain file as uint8 (ceil(H / scale), ceil(W / scale), channels); scale is one of FACTORS.

    Raises:
      ValueError: where the file is damaged in the least.
    """
    least = {}
    if scale > 1:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
    return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", **least)


def decode_box(data: bytes, box: Box, target: int, channels: int = 3) -> tuple[np.ndarray, Box]:
    """Pixels that hold the box of a plain file, at the smallest scale that leaves it `target` x `target` or more.

    Args:
      data: of the file.
      box: in pixels of the whole picture, inside of it.
      target: the size it will have.
      channels: 1 (grey) or 3 (RGB).

    Returns:
      uint8 (h, w, channels), and the box in these pixels, rounded to whole ones. The next call of the same thread may
      write over them.

    Raises:
      ValueError: where the file is damaged in what was read of it.
    """
    scale = factor(box, target)
    left, top, right, bottom = ((x + scale // 2) // scale for x in box)
    library = _library()
    if library is None:
        return decode(data, channels, scale), (left, top, right, bottom)
    pixels, x, y = library.decode(data, (left, top, right, bottom), scale, channels)
    return pixels, (left - x, top - y, right - x, bottom - y)


class _Library:
    """The C functions of TurboJPEG 3, with a decompressor for each thread."""

    def __init__(self, path: str):
        """Raises OSError or AttributeError where there is no such library, or an older one."""
        self._c = c = ctypes.CDLL(path)
        handle, number, data = ctypes.c_void_p, ctypes.c_int, (ctypes.c_char_p, ctypes.c_size_t)
        c.tj3Init.restype, c.tj3Init.argtypes = handle, (number,)
        c.tj3Destroy.restype, c.tj3Destroy.argtypes = None, (handle,)
        c.tj3Set.argtypes, c.tj3Get.argtypes = (handle, number, number), (handle, number)
        c.tj3GetErrorStr.restype, c.tj3GetErrorStr.argtypes = ctypes.c_char_p, (handle,)
        c.tj3DecompressHeader.argtypes = (handle, *data)
        c.tj3SetScalingFactor.argtypes, c.tj3SetCroppingRegion.argtypes = (handle, _Scale), (handle, _Region)
        c.tj3Decompress8.argtypes = (handle, *data, ctypes.c_void_p, number, number)
        self._of_thread = threading.local()

    def decode(self, data: bytes, box: Box, scale: int, channels: int) -> tuple[np.ndarray, int, int]:
        """Pixels around a box of the scaled picture, and where in it they begin: x, y.

        The pixels lie in memory that the next call of the same thread writes over.
        """
        c, handle = self._c, self._handle()
        self._check(handle, c.tj3DecompressHeader(handle, data, len(data)))
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        height, width = -(-height // scale), -(-width // scale)
        block = max(_BLOCK_WIDTH.get(c.tj3Get(handle, _SUBSAMPLING), width * scale) // scale, 1)
        left, top, right, bottom = box
        x, y = max(left - _MARGIN, 0) // block * block, max(top - _MARGIN, 0)
        right, bottom = min(right + _MARGIN, width), min(bottom + _MARGIN, height)
        self._check(handle, c.tj3SetScalingFactor(handle, _Scale(1, scale)))
        self._check(handle, c.tj3SetCroppingRegion(handle, _Region(x, y, right - x, bottom - y)))
        pixels = self._room((bottom - y, right - x, channels))
        form = _GREY if channels == 1 else _RGB
        self._check(handle, c.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, pixels.strides[0], form))
        return pixels, x, y

    def _room(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Fresh memory of this size is handed out in pages of zeros, which takes as long as a tenth of decoding."""
        needed = math.prod(shape)
        if getattr(self._of_thread, "room", None) is None or self._of_thread.room.size < needed:
            self._of_thread.room = np.empty(needed, np.uint8)
        return self._of_thread.room[:needed].reshape(shape)

    def _handle(self) -> Any:
        if not hasattr(self._of_thread, "handle"):
            self._of_thread.handle = _Handle(self._c)
        return self._of_thread.handle.value

    def _check(self, handle: Any, status: int) -> None:
        if status:
            raise ValueError(self._c.tj3GetErrorStr(handle).decode(errors="replace"))


class _Handle:
    """A decompressor, freed with the thread that it belongs to."""

    def __init__(self, c: Any):
        self._c, self.value = c, c.tj3Init(_DECOMPRESS)
        if not self.value:
            raise MemoryError("TurboJPEG cannot start a decompressor")
        c.tj3Set(self.value, _STOP_ON_WARNING, 1)

    def __del__(self):
        if self.value:
            self._c.tj3Destroy(self.value)


@functools.cache
def _library() -> _Library | None:
    for path in _candidates():
        try:
            return _Library(path)
        except (OSError, AttributeError):
            continue
    return None


def _candidates() -> list[str]:
    spec = importlib.util.find_spec("turbojpeg")
    beside = pathlib.Path(spec.origin).parent / "turbojpeg.libs" if spec and spec.origin else pathlib.Path("/nowhere")
    system = ctypes.util.find_library("turbojpeg")
    return [*map(str, sorted(beside.glob("libturbojpeg*"))), *([system] if system else [])]
