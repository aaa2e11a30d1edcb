"""Which ViT of ours has the sizes found in a file."""

import math
import re
from collections.abc import Mapping

import numpy as np

from mrl_jax.models.vit import SIZES


def variant(width: int, depth: int, mlp_dim: int, num_heads: int | None, patch: int) -> str:
    """The variant of these sizes, such as "B/16"; None heads: those of the size that fits otherwise.

    Raises:
      ValueError: if there is none; the message lists those there are.
    """
    for name, size in SIZES.items():
        if size[:3] == (width, depth, mlp_dim) and num_heads in (None, size.num_heads):
            return f"{name}/{patch}"
    raise ValueError(
        f"a ViT of width {width}, depth {depth}, MLP {mlp_dim} and {num_heads or 'unknown'} heads is none of "
        f"{ {name: tuple(size) for name, size in SIZES.items()} }: add its size to SIZES in mrl_jax/models/vit.py"
    )


def grid(patches: int) -> tuple[int, int]:
    """The rows and columns of a square grid of so many patches; ValueError if it is not square."""
    side = math.isqrt(patches)
    if side * side != patches or not side:
        raise ValueError(f"its position embeddings are for {patches} patches, which are no square: none such is read")
    return side, side


def depth(names: Mapping[str, np.ndarray], pattern: str) -> int:
    """One more than the largest number that the group of `pattern` finds at the start of a name; 0 without any."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def need(found: Mapping[str, np.ndarray], axes: Mapping[str, int]) -> None:
    """Raises ValueError unless the tensors that tell a model's size are there, each of so many axes."""
    missing = [name for name in axes if name not in found]
    if missing:
        raise ValueError(f"its size cannot be told; {len(missing)} missing: {', '.join(missing)}")
    for name, count in axes.items():
        if found[name].ndim != count:
            raise ValueError(f"{name} has shape {found[name].shape}: it should have {count} axes")
