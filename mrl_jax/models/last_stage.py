"""The activations of a backbone's last stage, and an offset added to them: the gradient by the offset is theirs.

The network itself is left as it is, so that training pays nothing for it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax


class Stage(NamedTuple):
    """What counts as the last stage: what goes into or comes out of a module, by its path within the backbone."""

    path: tuple[str, ...]
    side: str  # "input" or "output"


@contextlib.contextmanager
def tapped(stage: Stage, offset: jax.Array) -> Iterator[list[jax.Array]]:
    """A context in which `offset` is added to the stage's activations; the list it yields then holds the sum."""
    seen: list[jax.Array] = []

    def intercept(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        if context.module.path != ("backbone", *stage.path) or context.method_name != "__call__":
            return call(*args, **kwargs)
        if stage.side == "output":
            seen.append(call(*args, **kwargs) + offset)
            return seen[-1]
        seen.append(args[0] + offset)
        return call(seen[-1], *args[1:], **kwargs)

    with nn.intercept_methods(intercept):
        yield seen
