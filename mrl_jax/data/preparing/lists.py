"""Lists: CSV, TSV, JSON lines or Parquet, with one row an example: a path with its labels, a path with its caption, a
text, or two texts that belong together.
"""

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
from mrl_jax.data.preparing.items import Item, NoText, not_utf8, plain


class List:
    """A list of paths; a label is a name, a number, or several of either."""

    label_names = None
    digits_are_numbers = True
    open_set = False

    def __init__(
        self,
        source: str,
        *,
        image_key: str | None = None,
        label_key: str | None = None,
        text_key: str = "",
        score_key: str = "",
        negatives_key: str = "",
        split_key: str = "",
        label_separator: str = "",
        root: str = "",
        camera_key: str = "",
    ):
        """Reads nothing yet.

        Args:
          source: the list; its ending tells the format.
          image_key: the column of the paths; None: "path", or none where texts are read.
          label_key: the column of the labels; None: "label", or none where texts are read.
          text_key: the column of the texts, or two of them with a comma between; empty: texts are not read.
          score_key: the column that says how alike two texts are, a number; empty: none.
          negatives_key: the column, or columns with commas between, of texts that do not belong to the first of two:
            hard negatives, a text or a list of them in each; empty: none.
          split_key: the column of the splits; empty: everything is train.
          label_separator: what stands between several labels in one text; empty: a text is one label.
          root: the folder that relative paths start from; empty: that of the list.
          camera_key: the column of the cameras (or vendors, shops), numbers or names; empty: there are none.
        """
        self._source, self._separator = pathlib.Path(source), label_separator
        default = ("path", "label") if not text_key else ("", "")
        self._image, self._label = (d if k is None else k for k, d in zip((image_key, label_key), default))
        self._texts, self._score, self._split = [k for k in text_key.split(",") if k], score_key, split_key
        if len(self._texts) > 2 or (score_key and len(self._texts) < 2) or (self._image and len(self._texts) > 1):
            raise ValueError(
                f"--text_key={text_key}: give one column, or two of texts that belong together (with --score_key, if "
                "any, and no --image_key)"
            )
        self._negatives, self._negatives_key = [k for k in negatives_key.split(",") if k], negatives_key
        if self._negatives and len(self._texts) != 2:
            raise ValueError(f"--negatives_key={negatives_key} is for pairs of texts: give two columns as --text_key")
        self._count = 0  # of the negatives of the first row that can be read, that all must have
        names = ("image", "label", "text", "score", "negatives", "split", "camera")
        own = ([self._image], [self._label], self._texts, [score_key], self._negatives, [split_key], [camera_key])
        self._keys = {column: f"{name}_key" for name, columns in zip(names, own) for column in columns if column}
        self._camera_key, self.field_names = camera_key, ("camera",) if camera_key else ()
        self._cameras: dict[str, int] = {}
        if camera_key and (self._texts or not self._image):
            raise ValueError(f"--camera_key={camera_key} is for lists of images alone, without --text_key")
        self._root = root or os.path.dirname(source)
        self.num_classes = None if self._label else 1

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
        return ROWS[self._source.suffix](self._source, list(self._keys))

    def _item(self, number: int, row: Mapping[str, Any]) -> Item:
        missing = sorted(self._keys.keys() - row.keys())
        if missing:
            known = f"{sorted(map(str, row))}{nearest(missing[0], map(str, row))}; see --{self._keys[missing[0]]}"
            raise ValueError(f"row {number} of {self._source} has no {missing[0]!r} among {known}")
        split, found = row[self._split] if self._split else "train", row[self._label] if self._label else 0
        where = f"row {number} of {self._source.name}"
        parts = []
        if self._image:
            path = row[self._image]
            if not path or not isinstance(path, str):
                return Item(str(split), where, (), f"no path: {path!r}")
            parts.append(os.path.normpath(path))
        try:
            parts += [plain(row[name]) for name in self._texts]
            negatives = self._negatives_of(number, row) if self._negatives else []
        except NoText as error:
            return Item(str(split), where, (), str(error))
        if self._score:
            try:
                parts.append(str(round(1000 * float(row[self._score]))))
            except (TypeError, ValueError):
                return Item(str(split), where, (), f"no score: {row[self._score]!r}")
        parts += negatives
        key = "\t".join(parts)
        if not split:
            return Item("train", key, (), f"no split in {where}")
        if isinstance(found, str):
            found = [part.strip() for part in (found.split(self._separator) if self._separator else [found])]
        labels = found if isinstance(found, list) else [found]
        return Item(str(split), key, tuple(label for label in labels if label not in ("", None)))

    def _negatives_of(self, number: int, row: Mapping[str, Any]) -> list[str]:
        """Those of a row; blank ones are none. ValueError unless they are as many as those of the rows before it."""
        columns = [row[name] if isinstance(row[name], list) else [row[name]] for name in self._negatives]
        found = [text for column in columns for text in map(plain, column) if text]
        self._count = self._count or len(found)
        if len(found) != self._count or not found:
            others = f"the rows before it {self._count}" if self._count else "every row must have some"
            raise ValueError(
                f"--negatives_key={self._negatives_key}: row {number} of {self._source} has {len(found)} negatives, "
                f"and {others}: give every row equally many"
            )
        return found

    def read(self, key: str) -> bytes | None:
        """The file."""
        if not self._image:
            return None
        with open(os.path.join(self._root, key.split("\t")[0] if self._texts else key), "rb") as file:
            return file.read()

    def texts(self, key: str) -> tuple[str, ...]:
        """The texts of the row, white space made single blanks."""
        return tuple(key.split("\t")[bool(self._image) :][: len(self._texts)])

    def score(self, key: str) -> int | None:
        """How alike the two texts are, in thousandths."""
        return int(key.split("\t")[len(self._texts)]) if self._score else None

    def negatives(self, key: str) -> tuple[str, ...]:
        """The hard negatives of the row."""
        return tuple(key.split("\t")[len(self._texts) + bool(self._score) :]) if self._negatives else ()

    def identity(self, key: str) -> str:
        """The path, its dots resolved, and the texts."""
        return key

    def fields(self, key: str) -> dict[str, int]:
        """The camera; the list is read again by each process that asks."""
        if not self._cameras:
            rows = [row for row in self._rows() if row[self._image]]
            found = numbers.of_values(
                [row[self._camera_key] for row in rows], f"column {self._camera_key!r} of {self._source}"
            )
            self._cameras = {os.path.normpath(row[self._image]): camera for row, camera in zip(rows, found)}
        return {"camera": self._cameras[key]}


def _lines(path: pathlib.Path, encoding: str) -> Iterator[str]:
    """The lines with their ends as they are; ValueError for one that is not UTF-8."""
    count = 0
    try:
        with path.open(newline="", encoding=encoding) as file:
            for line in file:
                yield line
                count += 1
    except UnicodeDecodeError as error:
        # Whole blocks are decoded at once, and the line is further on.
        number = count + 1 + error.object[: error.start].count(b"\n")
        raise ValueError(not_utf8(f"line {number} of {path}", error)) from error


def _csv(path: pathlib.Path, keys: list[str]) -> Iterator[Mapping[str, Any]]:
    del keys
    yield from csv.DictReader(_lines(path, "utf-8-sig"), delimiter="\t" if path.suffix == ".tsv" else ",")


def _json_lines(path: pathlib.Path, keys: list[str]) -> Iterator[Mapping[str, Any]]:
    del keys
    for number, line in enumerate(_lines(path, "utf-8"), 1):
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
