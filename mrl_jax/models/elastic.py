"""Sub-models of several widths in one network (slimmable networks, Yu et al. 2018).

The sub-model of width w is the narrow network of the same kind, applied to the leading entries of the full network's
variables: a convolution stored as [k, k, C_in, C_out] is used through kernel[:, :, :c_in(w), :c_out(w)]. Nothing is
masked, so that its operations are those of the narrow network, and a stand-alone copy is a slice. What normalises is
private: the statistics of activations depend on the width, so every narrow width keeps a bank of its own, stored beside
that of the full width as `bn1_w0.5/scale` beside `bn1/scale`.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax import trees

EMBEDDINGS = ("equal", "scaled")


def scaled(channels: int, width: float) -> int:
    """The channels of a layer at this width, rounded down (a width of 0.29 of 100 channels is 29, not 28)."""
    return math.floor(channels * width + 1e-6)


def check_width(field: str, width: float) -> None:
    """Raises ValueError unless the width is a number in (0, 1]."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 1:
        raise ValueError(f"{field}={width!r} must be a number above 0, at most 1: a share of the channels")


def check_widths(widths: Sequence[float]) -> None:
    """Raises ValueError unless the widths of one network rise to 1."""
    for width in widths:
        check_width("a width of model.widths", width)
    if widths and (widths[-1] != 1 or any(a >= b for a, b in zip(widths, widths[1:]))):
        raise ValueError(
            f"model.widths={tuple(widths)} must rise and end at 1.0, the full network, for example (0.25, 0.5, 1.0); "
            "for one narrow network alone set model.width"
        )


def whole(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a backbone without those of several widths. ValueError where these ask for anything."""
    plain = {"widths": (), "width": 1.0, "embedding": "equal"}
    asked = {name: options[name] for name, value in plain.items() if name in options and options[name] != value}
    if asked:
        raise ValueError(f"model options {asked}: a tower of a model of pairs has one width only; leave them out")
    return {name: value for name, value in options.items() if name not in plain}


class Private(NamedTuple):
    """Which variables each width has for itself: those whose name the regular expression finds; "" finds none."""

    pattern: str

    def stored(self, name: str, width: float) -> str:
        """Where the full network's variables hold the variable `name` of the network of this width."""
        if width == 1 or not self.pattern or not re.search(self.pattern, name):
            return name
        module, _, leaf = name.rpartition("/")
        return f"{module}{suffix(width)}/{leaf}"


def suffix(width: float) -> str:
    """What the name of a private module ends in at this width."""
    return "" if width == 1 else f"_w{width:g}"


def full_name(name: str) -> str:
    """The name of the full width's parameter that a private one starts as the leading part of; else the name itself."""
    return re.sub(r"_w[\d.e-]+(/[^/]+)$", r"\1", name)


class Shapes:
    """The shapes of the variables of the network of each width, by its own names, for images of any shape."""

    def __init__(self, inits: Mapping[float, Callable], whole: Callable):
        """Takes `init(key, image)` of the network of each width, and of the one whose variables are stored."""
        self._inits, self._whole = inits, whole
        self._of = functools.lru_cache(maxsize=None)(self._trace)

    def of(self, image: Any, width: float | None) -> dict[str, tuple[int, ...]]:
        """Of a width, or of the stored network (None)."""
        return self._of((1, *image.shape[1:]), jnp.dtype(image.dtype).name, width)

    def _trace(self, shape: tuple[int, ...], dtype: str, width: float | None) -> dict[str, tuple[int, ...]]:
        init = self._whole if width is None else self._inits[width]
        found = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))
        return {name: leaf.shape for name, leaf in trees.flatten(found).items()}


def take(
    variables: Mapping[str, Any],
    own: Mapping[str, tuple[int, ...]],
    whole: Mapping[str, tuple[int, ...]],
    stored: Callable[[str], str],
) -> dict[str, Any]:
    """The variables of a narrow network, under its own names, from those of the full one.

    Args:
      variables: of the full network, nested dicts of arrays.
      own: the shapes of the narrow network's, by flat name.
      whole: the shapes of the full network's: an axis of the same size in both is left as it is found.
      stored: from a name of `own` to that in `variables`.
    """
    flat = trees.flatten(variables)
    return trees.unflatten({n: _leading(flat[stored(n)], shape, whole[n]) for n, shape in own.items()})


def _leading(value: Any, own: tuple[int, ...], whole: tuple[int, ...]) -> Any:
    if own == whole or value.shape == own:
        return value
    return value[tuple(slice(n if n < full else None) for n, full in zip(own, whole))]


def add_banks(
    variables: Mapping[str, Any],
    own: Mapping[float, Mapping[str, tuple[int, ...]]],
    private: Private,
) -> dict[str, Any]:
    """The variables with a bank of private ones for every width that lacks it: the leading entries of the full one's.

    Args:
      variables: of the full network, nested dicts of arrays.
      own: by width the shapes of that network's variables, by flat name.
      private: which of them are.
    """
    flat = trees.flatten(variables)
    for width, shapes in own.items():
        for name, shape in shapes.items():
            stored = private.stored(name, width)
            if stored not in flat:
                flat[stored] = flat[name][tuple(slice(n) for n in shape)]
    return trees.unflatten(flat)
