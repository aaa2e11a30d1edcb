"""Which nested head the classifiers of a file are."""

from collections.abc import Sequence
from typing import NamedTuple

from mrl_jax.choices import choose
from mrl_jax.conversion.request import Request
from mrl_jax.nesting import Nesting

REQUESTS = ("", "mrl", "mrl_e", "ff", "none")
SMALLEST = 8


class Classifier(NamedTuple):
    """A head of ours: its kind ("none" for none), nested dims, number of classes, and the notes on how it was told."""

    kind: str
    dims: tuple[int, ...]
    num_classes: int
    notes: tuple[str, ...] = ()


def tell(shapes: Sequence[tuple[int, int]], nested: bool, embed_dim: int, request: Request) -> Classifier:
    """The head that classifiers of these shapes are.

    Args:
      shapes: (classes, features) of each; none, one, or one per nested dim.
      nested: whether the file stores them as those of a nested head.
      embed_dim: features of the embedding.
      request: its head and dims decide where the shapes do not; one tied matrix looks like a plain one.

    Raises:
      ValueError: where the request contradicts the shapes.
    """
    choose("--head", request.head, REQUESTS)
    if request.head == "none" or not shapes:
        if request.head not in ("", "none"):
            raise ValueError(f"--head={request.head}: it holds no classifier; leave --head out")
        return Classifier("none", (), 0, ("the classifier was left out",) if shapes else ("it holds no classifier",))
    classes, found = shapes[0][0], tuple(features for _, features in shapes)
    kind = request.head or ("mrl" if len(shapes) > 1 else "mrl_e" if nested else "ff")
    possible = ("mrl",) if len(shapes) > 1 else ("mrl_e", "mrl") if nested else ("ff", "mrl_e")
    if kind not in possible:
        raise ValueError(
            f"--head={kind}: its classifiers read {found} features, which is a head of {' or '.join(possible)}"
        )
    if kind != "mrl_e":
        if request.dims not in ((), found):
            raise ValueError(f"--dims={request.dims}: its classifiers read {found} features; leave --dims out")
        return Classifier(kind, found, classes)
    dims = request.dims or halving(embed_dim)
    note = () if request.dims else (f"a tied head does not tell its dims: taken to be {dims}; --dims sets others",)
    return Classifier(kind, dims, classes, note)


def halving(full: int) -> tuple[int, ...]:
    """`full` and its halves down to 8, or while they are whole: the dims of the published models."""
    dims = [full]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= SMALLEST:
        dims.append(dims[-1] // 2)
    return Nesting(tuple(reversed(dims))).dims
