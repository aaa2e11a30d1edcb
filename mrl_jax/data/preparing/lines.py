"""Plain text, UTF-8, one text a line; empty lines between are nothing."""

import itertools
import pathlib
from collections.abc import Iterator

from mrl_jax.data.preparing.items import Item


class Lines:
    """A .txt file, or a folder of them; files in folders within it belong to splits of those names."""

    label_names, num_classes = None, 1
    digits_are_numbers = True
    open_set, field_names = False, ()

    def __init__(self, source: str):
        """Reads nothing yet."""
        self._source = pathlib.Path(source)

    def items(self) -> Iterator[Item]:
        """The lines of every file, in order; a key is a file, and where in it the line begins and how long it is."""
        for split, path in self._files():
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    if line.strip():
                        yield Item(split, f"{path}:{offset}:{len(line)}", (0,))
                    offset += len(line)

    def _files(self) -> list[tuple[str, pathlib.Path]]:
        if not self._source.is_dir():
            return [("train", self._source)]
        found = [("train", path) for path in sorted(self._source.glob("*.txt"))]
        return found + [(path.parent.name, path) for path in sorted(self._source.glob("*/*.txt"))]

    def read(self, key: str) -> None:
        """There are no images."""

    def texts(self, key: str) -> tuple[str]:
        """The line.

        Raises:
          UnicodeDecodeError: where it is not UTF-8.
        """
        path, offset, size = key.rsplit(":", 2)
        with open(path, "rb") as file:
            file.seek(int(offset))
            return (file.read(int(size)).decode("utf-8").strip(),)

    def place(self, key: str) -> str:
        """The line and the file, for a person."""
        path, offset, _ = key.rsplit(":", 2)
        with open(path, "rb") as file:
            number = 1 + sum(end <= int(offset) for end in itertools.accumulate(map(len, file)))
        return f"line {number} of {path}"

    def identity(self, key: str) -> str:
        """The place: a text may come again."""
        return key
