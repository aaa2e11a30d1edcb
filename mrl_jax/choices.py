"""Options given by name: looked up in a literal dict, refused with the nearest known name."""

import contextlib
import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

# What a value of the same type as a default is: a test of it, and its name.
_TYPES: dict[type, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda v: isinstance(v, bool), "True or False"),
    int: (lambda v: isinstance(v, Integral) and not isinstance(v, bool), "a whole number"),
    float: (lambda v: isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v), "a finite number"),
    str: (lambda v: isinstance(v, str), "a text"),
    tuple: (lambda v: isinstance(v, tuple | list), "a tuple of such entries"),
}


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(str(name), list(names), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def choose(field: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError unless `value` is one of `choices`; the message lists them and names the nearest."""
    if value not in choices:
        raise ValueError(f"{field}={value!r} is not one of {list(choices)}{nearest(value, choices)}")


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Errors that do not know which field they are about begin with it: `what`, then their own words."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what}: {error}") from error


def is_like(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default; any has that of None, and any whole number that of a float. Of tuples
    the entries too, where those of the default are of one type.
    """
    accepts, _ = _TYPES.get(type(default), (lambda v: True, ""))
    if not accepts(value):
        return False
    alike = type(default) is tuple and len({type(entry) for entry in default}) == 1
    return not alike or all(is_like(entry, default[0]) for entry in value)


def check_like(field: str, value: Any, default: Any) -> None:
    """Raises ValueError unless `is_like` holds."""
    if not is_like(value, default):
        raise ValueError(f"{field}={value!r} must be {_TYPES[type(default)][1]}, for example {default!r}")


def pick(field: str, table: Mapping[str, Callable], options: Mapping[str, Any]) -> tuple[Callable, dict[str, Any]]:
    """The function of `table` that options["name"] names, and the keyword arguments among the other options.

    An option of another function of the table is let pass at its default there, so that a config that has it can be
    switched by name alone.

    Raises:
      ValueError: for an unknown name or argument, with the choices and the nearest one; for one that is missing, or of
        another type than its default.
    """
    options = dict(options)
    if "name" not in options:
        raise ValueError(f"{field}.name is missing: set it to one of {list(table)}")
    name = options.pop("name")
    choose(f"{field}.name", name, table)
    known = keywords(table[name])
    for option, value in list(options.items()):
        if option in known:
            check_like(f"{field}.{option}", value, known[option])
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
