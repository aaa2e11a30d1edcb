"""Image transforms on uint8 arrays (H, W, C), chosen by a string such as "decode|random_resized_crop(160)|flip_lr".

Values stay uint8: the model normalises them, on the device. The operations are the functions of `decoding`, `resizing`,
`cropping` and `augment`, with their arguments less the image and the generator. A random crop right after decoding is
drawn first, and then no more of a JPEG file is decoded than it needs.
"""

import ast
import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from mrl_jax.choices import nearest
from mrl_jax.data import augment, corruptions, cropping, decoding, jpeg, resizing


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


FIXED = {"center_crop": cropping.center_crop, "decode": decoding.decode, "resize_small": resizing.resize_small}
RANDOM = {
    "color_jitter": augment.color_jitter,
    "corrupt": corruptions.corrupt,
    "flip_lr": cropping.flip_lr,
    "rand_augment": augment.rand_augment,
    "random_crop": cropping.random_crop,
    "random_erasing": augment.random_erasing,
    "random_resized_crop": cropping.random_resized_crop,
    "random_shift": cropping.random_shift,
}
_STRENGTH = (lambda v: _is_number(v) and v >= 0, "a number, 0 or more")
ARGUMENTS = {
    "brightness": _STRENGTH,
    "channels": (lambda v: v in (1, 3) or v is None, "1 or 3"),
    "contrast": _STRENGTH,
    "hue": (lambda v: _is_number(v) and 0 <= v <= 0.5, "a number in [0, 0.5]"),
    "kind": (lambda v: v in corruptions.KINDS, f"one of {list(corruptions.KINDS)}"),
    "layers": (_is_size, "a positive integer"),
    "magnitude": (lambda v: _is_number(v) and 0 <= v <= 10, "a number in [0, 10]"),
    "padding": (lambda v: v == 0 or _is_size(v), "an integer, 0 or more"),
    "pixels": (_is_size, "a positive integer"),
    "probability": (lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
    "ratio": (_is_range, "a pair of positive numbers, the smaller one first"),
    "saturation": _STRENGTH,
    "scale": (lambda v: _is_range(v) and v[1] <= 1, "a pair of numbers in (0, 1], the smaller one first"),
    "severity": (lambda v: v in corruptions.SEVERITIES, "1 to 5"),
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
    fields = ("image",)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The transformed record; all randomness comes from `rng`.

        Equal to `finish` of `begin`, but for a random crop of a JPEG file far larger than the crop: see
        `decoding.decode_box`.
        """
        image = record["image"]
        found = jpeg.size(image) if self._fuses and isinstance(image, bytes) else None
        if found is None:
            return self.finish(self.begin(record), rng)
        decode, crop = self.leading[0].keywords, dict(self.rest[0][0].keywords)
        target = crop.pop("size")
        image = decoding.decode_box(image, cropping.random_box(*found, rng, **crop), target, **decode)
        return record | {"image": self._apply(image, self.rest[1:], rng)}

    @property
    def _fuses(self) -> bool:
        """Whether a random crop comes right after decoding."""
        return len(self.leading) == 1 and self.rest and self.rest[0][0].func is cropping.random_resized_crop

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """The part whose result may be kept: it is the same at every visit of the record."""
        image = record["image"]
        for operation in self.leading:
            image = operation(image)
        return record | {"image": image}

    def finish(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The part that depends on `rng`, from the first random operation on."""
        return record | {"image": self._apply(record["image"], self.rest, rng)}

    @staticmethod
    def _apply(image: np.ndarray, operations: tuple, rng: np.random.Generator) -> np.ndarray:
        for operation, is_random in operations:
            image = operation(image, rng) if is_random else operation(image)
        return image


def parse(spec: str) -> Transform:
    """The transform that `spec` describes: calls of operations with literal arguments, joined by bars.

    It begins with `decode`. The operations are those of FIXED and RANDOM.

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
    if operations[0][0].func is not decoding.decode:
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
