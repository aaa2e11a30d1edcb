"""Cameras, vendors or shops as a source names them, made into integers."""

from collections.abc import Sequence
from typing import Any


def of_values(values: Sequence[Any], where: str) -> list[int]:
    """Whole numbers as they are; anything else, texts for one, numbered in alphabetical order.

    Raises:
      ValueError: for a value that is missing; `where` begins the message.
    """
    missing = next((i for i, value in enumerate(values) if value is None or value == ""), None)
    if missing is not None:
        raise ValueError(f"{where}: row {missing + 1} has none: every row needs one")
    texts = [str(value).strip() for value in values]
    if all(text.removeprefix("-").isdecimal() for text in texts):
        return [int(text) for text in texts]
    number = {text: i for i, text in enumerate(sorted(set(texts)))}
    return [number[text] for text in texts]
