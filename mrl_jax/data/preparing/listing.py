"""The source listed: every example with its classes, in the splits and in the order in which they will be written."""

import array
import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mrl_jax.choices import nearest
from mrl_jax.data.preparing import classes as class_lists
from mrl_jax.data.preparing.classes import Classes
from mrl_jax.data.preparing.items import SPLIT, Reader
from mrl_jax.data.preparing.ragged import Builder, Ragged
from mrl_jax.data.preparing.spec import Spec

MISLABELLED, DUPLICATE = "mislabelled", "duplicate"


class Dropped(NamedTuple):
    """One example that is left out, and why."""

    split: str
    key: str
    reason: str  # mislabelled, duplicate, undecodable or near
    detail: str


class Rows(NamedTuple):
    """The examples of a split."""

    keys: Ragged  # uint8, UTF-8
    labels: Ragged  # int32; while collecting, numbers of distinct labels

    def take(self, rows: np.ndarray) -> "Rows":
        """Some of them, in another order."""
        return Rows(self.keys.take(rows), self.labels.take(rows))


class Listing(NamedTuple):
    """What the source holds."""

    splits: dict[str, Rows]
    classes: Classes
    dropped: list[Dropped]
    total: int  # examples listed, with those dropped
    fields: tuple[str, ...]  # integers that every example has besides its label
    split_classes: dict[str, int]  # how many classes each split knows, where training does not know all; else empty


def key_of(row: np.ndarray) -> str:
    """The key in a row of `Rows.keys`."""
    return row.tobytes().decode("utf-8", "surrogateescape")


def make(reader: Reader, spec: Spec) -> Listing:
    """Lists a source; equal arguments give an equal listing.

    Raises:
      ValueError: for a duplicate, unless they are to be skipped; for a split that is not there, or stays empty.
    """
    collected = _Collected(reader)
    collected.run()
    for name in collected.rows:
        if not re.fullmatch(SPLIT, name):
            raise ValueError(f"{spec.source} has a split {name!r}: name splits with letters, digits, _ . and - only")
    splits = {name: Rows(keys.build(), labels.build()) for name, (keys, labels) in collected.rows.items()}
    if isinstance(spec.splits, tuple) and spec.splits:
        missing = [name for name in spec.splits if name not in splits]
        if missing:
            raise ValueError(
                f"--splits: {spec.source} has no {missing[0]!r} among {sorted(splits)}{nearest(missing[0], splits)}"
            )
        splits = {name: splits[name] for name in spec.splits}
        collected.dropped = [d for d in collected.dropped if d.split in splits]
    total = sum(len(rows.keys) for rows in splits.values()) + len(collected.dropped)
    if not total:
        raise ValueError(f"{spec.source} holds no example")
    if spec.open_set:
        splits = _held_out(splits, spec)
    classes = _classes(reader, spec, splits, collected.distinct)
    splits, duplicates = _without_duplicates(reader, splits, spec.duplicates)
    splits, unknown = _numbered(splits, collected.distinct, classes)
    splits = _in_order(splits, spec)
    empty = [name for name, rows in splits.items() if not len(rows.keys)]
    if empty and not collected.dropped and not unknown:
        raise ValueError(f"split {empty[0]!r} of {spec.source} holds no example")
    known = _known_classes(splits, classes) if reader.open_set or spec.open_set else {}
    dropped = collected.dropped + duplicates + unknown
    return Listing(splits, classes, dropped, total, tuple(reader.field_names), known)


class _Collected:
    """The items of a reader, compactly."""

    def __init__(self, reader: Reader):
        self._reader = reader
        self.rows: dict[str, tuple[Builder, Builder]] = {}
        self.dropped: list[Dropped] = []
        self._number: dict[tuple[type, str | int], int] = {}

    def run(self) -> None:
        """Reads all items."""
        for split, key, labels, problem in self._reader.items():
            keys, numbers = self.rows.setdefault(split, (Builder("B"), Builder("i")))
            bad = [label for label in labels if not isinstance(label, str | int) or isinstance(label, bool)]
            if problem or bad or not labels:
                detail = problem or (f"label {bad[0]!r} is neither a name nor an integer" if bad else "it has no label")
                self.dropped.append(Dropped(split, key, MISLABELLED, detail))
                continue
            keys.append(key.encode("utf-8", "surrogateescape"))
            numbers.append([self._number.setdefault((type(n), n), len(self._number)) for n in dict.fromkeys(labels)])

    @property
    def distinct(self) -> list[str | int]:
        """The distinct labels, by their numbers."""
        return [label for _, label in self._number]


def _classes(reader: Reader, spec: Spec, splits: Mapping[str, Rows], distinct: list[str | int]) -> Classes:
    if spec.labels:
        return class_lists.of_names(class_lists.read_names(spec.labels), reader.digits_are_numbers)
    if reader.num_classes is not None:
        return Classes(reader.label_names, reader.num_classes, {}, True)
    if reader.open_set or spec.open_set:
        both = [{distinct[i] for name in names for i in splits[name].labels.values} for names in _sides(splits)]
        return class_lists.of_identities(*both)
    known = [splits["train"]] if "train" in splits else list(splits.values())
    found = np.unique(np.concatenate([rows.labels.values for rows in known])) if known else []
    return class_lists.of_labels([distinct[i] for i in found], reader.digits_are_numbers)


