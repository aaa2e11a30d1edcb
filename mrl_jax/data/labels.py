"""The label of every record of a source, or another field of it, read once and kept beside the data."""

import hashlib
import os
import pathlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import logging

from mrl_jax.data import array_records
from mrl_jax.data.sources import Concatenated, Source

_CHUNK = 1024
_checked: set[pathlib.Path] = set()  # by `_cache`: a run names its splits again for every evaluator


def read(source: Source) -> np.ndarray:
    """The label of each record, int32 (N,); of several labels of a record the one with the fewest records.

    Raises:
      ValueError: for a label that is not in [0, num_classes).
    """
    cache = _cache(source)
    kept = None if cache is None else _kept(cache, len(source.records))
    if kept is not None and (not kept.size or 0 <= kept.min() <= kept.max() < source.num_classes):
        return kept
    labels = _all(source)
    for index, several in enumerate(labels):
        if not all(0 <= label < source.num_classes for label in several):
            raise ValueError(
                f"dataset {source.name!r} split {source.split!r}: record {index} has the label "
                f"{several[0] if len(several) == 1 else several}, not in [0, num_classes={source.num_classes}); "
                "prepare the dataset again, with all its classes"
            )
    label_N = _rarest(labels)
    if cache is not None:
        _keep(cache, label_N)
    return label_N


def check(source: Source) -> None:
    """Raises ValueError for a label that is not in [0, num_classes), in shards whose classes nobody has counted yet.

    `prepare` has; labels of other shards are read once, and kept beside them where they can be.
    """
    for part in source.records.parts if isinstance(source.records, Concatenated) else (source,):
        shards = _cache(part) if part.class_counts is None else None
        if shards is not None and shards not in _checked:
            read(part)
            _checked.add(shards)


def field(source: Source, name: str) -> np.ndarray:
    """The field `name` of each record, int32 (N,), one of `source.fields`."""
    cache = _cache(source, name)
    kept = None if cache is None else _kept(cache, len(source.records))
    if kept is not None:
        return kept
    value_N = np.array([value for (value,) in _all(source, name)], np.int32)
    if cache is not None:
        _keep(cache, value_N)
    return value_N


def _all(source: Source, name: str = "label") -> list[list[int]]:
    def some(first: int) -> list[list[int]]:
        found = (source.records[i][name] for i in range(first, min(first + _CHUNK, len(source.records))))
        return [list(label) if isinstance(label, list | tuple) else [int(label)] for label in found]

    with ThreadPoolExecutor() as pool:
        return [label for part in pool.map(some, range(0, len(source.records), _CHUNK)) for label in part]


def _rarest(labels: list[list[int]]) -> np.ndarray:
    count = Counter(label for several in labels for label in several)
    return np.array([min(several, key=lambda c: (count[c], c)) for several in labels], np.int32)


def _cache(source: Source, name: str = "label") -> pathlib.Path | None:
    """Where the labels of shards are kept; the name holds what they were read from."""
    if not isinstance(source.records, array_records.Records):
        return None
    paths = source.records.paths
    text = "".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns};" for path in paths)
    return paths[0].parent / f".{name}s-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"


def _kept(path: pathlib.Path, count: int) -> np.ndarray | None:
    try:
        label_N = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or damaged: read again
        return None
    return label_N if label_N.shape == (count,) and label_N.dtype == np.int32 else None


def _keep(path: pathlib.Path, label_N: np.ndarray) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.save(file, label_N)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        logging.info("The labels are not kept in %s (%s): they will be read again by the next run", path, error)
