"""Encoded images as 8-bit arrays, whatever the file holds: CMYK, 16 bits, palettes, transparency."""

import io

import numpy as np
from PIL import Image

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")


def read(data: bytes, channels: int | None = None) -> np.ndarray:
    """An encoded file (JPEG, PNG, ...) as uint8 (H, W, C): grey where `channels` is 1, RGB where it is 3 or None.

    What is transparent shows white; 16 bits are scaled to 8, not cut off; of several frames the first is taken.

    Raises:
      ValueError: for numbers without a known range (32-bit integers beyond 16 bits, floats).
      Exception: of any type, by format, where the file is damaged or cut short.
    """
    with Image.open(io.BytesIO(data)) as file:
        picture = _eight_bits(file)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        image = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return image[:, :, None] if image.ndim == 2 else image


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode in SIXTEEN_BITS or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"pixels from {values.min()} to {values.max()}: save the image with 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("pixels are floating-point numbers: save the image with 8 or 16 bits")
    return picture
