"""What changes an image's look and not its size: transforms on uint8 arrays (H, W, C) of 1 or 3 channels.

All randomness comes from the generator. An image is never changed in place: it may be kept for the next epoch.
"""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_FILL = 128  # what shows where an image was rotated or moved away


def color_jitter(
    image: np.ndarray,
    rng: np.random.Generator,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
) -> np.ndarray:
    """Brightness, contrast, saturation and hue changed, in random order (Howard 2013; the formulas of torchvision).

    The first three are multiplied by a number uniform in [max(0, 1 - x), 1 + x], the hue is turned by one in
    [-hue, hue], 1 being the whole circle. Grey images have neither saturation nor hue: those two do nothing to them.
    """
    for index in rng.permutation(4):
        name = ("brightness", "contrast", "saturation", "hue")[index]
        amount = (brightness, contrast, saturation, hue)[index]
        change = rng.uniform(-hue, hue) if name == "hue" else rng.uniform(max(0.0, 1 - amount), 1 + amount)
        if amount and (image.shape[2] == 3 or name in ("brightness", "contrast")):
            image = JITTERS[name](image, change)
    return image


def _brightness(image: np.ndarray, change: float) -> np.ndarray:
    return _look_up(image, np.arange(256) * change)


def _contrast(image: np.ndarray, change: float) -> np.ndarray:
    mean = round(float(_grey(image).mean()))
    return _look_up(image, mean + (np.arange(256) - mean) * change)


def _saturation(image: np.ndarray, change: float) -> np.ndarray:
    grey = cv2.merge([_grey(image)] * 3)
    return cv2.addWeighted(image, change, grey, 1 - change, 0)


def _hue(image: np.ndarray, change: float) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(round(change * 256) % 256)  # wraps around, as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


JITTERS = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}


def _grey(image: np.ndarray) -> np.ndarray:
    return image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(table), 0, 255).astype(np.uint8)[image]


def random_erasing(
    image: np.ndarray,
    rng: np.random.Generator,
    probability: float = 0.25,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> np.ndarray:
    """A random box filled with noise, with the given probability (Zhong et al. 2017).

    The box has a share of the area uniform in `scale` and a width / height log-uniform in `ratio`; where ten tries give
    none that fits, the image stays as it is.
    """
    if rng.random() >= probability:
        return image
    height, width, channels = image.shape
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            image = image.copy()
            image[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, channels), np.uint8)
            break
    return image


def rand_augment(image: np.ndarray, rng: np.random.Generator, layers: int = 2, magnitude: float = 9) -> np.ndarray:
    """`layers` operations drawn from OPERATIONS, one after the other (RandAugment, Cubuk et al. 2020).

    Args:
      image: uint8 (H, W, 1 or 3).
      rng: draws the operations and their directions.
      layers: how many, each drawn from all of them.
      magnitude: of all of them, 0 (least) to 10 (most).
    """
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    for index in rng.integers(len(OPERATIONS), size=layers):
        sign = 1 if rng.random() < 0.5 else -1
        picture = list(OPERATIONS.values())[index](picture, magnitude / 10, sign)
    return np.asarray(picture).reshape(image.shape)


def _enhance(kind: Callable) -> Callable:
    return lambda picture, share, sign: kind(picture).enhance(1 + sign * 0.9 * share)


def _affine(picture: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    fill = _FILL if picture.mode == "L" else (_FILL,) * 3
    return picture.transform(
        picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _rotate(picture: Image.Image, share: float, sign: int) -> Image.Image:
    fill = _FILL if picture.mode == "L" else (_FILL,) * 3
    return picture.rotate(sign * 30 * share, Image.Resampling.BILINEAR, fillcolor=fill)


# Each takes the picture, its strength in 0..1 and a direction, +1 or -1.
OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "identity": lambda picture, share, sign: picture,
    "auto_contrast": lambda picture, share, sign: ImageOps.autocontrast(picture),
    "equalize": lambda picture, share, sign: ImageOps.equalize(picture),
    "posterize": lambda picture, share, sign: ImageOps.posterize(picture, 8 - round(4 * share)),
    "solarize": lambda picture, share, sign: ImageOps.solarize(picture, 256 - round(256 * share)),
    "brightness": _enhance(ImageEnhance.Brightness),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "rotate": _rotate,
    "shear_x": lambda picture, share, sign: _affine(picture, (1, sign * 0.3 * share, 0, 0, 1, 0)),
    "shear_y": lambda picture, share, sign: _affine(picture, (1, 0, 0, sign * 0.3 * share, 1, 0)),
    "translate_x": lambda picture, share, sign: _affine(picture, (1, 0, sign * 0.45 * share * picture.width, 0, 1, 0)),
    "translate_y": lambda picture, share, sign: _affine(picture, (1, 0, 0, 0, 1, sign * 0.45 * share * picture.height)),
}
