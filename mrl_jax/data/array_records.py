"""A dataset as a directory: ArrayRecord shards of `records`, and a manifest.json that says what must be there.

manifest.json: {"name", "source", "licence", "num_classes", "label_names" (list or null), "splits": {split: [shard]}},
where a shard is {"file", "examples", "bytes", "sha256"}; and, where known, "max_labels" (the most labels of one
example) and "class_counts": {split: [examples of class 0, of class 1, ...]}. Where there are more: "fields", the
integers of every record besides its label; and "split_classes": {split: n}, where every label of a split is below n, as
in a set of identities of which training knows the first n.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import grain
from array_record.python import array_record_module

from mrl_jax.data import records

MANIFEST = "manifest.json"


class Records:
    """Random access to the records of some shards, in their order. Safe to share between threads, and to pickle."""

    def __init__(self, paths: Sequence[pathlib.Path]):
        """Opens the shards, to count their records."""
        self.paths = tuple(map(pathlib.Path, paths))
        self._data = grain.sources.ArrayRecordDataSource([os.fspath(p) for p in paths])

    def __len__(self) -> int:
        """The number of records."""
        return len(self._data)

    def __getitem__(self, index: int) -> records.Record:
        """The record at `index`; see `records.decode`."""
        return records.decode(self._data[index])


def write_shard(path: pathlib.Path, examples: Iterable[records.Record]) -> dict[str, Any]:
    """Writes one shard and returns its entry in the manifest."""
    # One record per chunk: what random access needs.
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1")
    count = 0
    for example in examples:
        writer.write(records.encode(example))
        count += 1
    writer.close()
    return {"file": path.name, "examples": count, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def write_manifest(directory: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, last of all files and in one piece, so that its presence says the dataset is complete."""
    partial = directory / f".{MANIFEST}.{os.getpid()}"
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    partial.replace(directory / MANIFEST)


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
    """The manifest of a directory.

    Raises:
      FileNotFoundError: where the directory holds none.
      ValueError: where the file is no manifest.
    """
    text = (directory / MANIFEST).read_text(encoding="utf-8")
    try:
        manifest = json.loads(text)
        missing = {"name", "num_classes", "label_names", "splits"} - manifest.keys()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{directory / MANIFEST} is not a manifest in JSON; prepare the dataset again") from error
    if missing:
        raise ValueError(f"{directory / MANIFEST} lacks {sorted(missing)}; prepare the dataset again")
    return manifest


def open_split(directory: pathlib.Path, shards: Sequence[dict[str, Any]], checksums: bool = False) -> Records:
    """The records of one split, after comparing sizes and counts (and sums, where asked) with the manifest.

    Raises:
      ValueError: naming the first file that is missing, cut short or changed.
    """
    paths = [directory / shard["file"] for shard in shards]
    for path, shard in zip(paths, shards):
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise ValueError(f"{path} {found}, the manifest says {shard['bytes']} bytes; prepare the dataset again")
        if checksums and _sha256(path) != shard["sha256"]:
            raise ValueError(f"{path} does not have the SHA-256 of the manifest; prepare the dataset again")
    found, expected = Records(paths), sum(shard["examples"] for shard in shards)
    if len(found) != expected:
        raise ValueError(f"{directory} holds {len(found)} records, the manifest says {expected}; prepare it again")
    return found


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
