"""Image transforms on uint8 arrays (H, W, C), chosen by a string such as "decode|random_resized_crop(160)|flip_lr".

Values stay uint8: the model normalises them, on the device. Resizing is bilinear, with antialiasing (Pillow).
"""

import ast
import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from mrl_jax.choices import nearest
from mrl_jax.data import pictures


def decode(image: np.ndarray | bytes, channels: int | None = None) -> np.ndarray:
    """An encoded file (JPEG, PNG, ...) as an array; `channels` is 1 (grey) or 3 (RGB).

    None means 3 for encoded files, and as they are for images that come as arrays.
    """
    if isinstance(image, bytes):
        return pictures.read(image, channels)
    if image.ndim == 2:
        image = image[:, :, None]
    if channels in (None, image.shape[2]):
        return image
    return _array(_picture(image).convert("L" if channels == 1 else "RGB"))


def resize_small(image: np.ndarray, size: int) -> np.ndarray:
    """Resized so that the shorter side is `size` pixels, the ratio of the sides kept."""
    height, width = image.shape[:2]
    short = min(height, width)
    return _array(_picture(image).resize((width * size // short, height * size // short), Image.Resampling.BILINEAR))


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
    """A random box resized to size x size (Szegedy et al. 2015, section 6; the defaults of FFCV and torchvision).

    The box has a share of the area uniform in `scale` and a width / height log-uniform in `ratio`; where ten tries give
    none that fits, it is the largest central box of a ratio within `ratio`.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            break
    else:
        w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
        top, left = (height - h) // 2, (width - w) // 2
    box = (left, top, left + w, top + h)
    return _array(_picture(image).resize((size, size), Image.Resampling.BILINEAR, box=box))


def flip_lr(image: np.ndarray, rng: np.random.Generator, probability: float = 0.5) -> np.ndarray:
    """Mirrored left to right with the given probability."""
    return image[:, ::-1] if rng.random() < probability else image


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


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


FIXED = {"center_crop": center_crop, "decode": decode, "resize_small": resize_small}
RANDOM = {
    "flip_lr": flip_lr,
    "random_crop": random_crop,
    "random_resized_crop": random_resized_crop,
    "random_shift": random_shift,
}
ARGUMENTS = {
    "channels": (lambda v: v in (1, 3) or v is None, "1 or 3"),
    "padding": (lambda v: v == 0 or _is_size(v), "an integer, 0 or more"),
    "pixels": (_is_size, "a positive integer"),
    "probability": (lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
    "ratio": (_is_range, "a pair of positive numbers, the smaller one first"),
    "scale": (lambda v: _is_range(v) and v[1] <= 1, "a pair of numbers in (0, 1], the smaller one first"),
    "size": (_is_size, "a positive integer"),
}


@dataclasses.dataclass(frozen=True)
class Transform:
    """The operations of a spec, in two parts: the leading ones that always give the same, and the rest.

    Calling it does both. Fields of the record other than "image" are passed on. Can be pickled.
    """

    spec: str
    leading: tuple[Callable[[Any], np.ndarray], ...]
    rest: tuple[tuple[Callable[..., np.ndarray], bool], ...]  # (operation, does it take a generator)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The transformed record; all randomness comes from `rng`."""
        return self.finish(self.begin(record), rng)

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """The part whose result may be kept: it is the same at every visit of the record."""
        image = record["image"]
        for operation in self.leading:
            image = operation(image)
        return record | {"image": image}

    def finish(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The part that depends on `rng`, from the first random operation on."""
        image = record["image"]
        for operation, is_random in self.rest:
            image = operation(image, rng) if is_random else operation(image)
        return record | {"image": image}


def parse(spec: str) -> Transform:
    """The transform that `spec` describes: calls of operations with literal arguments, joined by bars.

    It begins with `decode`. The operations and their arguments are the functions of this module.

    Raises:
      ValueError: naming the operation or the argument, and the choices.
    """
    try:
        node = ast.parse(spec.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"transform {spec!r} cannot be read ({error.msg}); write it as 'decode|flip_lr'") from error
    calls: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        calls.insert(0, node.right)
        node = node.left
    operations = [_operation(call, spec) for call in [node, *calls]]
    if operations[0][0].func is not decode:
        raise ValueError(
            f"transform {spec!r} must begin with 'decode', which also takes images that are arrays already"
        )
    fixed = next((i for i, (_, is_random) in enumerate(operations) if is_random), len(operations))
    return Transform(spec, tuple(operation for operation, _ in operations[:fixed]), tuple(operations[fixed:]))


def _operation(node: ast.expr, spec: str) -> tuple[functools.partial, bool]:
    """The operation that one call stands for, its arguments bound, and whether it takes a generator."""
    name = node.func if isinstance(node, ast.Call) else node
    if not isinstance(name, ast.Name):
        raise ValueError(
            f"{ast.unparse(node)!r} in transform {spec!r} is no operation; write it as name or name(1, b=2)"
        )
    operations = FIXED | RANDOM
    if name.id not in operations:
        choices = f"{sorted(operations)}{nearest(name.id, operations)}"
        raise ValueError(f"operation {name.id!r} of transform {spec!r} is not one of {choices}")
    function, is_random = operations[name.id], name.id in RANDOM
    # The first parameters are the image and, where there is one, the generator.
    parameters = list(inspect.signature(function).parameters.values())[1 + is_random :]
    signature = inspect.Signature(parameters)
    try:
        args = [ast.literal_eval(arg) for arg in node.args] if isinstance(node, ast.Call) else []
        keywords = {k.arg: ast.literal_eval(k.value) for k in node.keywords} if isinstance(node, ast.Call) else {}
        bound = signature.bind(*args, **keywords).arguments
    except (TypeError, ValueError) as error:
        usage = ", ".join(map(str, (p.replace(annotation=p.empty) for p in parameters)))
        raise ValueError(f"{ast.unparse(node)!r} in transform {spec!r}: {error}; it is {name.id}({usage})") from error
    for argument, value in bound.items():
        accepts, meaning = ARGUMENTS[argument]
        if not accepts(value):
            raise ValueError(f"{argument}={value!r} of {name.id!r} in transform {spec!r} must be {meaning}")
    return functools.partial(function, **bound), is_random


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _array(picture: Image.Image) -> np.ndarray:
    image = np.asarray(picture)
    return image[:, :, None] if image.ndim == 2 else image
