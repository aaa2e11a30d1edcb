"""Batches of a source, by grain: the batch of a step is a function of the seed and the step, and of nothing else.

Example j of the global batch at step s has the position p = s x batch_size + j. It is the record that the sampler has
there (see `sampling`), and its augmentation draws from a generator made from (seed, p). So neither the number of
processes, nor that of workers, nor where a run was resumed, changes any batch.
"""

import dataclasses
import pathlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import cv2
import grain
import numpy as np
from absl import flags, logging

from mrl_jax.data import sampling
from mrl_jax.data.sources import Source

KEEP_BYTES = 256 << 20  # a dataset that is smaller once decoded stays in memory
_FOREVER = 2**62
_SHARED, _SHARED_FROM = pathlib.Path("/dev/shm"), 2**16  # smaller arrays go through pipes


class Transform(Protocol):
    """What `images.parse` returns: a fixed part, which may be kept, and a part with randomness; and both at once.

    Attributes:
      fields: the arrays of a transformed record that go into the batch beside its label.
    """

    fields: tuple[str, ...]

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Both parts, the faster way where nothing is kept."""

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """The fixed part."""

    def finish(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The part with randomness."""


def train_batches(
    source: Source,
    transform: Transform | Sequence[tuple[int, Transform]],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    workers: int = 0,
    prefetch: int = 8,
    sampler: sampling.Sampler | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end, each epoch in another order; starting at a step equals skipping the steps before it.

    Args:
      source: the dataset.
      transform: what is done to each record; or several, each with the step that it begins
        at, in order, the first at 0.
      batch_size: examples of the global batch.
      seed: of order and augmentation, in [0, 2**64).
      start_step: the step of the first batch.
      rows: which b rows of every global batch to prepare, as `sharding.rows_of_process` gives them; None: all of them.
      workers: processes that prepare batches; 0: threads of this process.
      prefetch: batches prepared ahead, each in a thread of its own where workers is 0.
      sampler: which record stands where; None for each once per epoch.

    Returns:
      An iterator over {"label": int32 (b,), and the transform's fields, such as "image": uint8 (b, H, W, C)}; where the
      source has up to L > 1 labels an example, "label" is int32 (b, L), filled up with -1. Its `close()` ends threads
      and workers.

    Raises:
      ValueError: for rows that are not of the batch, an empty source; and, at the batch that holds it, for a record
        that cannot be read or decoded, or a label out of range.
    """
    rows = _rows(source, batch_size, rows)
    if not 0 <= seed < 2**64 or start_step < 0:
        raise ValueError(f"seed={seed} must be in [0, 2**64), and start_step={start_step} must not be negative")
    stages = transform if isinstance(transform, Sequence) else [(0, transform)]
    examples = tuple((first, _Examples(source, own, KEEP_BYTES // len(stages))) for first, own in stages)
    sampler = sampler or sampling.Natural(len(source.records))
    batch = _TrainBatch(examples, batch_size, rows, seed, sampler)
    return _iterate(batch, start_step, _FOREVER, workers, prefetch)


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    start_batch: int = 0,
    stop_batch: int | None = None,
    rows: Sequence[int] | None = None,
    workers: int = 0,
    prefetch: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """One pass over the source in its own order, the last batch filled up.

    Arguments and errors are those of `train_batches`; the pass may be cut to the batches from `start_batch` to before
    `stop_batch`. A random operation draws the same at every pass.

    Returns:
      An iterator over the fields as in training, "mask": bool (b,), False for the rows that fill up (zeros),
      and "index": int64 (b,), the number of the record (-1 where the mask is False). It has a `close()`.
    """
    rows = _rows(source, batch_size, rows)
    batch = _EvalBatch(_Examples(source, transform, 0), batch_size, rows)
    end = -(-len(source.records) // batch_size)
    return _iterate(batch, start_batch, end if stop_batch is None else min(stop_batch, end), workers, prefetch)


_of_thread = threading.local()


def _generator(seed: int, position: int) -> np.random.Generator:
    """The generator of a position; each thread has one, which the next call winds to another place."""
    # Philox is counter-based: the streams of two positions are 2**128 draws apart. To make a generator takes eight
    # times as long as to wind one.
    if getattr(_of_thread, "seed", None) != seed:
        _of_thread.seed, _of_thread.bits = seed, np.random.Philox(key=seed)
        _of_thread.state, _of_thread.generator = _of_thread.bits.state, np.random.Generator(_of_thread.bits)
    _of_thread.state["state"]["counter"][:] = (0, 0, position, 0)
    _of_thread.bits.state = _of_thread.state
    return _of_thread.generator


def _rows(source: Source, batch_size: int, rows: Sequence[int] | None) -> np.ndarray:
    if batch_size <= 0:
        raise ValueError(f"batch_size={batch_size} must be positive")
    found = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    if not found.size or found.min() < 0 or found.max() >= batch_size:
        raise ValueError(f"rows={rows} must be some of the rows 0..{batch_size - 1} of a batch")
    if not len(source.records):
        raise ValueError(f"dataset {source.name!r} split {source.split!r} has no records")
    return found


class _Examples:
    """The records of a source after the fixed part of the transform, kept in memory where all of them fit."""

    def __init__(self, source: Source, transform: Transform, keep_bytes: int):
        self.source, self.transform = source, transform
        self._kept: dict[int, dict[str, Any]] = {}
        self.all_kept = keep_bytes > 0 and _size(self._begin(0)) * len(source.records) <= keep_bytes
        self._room = keep_bytes if self.all_kept else 0

    def get(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """The transformed record."""
        if not self.all_kept:
            return self._read(index, lambda record: self.transform(record, rng))
        record = self._kept.get(index)
        if record is None:
            record = self._begin(index)
            if _size(record) <= self._room:
                self._room -= _size(record)
                self._kept[index] = record
        return self.transform.finish(record, rng)

    def _begin(self, index: int) -> dict[str, Any]:
        return self._read(index, self.transform.begin)

    def _read(self, index: int, transform: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        source = self.source
        where = f"dataset {source.name!r} split {source.split!r}: record {index}"
        try:
            record = transform(source.records[index])
        except Exception as error:  # damage shows as any of a dozen types, by format
            raise ValueError(f"{where} cannot be read: {type(error).__name__}: {error}") from error
        return record | {"label": _label(where, record["label"], source.num_classes, source.max_labels)}

    def __getstate__(self) -> dict[str, Any]:
        # A worker fills a memory of its own: only what is needed travels.
        return self.__dict__ | {"_kept": {}}


def _label(where: str, label: Any, num_classes: int, max_labels: int) -> Any:
    """The label as it stands in a batch: a number, or (max_labels,) numbers of which the last may be -1."""
    labels = label if isinstance(label, list) else [label]
    if not 1 <= len(labels) <= max_labels:
        raise ValueError(
            f"{where} has {len(labels)} labels, and its dataset says 1 to {max_labels}; prepare the dataset again"
        )
    if not all(0 <= n < num_classes for n in labels):
        raise ValueError(
            f"{where} has the label {label}, not in [0, num_classes={num_classes}); prepare the dataset again, with "
            "all its classes"
        )
    return labels[0] if max_labels == 1 else labels + [-1] * (max_labels - len(labels))


@dataclasses.dataclass(frozen=True)
class _TrainBatch:
    """Step to batch."""

    stages: tuple[tuple[int, _Examples], ...]
    batch_size: int
    rows: np.ndarray
    seed: int
    sampler: sampling.Sampler

    @property
    def in_memory(self) -> bool:
        return all(examples.all_kept for _, examples in self.stages)

    @property
    def nbytes(self) -> int:
        return max(_nbytes(examples, self.rows) for _, examples in self.stages)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        examples = next(own for first, own in reversed(self.stages) if step >= first)
        positions = (step * self.batch_size + row for row in self.rows.tolist())
        records = (examples.get(self.sampler(self.seed, p), _generator(self.seed, p)) for p in positions)
        return _collect(records, len(self.rows), self.stages[0][1].transform.fields)


@dataclasses.dataclass(frozen=True)
class _EvalBatch:
    """Number of the batch to batch."""

    examples: _Examples
    batch_size: int
    rows: np.ndarray
    in_memory = False

    @property
    def nbytes(self) -> int:
        return _nbytes(self.examples, self.rows)

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        n = len(self.examples.source.records)
        index = self.rows + number * self.batch_size
        mask = index < n
        # A process may have filling only: it takes the shape of an image from the last record.
        records = index[mask].tolist() or [n - 1]
        examples = (self.examples.get(i, _generator(0, i)) for i in records)
        batch = _collect(examples, len(records), self.examples.transform.fields)
        for name, values in batch.items():
            padded = np.zeros((len(index), *values.shape[1:]), values.dtype)
            padded[mask] = values[: mask.sum()]
            batch[name] = padded
        return batch | {"mask": mask, "index": np.where(mask, index, -1)}


def _collect(records: Iterable[dict[str, Any]], count: int, fields: Sequence[str]) -> dict[str, np.ndarray]:
    """The batch of so many records, each copied to its place while it is still in the processor's cache."""
    cv2.setNumThreads(1)  # there are as many batches under way as there are processors
    arrays: dict[str, np.ndarray] = {}
    labels = []
    for row, record in enumerate(records):
        for name in fields:
            value = record[name]
            if name not in arrays:
                arrays[name] = np.empty((count, *value.shape), value.dtype)
            if value.shape != arrays[name].shape[1:]:
                found = ", ".join(map(str, sorted((arrays[name].shape[1:], value.shape))))
                raise ValueError(
                    f"{name}s of one batch have the shapes {found}: end the transform with a crop to one size"
                )
            arrays[name][row] = value
        labels.append(record["label"])
    return arrays | {"label": np.array(labels, np.int32)}


def _size(record: dict[str, Any]) -> int:
    """Bytes of the arrays of a record."""
    return sum(value.nbytes for value in record.values() if isinstance(value, np.ndarray))


def _iterate(batch: Any, start: int, stop: int, workers: int, prefetch: int) -> Iterator[dict[str, np.ndarray]]:
    if workers < 0 or prefetch < 1:
        raise ValueError(f"workers={workers} must not be negative, prefetch={prefetch} must be positive")
    # Decoding lets other threads run, copies from memory do not: there, more threads only get in each other's way.
    threads = 1 if workers or batch.in_memory else prefetch
    buffered = 1 if workers else prefetch
    dataset = grain.MapDataset.range(start, stop).map(batch)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads absl flags when it starts workers, also outside of absl.app
        each = -(-prefetch // workers)
        shared = _SHARED_FROM if _has_room(workers * (each + 2) * batch.nbytes) else _FOREVER
        options = grain.experimental.DatasetOptions(min_shm_size=shared)
        dataset = grain.experimental.WithOptionsIterDataset(dataset, options)
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=each)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_ignore_interrupts)
    return iter(dataset)


def _ignore_interrupts(*_: int) -> None:
    """Ctrl-C reaches every process of the terminal; the one that has the workers ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _has_room(nbytes: int) -> bool:
    """Whether so many bytes of batches can wait in shared memory; pipes carry them else, at several times the cost."""
    free = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else 0
    if free < nbytes:
        logging.warning(
            "%s has %d MB free and the batches under way need %d: they go through pipes, which is slower; give the "
            "container more shared memory, or lower data.workers",
            _SHARED,
            free >> 20,
            nbytes >> 20,
        )
    return free >= nbytes


def _nbytes(examples: _Examples, rows: np.ndarray) -> int:
    return _size(examples.get(0, _generator(0, 0))) * len(rows)
