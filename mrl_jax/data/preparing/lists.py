"""Lists of paths with their labels: CSV, TSV, JSON lines or Parquet, with one row an image."""

import csv
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow
import pyarrow.parquet

from mrl_jax.choices import nearest
from mrl_jax.data.preparing import numbers
from mrl_jax.data.preparing.items import Item


class List:
    """A list of paths; a label is a name, a number, or several of either."""

    label_names = num_classes = None
    digits_are_numbers = True
    open_set = False

    def __init__(
        self,
        source: str,
        *,
        image_key: str = "path",
        label_key: str = "label",
        split_key: str = "",
        label_separator: str = "",
        root: str = "",
        camera_key: str = "",
    ):
        """Reads nothing yet.

        Args:
          source: the list; its ending tells the format.
          image_key: the column of the paths.
          label_key: the column of the labels.
          split_key: the column of the splits; empty: everything is train.
          label_separator: what stands between several labels in one text; empty: a text is one label.
          root: the folder that relative paths start from; empty: that of the list.
          camera_key: the column of the cameras (or vendors, shops), numbers or names; empty: there are none.
        """
        self._source, self._separator = pathlib.Path(source), label_separator
        self._keys = [image_key, label_key, *([split_key] if split_key else [])]
        self._camera_key, self.field_names = camera_key, ("camera",) if camera_key else ()
        self._cameras: dict[str, int] = {}
        self._root = root or os.path.dirname(source)

    def items(self) -> Iterator[Item]:
        """The rows, in order.

        Raises:
          ValueError: for a column that is not there, or a file that cannot be read.
        """
        count = 0
        for count, row in enumerate(self._rows(), 1):
            yield self._item(count, row)
        if not count:
            raise ValueError(f"{self._source} lists nothing")

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        columns = [*self._keys, *([self._camera_key] if self._camera_key else [])]
        return ROWS[self._source.suffix](self._source, columns)

    def _item(self, number: int, row: Mapping[str, Any]) -> Item:
        missing = sorted({*self._keys, *([self._camera_key] if self._camera_key else [])} - row.keys())
        if missing:
            known = f"{sorted(map(str, row))}{nearest(missing[0], map(str, row))}"
            raise ValueError(f"row {number} of {self._source} has no {missing[0]!r} among {known}; see --image_key")
        path, found, split = (*(row[key] for key in self._keys), "train")[:3]
        where = f"row {number} of {self._source.name}"
        if not path or not isinstance(path, str):
            return Item(str(split), where, (), f"no path: {path!r}")
        key = os.path.normpath(path)
        if not split:
            return Item("train", key, (), f"no split in {where}")
        if isinstance(found, str):
            found = [part.strip() for part in (found.split(self._separator) if self._separator else [found])]
        labels = found if isinstance(found, list) else [found]
        return Item(str(split), key, tuple(label for label in labels if label not in ("", None)))

    def read(self, key: str) -> bytes:
        """The file."""
        with open(os.path.join(self._root, key), "rb") as file:
            return file.read()

    def identity(self, key: str) -> str:
        """The path, its dots resolved."""
        return key

    def fields(self, key: str) -> dict[str, int]:
        """The camera; the list is read again by each process that asks."""
        if not self._cameras:
            rows = [row for row in self._rows() if row[self._keys[0]]]
            found = numbers.of_values(
                [row[self._camera_key] for row in rows], f"column {self._camera_key!r} of {self._source}"
            )
            self._cameras = {os.path.normpath(row[self._keys[0]]): camera for row, camera in zip(rows, found)}
        return {"camera": self._cameras[key]}


def _csv(path: pathlib.Path, keys: list[str]) -> Iterator[Mapping[str, Any]]:
    del keys
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _json_lines(path: pathlib.Path, keys: list[str]) -> Iterator[Mapping[str, Any]]:
    del keys
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} of {path} is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {path} is no object of fields: {line.strip()[:80]}")
            yield row


def _parquet(path: pathlib.Path, keys: list[str]) -> Iterator[Mapping[str, Any]]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not Parquet, or damaged: {error}") from error
    with file:
        known = [key for key in keys if key in file.schema_arrow.names]
        columns = known if known == keys else None  # all of them, to be named in the error
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()


ROWS = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