def _sides(splits: Mapping[str, Rows]) -> tuple[list[str], list[str]]:
    """The splits that training takes, and the others."""
    return [name for name in splits if name == "train"], [name for name in splits if name != "train"]


def _known_classes(splits: Mapping[str, Rows], classes: Classes) -> dict[str, int]:
    """How many classes, the first ones, each split may show: training only its own."""
    return {
        name: int(rows.labels.values.max(initial=0)) + 1 if name == "train" else classes.count
        for name, rows in splits.items()
    }


def _held_out(splits: Mapping[str, Rows], spec: Spec) -> dict[str, Rows]:
    """Some classes drawn for query and gallery, in turn, and the others for training; labels are distinct numbers."""
    if len(splits) != 1:
        raise ValueError(
            f"--open_set={spec.open_set:g}: {spec.source} has several splits, {sorted(splits)}: choose one by --splits"
        )
    (rows,) = splits.values()
    if int(rows.labels.lengths().max(initial=1)) > 1:
        raise ValueError(f"--open_set={spec.open_set:g}: examples of {spec.source} have several labels; one is needed")
    found, count = np.unique(rows.labels.values, return_counts=True)
    held = round(spec.open_set * len(found))
    if not 0 < held < len(found) or count.max() < 2:
        raise ValueError(
            f"--open_set={spec.open_set:g} leaves {len(found) - held} of {len(found)} classes for training, and {held} "
            f"for query and gallery, the largest of {count.max()} examples: there must be some on both sides"
        )
    chosen = np.random.default_rng([spec.seed or 0, 2]).permutation(found)[:held]
    is_held = np.isin(rows.labels.values, chosen)
    # The first of a class is in the gallery, the second a query, and so on.
    order = np.argsort(rows.labels.values, kind="stable")
    starts = np.repeat(np.cumsum([0, *count[:-1]]), count)
    within = np.empty(len(order), np.int64)
    within[order] = np.arange(len(order)) - starts
    parts = {"train": ~is_held, "query": is_held & (within % 2 == 1), "gallery": is_held & (within % 2 == 0)}
    return {name: rows.take(np.flatnonzero(part)) for name, part in parts.items()}


def _without_duplicates(
    reader: Reader, splits: Mapping[str, Rows], policy: str
) -> tuple[dict[str, Rows], list[Dropped]]:
    sums = array.array("Q")
    for rows in splits.values():
        for i in range(len(rows.keys)):
            identity = reader.identity(key_of(rows.keys.row(i))).encode("utf-8", "surrogateescape")
            sums.append(int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little"))
    hashes = np.array(sums)
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    seen: dict[str, tuple[str, str]] = {}
    dropped, kept, offset = [], {}, 0
    for name, rows in splits.items():
        keep = np.ones(len(rows.keys), bool)
        for i in np.flatnonzero(np.isin(hashes[offset : offset + len(keep)], repeated)):
            key = key_of(rows.keys.row(i))
            identity = reader.identity(key)
            if identity in seen:
                first = seen[identity]
                dropped.append(Dropped(name, key, DUPLICATE, f"the same as {first[1]} of {first[0]}"))
                keep[i] = False
            seen.setdefault(identity, (name, key))
        offset += len(keep)
        kept[name] = rows if keep.all() else rows.take(np.flatnonzero(keep))
    if dropped and policy == "error":
        raise ValueError(
            f"{len(dropped)} examples come more than once, first {dropped[0].key} of {dropped[0].split} "
            f"({dropped[0].detail}): remove them, or keep the first of each by --duplicates=skip"
        )
    return kept, dropped


def _numbered(
    splits: Mapping[str, Rows], distinct: list[str | int], classes: Classes
) -> tuple[dict[str, Rows], list[Dropped]]:
    """Labels made into classes; rows with an unknown one are dropped."""
    found = [classes.find(label) for label in distinct]
    to_class = np.array([-1 if number is None else number for number in found], np.int32)
    dropped, kept = [], {}
    for name, (keys, labels) in splits.items():
        values = to_class[labels.values]
        bad = np.unique(np.searchsorted(labels.ends, np.flatnonzero(values < 0), "right"))
        for i in bad:
            label = next(distinct[n] for n in labels.row(i) if to_class[n] < 0)
            dropped.append(Dropped(name, key_of(keys.row(i)), MISLABELLED, classes.problem(label)))
        rows = Rows(keys, Ragged(values, labels.ends))
        kept[name] = rows.take(np.setdiff1d(np.arange(len(keys)), bad)) if len(bad) else rows
    return kept, dropped


def _in_order(splits: dict[str, Rows], spec: Spec) -> dict[str, Rows]:
    """Divided by the fractions asked for, and shuffled where there is a seed."""
    if isinstance(spec.splits, Mapping):
        if len(splits) != 1:
            raise ValueError(f"--splits={dict(spec.splits)}: {spec.source} has splits already: {sorted(splits)}")
        (rows,) = splits.values()
        order = np.random.default_rng([spec.seed or 0, 0]).permutation(len(rows.keys))
        edges = np.round(np.cumsum([0, *spec.splits.values()]) * len(order)).astype(int)
        splits = {name: rows.take(np.sort(order[low:high])) for name, low, high in zip(spec.splits, edges, edges[1:])}
    if spec.seed is None:
        return splits
    return {
        name: rows.take(np.random.default_rng([spec.seed, 1 + i]).permutation(len(rows.keys)))
        for i, (name, rows) in enumerate(splits.items())
    }
