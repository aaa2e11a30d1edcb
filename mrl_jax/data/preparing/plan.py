"""The plan: which examples each shard holds. It lies in DIR/.prepare/ until the dataset is complete.

.prepare/ holds the listing (SPLIT-keys-*.npy, SPLIT-labels-*.npy), the hashes to keep away from (exclude.npz),
plan.json, written after them, and done/SHARD.json for every shard that is finished.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mrl_jax.data.preparing import ragged, readers
from mrl_jax.data.preparing.excluding import Excluded
from mrl_jax.data.preparing.items import Reader
from mrl_jax.data.preparing.listing import Dropped, Listing, Rows
from mrl_jax.data.preparing.spec import Spec

FOLDER, PLAN = ".prepare", "plan.json"


class Plan(NamedTuple):
    """All that writing a shard needs."""

    directory: pathlib.Path
    facts: Mapping[str, Any]  # plan.json
    rows: dict[str, Rows]
    reader: Reader
    exclude: Excluded | None

    def jobs(self) -> list[tuple[str, int]]:
        """(split, number) of every shard, those of the splits in turn, so that all splits go forward."""
        jobs = [(split, i) for split, count in self.facts["shards"].items() for i in range(count)]
        return sorted(jobs, key=lambda job: job[1])

    def file(self, split: str, index: int) -> str:
        """The name of a shard."""
        return f"{split}-{index:05d}-of-{self.facts['shards'][split]:05d}.array_record"

    def examples(self, split: str, index: int) -> range:
        """The rows of a shard."""
        count, shards = len(self.rows[split].keys), self.facts["shards"][split]
        return range(count * index // shards, count * (index + 1) // shards)

    def done(self, split: str, index: int) -> pathlib.Path:
        """The file that says that a shard is finished."""
        return self.directory / FOLDER / "done" / f"{self.file(split, index)}.json"


def write(directory: pathlib.Path, spec: Spec, kind: str, listing: Listing, exclude: Excluded | None) -> str:
    """Writes the plan of a listing, or finds the one that is there equal; returns its fingerprint.

    Raises:
      ValueError: where the plan of another source is there.
    """
    facts = {
        "identity": spec.identity(),
        "kind": kind,
        "shards": {name: _shards(len(rows.keys), spec.shards) for name, rows in listing.splits.items()},
        "num_classes": listing.classes.count,
        "label_names": listing.classes.names,
        "max_labels": max((int(rows.labels.lengths().max(initial=1)) for rows in listing.splits.values()), default=1),
        "fields": list(listing.fields),
        "split_classes": listing.split_classes,
        "listed": listing.total,
        "dropped": listing.dropped,
    }
    facts["fingerprint"] = _fingerprint(facts, listing.splits)
    folder = directory / FOLDER
    if (folder / PLAN).is_file():
        old = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if old["fingerprint"] != facts["fingerprint"]:
            raise ValueError(
                f"the source has changed since its preparation in {directory} began ({old['listed']} examples then, "
                f"{listing.total} now): delete {folder} to begin anew, or choose another --data_dir"
            )
        return facts["fingerprint"]
    (folder / "done").mkdir(parents=True, exist_ok=True)
    for name, rows in listing.splits.items():
        rows.keys.save(folder / f"{name}-keys")
        rows.labels.save(folder / f"{name}-labels")
    if exclude is not None:
        exclude.save(folder / "exclude.npz")
    replace(folder / PLAN, json.dumps(facts))
    return facts["fingerprint"]


@functools.lru_cache(maxsize=1)
def read(directory: str, fingerprint: str) -> Plan:
    """The plan in a directory; every process opens it once.

    Raises:
      ValueError: where it is not the one of that fingerprint.
    """
    folder = pathlib.Path(directory) / FOLDER
    facts = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    if facts["fingerprint"] != fingerprint:
        raise ValueError(f"{folder} holds another plan than the one being carried out: run the command again")
    rows = {n: Rows(ragged.load(folder / f"{n}-keys"), ragged.load(folder / f"{n}-labels")) for n in facts["shards"]}
    identity = facts["identity"]
    return Plan(
        pathlib.Path(directory),
        facts,
        rows,
        readers.open_reader(facts["kind"], identity["source"], identity["reader"]),
        Excluded.load(folder / "exclude.npz") if identity["exclude_near"] else None,
    )


def dropped(plan: Plan) -> list[Dropped]:
    """What the listing left out."""
    return [Dropped(*row) for row in plan.facts["dropped"]]


def replace(path: pathlib.Path, text: str) -> None:
    """Writes a file in one piece."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _shards(examples: int, wanted: int) -> int:
    # A few thousand examples each, so that little is lost by a kill; of very large sets not too many files.
    wanted = wanted or max(min(-(-examples // 2048), 1024), -(-examples // 65536))
    return max(min(wanted, examples), 1)


def _fingerprint(facts: Mapping[str, Any], splits: Mapping[str, Rows]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for rows in splits.values():
        for part in (*rows.keys, *rows.labels):
            digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()
