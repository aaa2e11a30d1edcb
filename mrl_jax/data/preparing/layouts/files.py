"""Images that lie as files below a folder: what the readers of several layouts share."""

import csv
import pathlib
from collections.abc import Iterator, Mapping


class Files:
    """A reader whose keys are paths below its folder; open set, its labels names."""

    label_names = num_classes = None
    digits_are_numbers = False
    open_set = True
    field_names: tuple[str, ...] = ()

    def __init__(self, source: str):
        """Nothing is read yet."""
        self._root = pathlib.Path(source)

    def read(self, key: str) -> bytes:
        """The file."""
        return (self._root / key).read_bytes()

    def identity(self, key: str) -> str:
        """The path."""
        return key


def needed(root: pathlib.Path, name: str, layout: str) -> pathlib.Path:
    """A file or folder of a layout.

    Raises:
      FileNotFoundError: where it is not there.
    """
    if not (root / name).exists():
        found = sorted(path.name for path in root.iterdir())[:8]
        raise FileNotFoundError(f"--layout={layout}: there is no {name} in {root}, which holds {found}")
    return root / name


def rows(path: pathlib.Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, str]]:
    """The rows of a CSV file with these columns, in order.

    Raises:
      ValueError: for a column that is not there.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path} has no column {sorted(missing)[0]!r} among {reader.fieldnames}")
        yield from reader
