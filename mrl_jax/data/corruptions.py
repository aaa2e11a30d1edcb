"""Photographs spoilt in standard ways at five severities (after Hendrycks and Dietterich, arXiv 1903.12261).

Images are uint8 (H, W, C) of 1 or 3 channels. Lengths are shares of the shorter side, so that 32 and 224 pixels are
spoilt alike. All randomness comes from the generator: the same index of the same set is always spoilt the same way.
"""

from collections.abc import Callable

import cv2
import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(image: np.ndarray, rng: np.random.Generator, kind: str, severity: int) -> np.ndarray:
    """The image spoilt by `kind`, a key of KINDS, at a severity of 1 to 5."""
    apply, strengths = KINDS[kind]
    x = apply(image.astype(np.float32) / 255, rng, strengths[severity - 1])
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8).reshape(image.shape)


def _gaussian_noise(x: np.ndarray, rng: np.random.Generator, deviation: float) -> np.ndarray:
    return x + deviation * rng.standard_normal(x.shape, np.float32)


def _shot_noise(x: np.ndarray, rng: np.random.Generator, photons: float) -> np.ndarray:
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    drawn = rng.random(x.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn > 1 - share / 2, 1.0, x))


def _defocus_blur(x: np.ndarray, rng: np.random.Generator, radius: float) -> np.ndarray:
    del rng
    radius *= min(x.shape[:2])
    reach, fine = int(np.ceil(radius)), 8
    # A disk smaller than a few pixels is one only if its rim covers parts of pixels.
    offset = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    disk = (offset[:, None] ** 2 + offset[None] ** 2 <= radius**2).astype(np.float32)
    disk = disk.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean(axis=(1, 3))
    return cv2.filter2D(x, -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT_101)


def _motion_blur(x: np.ndarray, rng: np.random.Generator, length: float) -> np.ndarray:
    length, angle = length * min(x.shape[:2]), rng.uniform(-np.pi / 4, np.pi / 4)
    reach = int(np.ceil(length / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for t in np.linspace(-length / 2, length / 2, 16 * reach + 1):
        px, py = reach + t * np.cos(angle), reach + t * np.sin(angle)
        column, row = min(int(px), 2 * reach - 1), min(int(py), 2 * reach - 1)
        right, down = px - column, py - row
        kernel[row, column] += (1 - right) * (1 - down)
        kernel[row, column + 1] += right * (1 - down)
        kernel[row + 1, column] += (1 - right) * down
        kernel[row + 1, column + 1] += right * down
    return cv2.filter2D(x, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def _zoom_blur(x: np.ndarray, rng: np.random.Generator, zoom: float) -> np.ndarray:
    del rng
    height, width = x.shape[:2]
    total = x.copy()
    factors = np.linspace(1, zoom, 12)[1:]
    for factor in factors:
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, factor)
        total += cv2.warpAffine(x, matrix, (width, height), flags=cv2.INTER_LINEAR).reshape(x.shape)
    return total / (len(factors) + 1)


def _fog(x: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    height, width = x.shape[:2]
    fog, cells, weight = np.zeros((height, width), np.float32), 2, 1.0
    while cells <= min(height, width):
        noise = rng.random((cells, cells), np.float32)
        fog += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = 2 * cells, 0.55 * weight
    fog = (fog - fog.min()) / max(float(fog.max() - fog.min()), 1e-6)
    brightest = x.max()
    return (x + strength * fog[:, :, None]) * brightest / (brightest + strength)


def _brightness(x: np.ndarray, rng: np.random.Generator, added: float) -> np.ndarray:
    del rng
    value = x.max(axis=2, keepdims=True)
    # The brightness of a colour is its largest channel; hue and saturation stay.
    return np.where(value > 0, x * np.minimum(value + added, 1) / np.maximum(value, 1e-6), added)


def _contrast(x: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    del rng
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * factor + mean


def _pixelate(x: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    del rng
    height, width = x.shape[:2]
    small = cv2.resize(x, (max(int(width * share), 1), max(int(height * share), 1)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _jpeg(x: np.ndarray, rng: np.random.Generator, quality: float) -> np.ndarray:
    del rng
    image = np.rint(255 * x).astype(np.uint8)
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    flag = cv2.IMREAD_GRAYSCALE if x.shape[2] == 1 else cv2.IMREAD_COLOR
    return cv2.imdecode(data, flag).reshape(x.shape)[:, :, ::-1].astype(np.float32) / 255


def _elastic(x: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    height, width = x.shape[:2]
    side = min(height, width)
    moved = []
    for _ in range(2):
        field = cv2.GaussianBlur(rng.uniform(-1, 1, (height, width)).astype(np.float32), (0, 0), 0.06 * side)
        moved.append(field / max(float(np.abs(field).max()), 1e-6) * share * side)
    rows, columns = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
    return cv2.remap(
        x, columns + moved[0], rows + moved[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    ).reshape(x.shape)


# What spoils, and by how much at each severity.
KINDS: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (_defocus_blur, (0.013, 0.018, 0.027, 0.036, 0.045)),
    "motion_blur": (_motion_blur, (0.04, 0.06, 0.08, 0.11, 0.14)),
    "zoom_blur": (_zoom_blur, (1.11, 1.16, 1.21, 1.26, 1.31)),
    "fog": (_fog, (0.5, 0.8, 1.2, 1.7, 2.5)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
    "elastic": (_elastic, (0.010, 0.015, 0.022, 0.030, 0.040)),
}
