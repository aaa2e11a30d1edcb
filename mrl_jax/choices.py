"""Options given by name: looked up in a literal dict, refused with the nearest known name."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(str(name), list(names), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def choose(field: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError unless `value` is one of `choices`; the message lists them and names the nearest."""
    if value not in choices:
        raise ValueError(f"{field}={value!r} is not one of {list(choices)}{nearest(value, choices)}")


def pick(field: str, table: Mapping[str, Callable], options: Mapping[str, Any]) -> tuple[Callable, dict[str, Any]]:
    """The function of `table` that options["name"] names, and the keyword arguments among the other options.

    Raises:
      ValueError: for an unknown name or argument, with the choices and the nearest one.
    """
    options = dict(options)
    name = options.pop("name")
    choose(f"{field}.name", name, table)
    known = [p.name for p in inspect.signature(table[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ValueError(
                f"{field}.{option} is not an option of {name!r}, which has {known}{nearest(option, known)}"
            )
    return table[name], options
