"""Labels as the source has them made into the numbers of classes."""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from mrl_jax.choices import nearest

MOST = 1 << 24  # classes; more is a number that is no class


class Classes(NamedTuple):
    """The classes of a dataset: their names where they have any, and how many there are."""

    names: tuple[str, ...] | None
    count: int
    by_name: dict[str, int]
    numbers: bool  # whether a label may be a number
    renumbered: bool = False  # whether numbers are names here

    def find(self, label: str | int) -> int | None:
        """The number of a class, or None for an unknown one."""
        if (isinstance(label, str) or self.renumbered) and str(label) in self.by_name:
            return self.by_name[str(label)]
        number = _number(label) if self.numbers or not isinstance(label, str) else None
        return number if number is not None and 0 <= number < self.count else None

    def problem(self, label: str | int) -> str:
        """Why an unknown label is one."""
        near = nearest(label, self.by_name) if isinstance(label, str) else ""
        return f"unknown class {label!r}: not one of the {self.count} classes{near}"


def read_names(path: str) -> tuple[str, ...]:
    """The lines of a file of names, one for each class.

    Raises:
      ValueError: for an empty or repeated line.
    """
    names = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name.strip() or name in seen:
            what = f"repeats {name!r} of line {seen[name]}" if name.strip() else "is empty"
            raise ValueError(f"--labels={path}: line {number} {what}; give one name a line")
        seen[name] = number
    if not names:
        raise ValueError(f"--labels={path} is empty; give one name a line")
    return tuple(names)


def of_names(names: tuple[str, ...], digits_are_numbers: bool) -> Classes:
    """Classes given by a list; a label may be a number too, unless a name looks like one."""
    numbers = digits_are_numbers and not any(name.isdecimal() for name in names)
    return Classes(names, len(names), {name: i for i, name in enumerate(names)}, numbers)


def of_labels(labels: Iterable[str | int], digits_are_numbers: bool) -> Classes:
    """Classes found in the labels: numbers stand for themselves, names are numbered in alphabetical order.

    Raises:
      ValueError: for numbers too large to be classes.
    """
    labels = list(labels)
    numbers = [_number(label) for label in labels if digits_are_numbers or not isinstance(label, str)]
    if labels and len(numbers) == len(labels) and None not in numbers:
        count = max(max(numbers) + 1, 1)
        if count > MOST:
            raise ValueError(f"the largest label is {count - 1}: name the classes by --labels=FILE, one name a line")
        return Classes(None, count, {}, True)
    return of_names(tuple(sorted({str(label) for label in labels})), False)


def of_identities(known: Iterable[str | int], others: Iterable[str | int]) -> Classes:
    """Classes of which training knows some: those first, then the others; each in the order of its labels."""
    known = {str(label): label for label in known}
    others = {str(label): label for label in others if str(label) not in known}
    names = tuple(name for part in (known, others) for name in sorted(part, key=lambda n: _rank(part[n])))
    return Classes(names, len(names), {name: i for i, name in enumerate(names)}, False, True)


def _rank(label: str | int) -> tuple[bool, str | int]:
    return isinstance(label, str), label


def _number(label: str | int) -> int | None:
    if isinstance(label, bool | float):
        return None
    try:
        return int(label)
    except ValueError:
        return None
