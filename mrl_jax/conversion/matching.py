"""The tensors of a file laid beside those that a model needs, every difference named."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

SHOWN = 50


class Slot(NamedTuple):
    """Where a parameter of ours lies in a file: the tensor's name and shape there, and how it becomes ours."""

    name: str
    shape: tuple[int, ...]
    ours: Callable[[np.ndarray], np.ndarray]


def fill(
    slots: Mapping[str, Slot], found: Mapping[str, np.ndarray], ignored: Collection[str], what: str
) -> dict[str, np.ndarray]:
    """The parameters by our names, float32.

    Args:
      slots: by our names.
      found: the file's tensors by its names.
      ignored: names in `found` that are left out knowingly.
      what: the model that `slots` are of, for the message.

    Raises:
      ValueError: listing every tensor that is missing, unknown, of another shape or not of floats.
    """
    wanted = {slot.name: slot.shape for slot in slots.values()}
    both = [name for name in wanted if name in found]
    shapes = [n for n in both if found[n].shape != wanted[n]]
    kinds = [n for n in both if not np.issubdtype(found[n].dtype, np.floating)]
    problems = {
        "missing": sorted(set(wanted) - set(found)),
        "unknown": sorted(set(found) - set(wanted) - set(ignored)),
        "of another shape": [f"{n} is {found[n].shape} instead of {wanted[n]}" for n in shapes],
        "not of floats": [f"{n} is {found[n].dtype}" for n in kinds],
    }
    listed = [f"{len(names)} {problem}: {_list(names)}" for problem, names in problems.items() if names]
    if listed:
        raise ValueError(f"its tensors are not those of {what}; {'; '.join(listed)}")
    return {name: np.ascontiguousarray(s.ours(found[s.name]).astype(np.float32)) for name, s in slots.items()}


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
