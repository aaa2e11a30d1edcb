"""Faces for training: MS1MV3 (MS1M-RetinaFace, Deng et al. 2019) as a RecordIO file, train.rec with train.idx."""

import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from mrl_jax.data.preparing.items import Item
from mrl_jax.data.preparing.layouts.files import needed

MAGIC = 0xCED7230A
_FRAME, _HEADER = struct.Struct("<II"), struct.Struct("<IfQQ")
_LENGTH = (1 << 29) - 1  # the bits above tell records in several parts, which none of these is


class RecordIO:
    """Training images of one identity each, by number; a key is the offset of a record."""

    label_names = num_classes = None
    digits_are_numbers = True
    open_set, field_names = False, ()

    def __init__(self, source: str):
        """Nothing is read yet."""
        self._root = pathlib.Path(source)

    def items(self) -> Iterator[Item]:
        """The images in the order of the index.

        Raises:
          FileNotFoundError: where a file is not there.
          ValueError: where one is damaged.
        """
        index, path = (needed(self._root, name, "ms1mv3") for name in ("train.idx", "train.rec"))
        offsets = dict(tuple(map(int, line.split())) for line in index.read_text(encoding="utf-8").splitlines())
        with path.open("rb") as file:
            # Record 0 says where images end; after them come records about identities.
            end = int(_record(file, offsets[0], path, image=False)[0][0]) if 0 in offsets else max(offsets) + 1
            for number in sorted(number for number in offsets if 0 < number < end):
                label, _ = _record(file, offsets[number], path, image=False)
                yield Item("train", str(offsets[number]), (int(label[0]),))

    def read(self, key: str) -> bytes:
        """The encoded image."""
        with (self._root / "train.rec").open("rb") as file:
            return _record(file, int(key), self._root / "train.rec")[1]

    def identity(self, key: str) -> str:
        """The offset."""
        return key


def _record(file, offset: int, path: pathlib.Path, image: bool = True) -> tuple[np.ndarray, bytes]:
    """The label (one number or more) and the image of the record at an offset."""
    file.seek(offset)
    frame = file.read(_FRAME.size + _HEADER.size)
    if len(frame) < _FRAME.size + _HEADER.size or _FRAME.unpack_from(frame)[0] != MAGIC:
        raise ValueError(f"{path} has no record at byte {offset}: it is damaged, or of another train.idx")
    size = (_FRAME.unpack_from(frame)[1] & _LENGTH) - _HEADER.size
    count, label, _, _ = _HEADER.unpack_from(frame, _FRAME.size)
    labels = np.frombuffer(file.read(4 * count), "<f4") if count else np.array([label], np.float32)
    data = file.read(size - 4 * count) if image else b""
    if len(labels) != max(count, 1) or (image and len(data) != size - 4 * count):
        raise ValueError(f"{path} ends within the record at byte {offset}: it is cut short")
    return labels, data


def ms1mv3(source: str) -> RecordIO:
    """MS1MV3, as it is unpacked: train.rec and train.idx."""
    return RecordIO(source)
