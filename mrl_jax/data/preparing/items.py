"""What a reader says of one example before its image is read."""

import reprlib
from typing import Any, NamedTuple, Protocol

import numpy as np

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

SPLIT = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # what the name of a split may be, since it begins the names of files


class NoText(ValueError):
    """What stands in the place of a text is none."""


class Item(NamedTuple):
    """One example of the source.

    Attributes:
      split: the name of its split.
      key: what `Reader.read` finds it by; it stands in the lists of what was dropped.
      labels: its labels as the source has them, names or numbers.
      problem: why it cannot be used, if so.
    """

    split: str
    key: str
    labels: tuple[str | int, ...]
    problem: str = ""


class Reader(Protocol):
    """One kind of source. It can be made again from its name and options in any process.

    Attributes:
      num_classes: how many classes there are, where the source itself says so; its labels are their numbers then.
      label_names: the names of those classes, if any.
      digits_are_numbers: whether a label such as "7" is the number of a class, and not a name.
      open_set: whether other splits than train have classes of their own (identities never seen in training).
      field_names: integers that every record has besides its label, of `records.FIELDS`; `fields` gives them.
    """

    num_classes: int | None
    label_names: tuple[str, ...] | None
    digits_are_numbers: bool
    open_set: bool
    field_names: tuple[str, ...]

    def items(self):
        """Yields an Item for every example, in an order that depends on nothing but the source."""

    def read(self, key: str) -> bytes | np.ndarray | None:
        """The encoded file, or a uint8 array (H, W, C); None in a source of texts alone.

        Raises:
          FileNotFoundError: where it is gone.
        """

    def texts(self, key: str) -> tuple[str, ...]:
        """Its texts, of sources that are read for text: a caption, a text, or two that belong together.

        Raises:
          NoText, KeyError, UnicodeDecodeError, json.JSONDecodeError: where one cannot be read.
        """

    def identity(self, key: str) -> str:
        """What two keys have in common that stand for the same example."""

    def fields(self, key: str) -> dict[str, int]:
        """The value of each of `field_names`; asked for only where there are any."""


def plain(value: Any) -> str:
    """A text with its white space made single blanks; "" for None.

    Raises:
      NoText: for what is no text, or cannot be written as UTF-8.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NoText(f"{reprlib.repr(value)} is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON may escape half of a surrogate pair
        raise NoText(f"{reprlib.repr(value)} is no text ({error.reason})") from error
    return " ".join(value.split())


def not_utf8(place: str, error: UnicodeDecodeError) -> str:
    """The message for a line at `place` that is not UTF-8."""
    byte = f"byte {error.object[error.start]:#04x}: {error.reason}"
    return f"{place} is not UTF-8 ({byte}): convert the file, as by iconv -f LATIN1 -t UTF-8, or repair the line"
