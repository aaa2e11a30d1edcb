"""Writes a directory of features block by block, so that a kill at any moment costs at most the block under way.

Files are given their full size at once. A block of rows is written in one piece and synced to disk, and only then
does the journal get its checksum; so a block in the journal is whole, and its place in the file says which rows it is.
On the next start blocks are compared with their checksums, and only those that fail or are missing are asked for.
"""

import json
import os
import pathlib
import queue
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from mrl_jax import features_dir
from mrl_jax.features_dir import FEATURES, JOURNAL, LABELS, MANIFEST
from mrl_jax.writers import read_lines, write_json

_AHEAD = 4  # batches on their way from the devices


class Layout(NamedTuple):
    """The sizes of a directory of features, and what the manifest says of the labels."""

    rows: int
    dim: int
    dtype: str  # float16 or float32
    labels: tuple[int, ...]  # the shape of one row's labels: () or (L,)
    num_classes: int
    label_names: tuple[str, ...] | None
    dims: tuple[int, ...]  # those trained


class FeaturesWriter:
    """A directory of features being written; `missing` says which blocks are still needed.

    Writing happens in a thread of its own, where it also waits for the devices: `put` only queues.
    """

    def __init__(self, directory: os.PathLike | str, identity: Mapping[str, Any], layout: Layout, block_rows: int):
        """Opens or continues `directory`; a directory begun with another `block_rows` keeps its own.

        Raises:
          ValueError: where it holds features of another identity or layout, or other files by these names.
          OSError: where there is no room for it.
        """
        self._directory, self._identity, self._layout = pathlib.Path(directory), dict(identity), layout
        self._blocks, self.block_rows = self._begin(block_rows)
        self.missing = np.array([digest is None for digest in self._blocks])
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._failure: BaseException | None = None
        self._queue: queue.Queue = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._drain, name="features-writer", daemon=True)
        self._thread.start()

    def put(self, first_row: int, z_BxD: Any, labels_B: Any) -> None:
        """Queues the rows from `first_row` on, as device or host arrays; those past the last row are filling.

        Raises:
          ValueError, OSError: if rows queued before could not be written.
        """
        self._raise()
        self._queue.put((first_row, z_BxD, labels_B))

    def close(self) -> None:
        """Waits until all is written; completes the directory if every block is there."""
        self.abandon()
        self._raise()
        if all(self._blocks):
            write_json(self._directory / MANIFEST, {**self._header(), "blocks": self._blocks})
            (self._directory / JOURNAL).unlink(missing_ok=True)

    def abandon(self) -> None:
        """Ends the thread; what is queued is written, what lacks the rest of its block is not."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _header(self) -> dict[str, Any]:
        layout = self._layout._asdict()
        header = {"format": features_dir.FORMAT, "identity": self._identity, **layout, "block_rows": self.block_rows}
        return json.loads(json.dumps(header))  # as it will read back

    def _begin(self, block_rows: int) -> tuple[list[str | None], int]:
        """Checksums of the blocks that are there and whole, and the rows per block."""
        found = self._found()
        if found is None:
            if any((self._directory / name).exists() for name in (FEATURES, LABELS)):
                raise ValueError(
                    f"{self._directory} holds a {FEATURES} or {LABELS} that is not ours: choose another --out"
                )
            self._directory.mkdir(parents=True, exist_ok=True)
            found = {"block_rows": block_rows}
        self.block_rows = found.pop("block_rows")
        known = found.pop("blocks", [None] * -(-self._layout.rows // self.block_rows))
        self._check_same(found)
        self._write_journal(known)
        self._allocate()
        blocks = self._verified(known)
        if blocks != known or any(digest is None for digest in blocks):
            self._write_journal(blocks)
            (self._directory / MANIFEST).unlink(missing_ok=True)
        return blocks, self.block_rows

    def _found(self) -> dict[str, Any] | None:
        """The manifest, or the journal in its form, or None."""
        if (self._directory / MANIFEST).exists():
            return features_dir.read_manifest(self._directory)
        journal = self._directory / JOURNAL
        lines = read_lines(journal) if journal.exists() else []
        if not lines:
            return None
        header, *done = lines
        blocks: list[str | None] = [None] * -(-header["rows"] // header["block_rows"])
        for line in done:
            blocks[line["block"]] = line["sha256"]
        return header | {"blocks": blocks}

    def _check_same(self, found: dict[str, Any]) -> None:
        own = self._header()
        changed = _differences(found, {name: own.get(name) for name in found})
        if changed:
            raise ValueError(f"{self._directory} holds other features ({'; '.join(changed)}): choose another --out")

    def _write_journal(self, blocks: list[str | None]) -> None:
        lines = [self._header(), *({"block": i, "sha256": d} for i, d in enumerate(blocks) if d)]
        unfinished = self._directory / (JOURNAL + ".tmp")
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._directory / JOURNAL)

    def _allocate(self) -> None:
        layout = self._layout
        shapes = {FEATURES: ((layout.rows, layout.dim), layout.dtype), LABELS: ((layout.rows, *layout.labels), "int32")}
        self._offsets = {name: _allocate(self._directory / name, *shape) for name, shape in shapes.items()}

    def _verified(self, blocks: list[str | None]) -> list[str | None]:
        z, labels = (np.load(self._directory / name, mmap_mode="r") for name in (FEATURES, LABELS))
        verified = list(blocks)
        for i in features_dir.damaged_blocks(z, labels, self.block_rows, blocks):
            if blocks[i] is not None:
                first = i * self.block_rows
                logging.warning("%s: rows from %d on are damaged: written again", self._directory, first)
            verified[i] = None
        return verified

    def _drain(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                first_row, z, labels = item
                self._take(first_row, *jax.device_get((z, labels)))
        except BaseException as error:
            self._failure = error
            while self._queue.get() is not None:  # whoever puts must not wait for ever
                pass

    def _take(self, row: int, z: np.ndarray, labels: np.ndarray) -> None:
        z, labels = z[: self._layout.rows - row], labels[: self._layout.rows - row]
        while len(z):
            block, at = divmod(row, self.block_rows)
            stop = min((block + 1) * self.block_rows, self._layout.rows)
            size = min(len(z), stop - row)
            if at == 0:
                self._pending = []
            if self._blocks[block] is None:
                self._pending.append((z[:size], labels[:size]))
                if row + size == stop:
                    self._finish(block)
            row, z, labels = row + size, z[size:], labels[size:]

    def _finish(self, block: int) -> None:
        z, labels = (np.concatenate(rows) for rows in zip(*self._pending))
        z, labels = z.astype(self._layout.dtype, copy=False), labels.astype(np.int32, copy=False)
        first = block * self.block_rows
        if not np.isfinite(z).all():
            row = first + int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
            raise ValueError(
                f"the features of row {row} are not finite as {self._layout.dtype}: the model has diverged, or its "
                "values need --dtype=float32"
            )
        for name, values in ((FEATURES, z), (LABELS, labels)):
            _write_rows(self._directory / name, self._offsets[name], first, values)
        self._blocks[block] = features_dir.block_digest(z, labels)
        with open(self._directory / JOURNAL, "a", encoding="utf-8") as file:
            file.write(json.dumps({"block": block, "sha256": self._blocks[block]}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._pending = []


def _allocate(path: pathlib.Path, shape: tuple[int, ...], dtype: str) -> int:
    """Makes sure that `path` is a .npy file of this shape, with room on the disk; returns where its rows begin."""
    if path.exists():
        try:
            found = np.load(path, mmap_mode="r")
            if (found.shape, found.dtype.name) == (shape, dtype):
                return found.offset
        except (ValueError, EOFError, OSError):
            pass
    with open(path, "wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        offset, size = file.tell(), np.dtype(dtype).itemsize * int(np.prod(shape))
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, offset + size)
            else:
                file.truncate(offset + size)
        except OSError as error:
            raise OSError(
                error.errno, f"{path} needs {size / 2**30:.2f} GiB ({error.strerror}): name another --out"
            ) from error
        os.fsync(file.fileno())
    return offset


def _write_rows(path: pathlib.Path, offset: int, first: int, rows: np.ndarray) -> None:
    with open(path, "r+b") as file:
        file.seek(offset + first * rows[0].nbytes)
        file.write(np.ascontiguousarray(rows).data)
        file.flush()
        os.fsync(file.fileno())


def _differences(found: Mapping[str, Any], own: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for name in sorted({*found, *own}):
        a, b = found.get(name), own.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changed += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            changed.append(f"{prefix}{name}: {str(a)[:80]} there, {str(b)[:80]} here")
    return changed
