"""Where an image is cut, mirrored and moved: transforms on uint8 arrays (H, W, C)."""

import math

import cv2
import numpy as np

from mrl_jax.data import jpeg, resizing


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central size x size pixels."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(f"center_crop({size}) of an image of {height}x{width} pixels: put resize_small before it")
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def random_resized_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
) -> np.ndarray:
    """A random box resized to size x size (Szegedy et al. 2015, section 6; the defaults of FFCV and torchvision)."""
    return resizing.resize_box(image, random_box(*image.shape[:2], rng, scale, ratio), size)


def random_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
) -> jpeg.Box:
    """The box of `random_resized_crop` in an image of height x width pixels.

    It has a share of the area uniform in `scale` and a width / height log-uniform in `ratio`; where ten tries give none
    that fits, it is the largest central box of a ratio within `ratio`.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        # One draw of four and plain floats: a call of numpy for each of them takes five times as long.
        size, shape, down, right = rng.random(4).tolist()
        area = height * width * (scale[0] + size * (scale[1] - scale[0]))
        aspect = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            break
    else:
        w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
        top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h


def flip_lr(image: np.ndarray, rng: np.random.Generator, probability: float = 0.5) -> np.ndarray:
    """Mirrored left to right with the given probability."""
    if rng.random() >= probability:
        return image
    return cv2.flip(np.ascontiguousarray(image), 1).reshape(image.shape)


def random_shift(image: np.ndarray, rng: np.random.Generator, pixels: int) -> np.ndarray:
    """Moved by up to `pixels` along each axis; the border is repeated where nothing is left."""
    height, width = image.shape[:2]
    dy, dx = rng.integers(-pixels, pixels + 1, size=2)
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    return image[rows[:, None], columns]


def random_crop(image: np.ndarray, rng: np.random.Generator, size: int, padding: int = 0) -> np.ndarray:
    """Random size x size pixels, after adding `padding` black pixels on every side (CIFAR: 4; He et al. 2015, 4.2)."""
    image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"random_crop({size}) of {height}x{width} pixels, padding included: put resize_small before it"
        )
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return image[top : top + size, left : left + size]
