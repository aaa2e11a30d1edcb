"""Resizing of uint8 arrays (H, W, C).

Two ways. `resize_small` is Pillow's bilinear filter with full antialiasing: exact, for evaluation. `resize_box` is for
training, where Pillow's alone takes as long as decoding: averages over 2 x 2, 4 x 4 or 8 x 8 pixels as long as that
leaves enough of them, as a JPEG decoder does it, and then plain bilinear interpolation.
"""

import cv2
import numpy as np
from PIL import Image

from mrl_jax.data import jpeg


def resize_small(image: np.ndarray, size: int) -> np.ndarray:
    """Resized so that the shorter side is `size` pixels, the ratio of the sides kept."""
    height, width = image.shape[:2]
    short = min(height, width)
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize((width * size // short, height * size // short), Image.Resampling.BILINEAR))
    return resized.reshape(*resized.shape[:2], image.shape[2])


def resize_box(image: np.ndarray, box: jpeg.Box, size: int) -> np.ndarray:
    """The box (left, top, right, bottom) of an image, resized to size x size."""
    left, top, right, bottom = box
    part = image[top:bottom, left:right]
    if min(part.strides) < 0:  # mirrored: OpenCV reads forwards only
        part = np.ascontiguousarray(part)
    scale = jpeg.factor(box, size)
    if scale > 1:
        height, width = part.shape[:2]
        part = cv2.resize(part, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, image.shape[2])
