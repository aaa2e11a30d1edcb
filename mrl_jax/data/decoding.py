"""From an encoded file to pixels: plain JPEG by the fast way, everything else by Pillow."""

import numpy as np
from PIL import Image

from mrl_jax.data import jpeg, pictures, resizing


def decode(image: np.ndarray | bytes, channels: int | None = None) -> np.ndarray:
    """An encoded file (JPEG, PNG, ...) as an array; `channels` is 1 (grey) or 3 (RGB).

    None means 3 for encoded files, and as they are for images that come as arrays.
    """
    if isinstance(image, bytes):
        return _decode_file(image, channels)
    if image.ndim == 2:
        image = image[:, :, None]
    if channels in (None, image.shape[2]):
        return image
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return _with_channels(np.asarray(picture.convert("L" if channels == 1 else "RGB")))


def decode_box(image: bytes, box: jpeg.Box, target: int, channels: int | None = None) -> np.ndarray:
    """A box of a plain JPEG file resized to target x target: `resizing.resize_box` of `decode`, without the rest of it.

    Equal to that but for the averaging of pictures far larger than the target, which the decoder does itself.
    """
    try:
        return resizing.resize_box(*jpeg.decode_box(image, box, target, channels or 3), target)
    except ValueError:
        return resizing.resize_box(pictures.read(image, channels), box, target)


def _decode_file(data: bytes, channels: int | None) -> np.ndarray:
    if jpeg.size(data) is not None:
        try:
            return jpeg.decode(data, channels or 3)
        except ValueError:  # damaged, perhaps not beyond use: Pillow decides
            pass
    return pictures.read(data, channels)


def _with_channels(image: np.ndarray) -> np.ndarray:
    return image[:, :, None] if image.ndim == 2 else image
