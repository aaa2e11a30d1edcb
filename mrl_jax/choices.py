"""Options given by name: looked up in a literal dict, refused with the nearest known name."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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

    An option of another function of the table is let pass at its default there, so that a config that has it can be
    switched by name alone.

    Raises:
      ValueError: for an unknown name or argument, with the choices and the nearest one; for one that is missing.
    """
    options = dict(options)
    name = options.pop("name")
    choose(f"{field}.name", name, table)
    known = keywords(table[name])
    for option, value in list(options.items()):
        if option in known:
            continue
        others = {other: keywords(fn)[option] for other, fn in table.items() if option in keywords(fn)}
        if value not in others.values():
            switch = f"; it is one of {list(others)}: set it to {next(iter(others.values()))!r}" if others else ""
            raise ValueError(
                f"{field}.{option}={value!r} is not an option of {name!r}, which has {list(known)}"
                f"{switch or nearest(option, known)}"
            )
        del options[option]
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"{field}.{option} is missing, and {field}.name={name!r} needs it: set it")
    return table[name], options


def keywords(fn: Callable) -> dict[str, Any]:
    """The keyword-only parameters with their defaults."""
    return {p.name: p.default for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY}


def whole_numbers(flag: str, words: Sequence[str]) -> tuple[int, ...]:
    """The values of a flag that lists whole numbers. Raises ValueError for a word that is none."""
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"{flag}={','.join(words)}: give whole numbers separated by commas, for example 8,12,16")
    return tuple(int(word) for word in words)
