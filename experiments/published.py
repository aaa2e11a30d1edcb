"""The published numbers: reference/mrl.csv, one row per number, each with the source that it was seen in.

A number that is not there is not known, and its cell stays empty.
"""

import csv
import functools
import pathlib
from typing import NamedTuple

from experiments.entry import Published

PATH = pathlib.Path(__file__).parent / "reference" / "mrl.csv"


class Number(NamedTuple):
    """A published number and where it was seen."""

    value: float
    source: str


@functools.cache
def _lines() -> tuple[dict[str, str], ...]:
    with open(PATH, newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def column(which: Published | None) -> dict[str, Number]:
    """The numbers of a column by row, in the order of the file; none for a column that was not published.

    Raises:
      ValueError: if there are none of that name, or two for one row.
    """
    if which is None:
        return {}
    found: dict[str, Number] = {}
    for line in _lines():
        if (line["table"], line["metric"], line["method"]) != (which.table, which.metric, which.method):
            continue
        if which.setting and line["setting"] != which.setting:
            continue
        if line["row"] in found:
            raise ValueError(f"{PATH} has two numbers of {which} for row {line['row']!r}: give its setting")
        found[line["row"]] = Number(float(line["value"]), line["source"])
    if not found:
        raise ValueError(f"{PATH} has no numbers of {which}")
    return found
