"""Batches of a source, by grain: the batch of a step is a function of the seed and the step, and of nothing else.

Example j of the global batch at step s has the position p = s x batch_size + j. It is record order(seed, p, n), and its
augmentation draws from a generator made from (seed, p). So neither the number of processes, nor that of workers, nor
where a run was resumed, changes any batch.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from mrl_jax.data.sources import Source

KEEP_BYTES = 256 << 20  # a dataset that is smaller once decoded stays in memory
_SHUFFLE_IN_MEMORY = 2**22
_FOREVER = 2**62


class Transform(Protocol):
    """What `images.parse` returns: a fixed part, which may be kept, and a part with randomness."""

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """The fixed part."""

    def finish(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The part with randomness."""


def train_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end, each epoch in another order; starting at a step equals skipping the steps before it.

    Args:
      source: the dataset.
      transform: what is done to each record.
      batch_size: examples of the global batch; a process gets b = batch_size / process_count of them.
      seed: of order and augmentation, in [0, 2**64).
      start_step: the step of the first batch.
      process_index: this process gets the rows [process_index x b, (process_index + 1) x b) of every global batch.
      process_count: the number of processes that share the batch.
      workers: processes that prepare batches; 0: threads of this process.
      prefetch: batches prepared ahead, each in a thread of its own where workers is 0.

    Returns:
      An iterator over {"image": uint8 (b, H, W, C), "label": int32 (b,)}. Its `close()` ends threads and workers.

    Raises:
      ValueError: for a batch that cannot be shared, an empty source; and, at the batch that holds it, for a record that
        cannot be read or decoded, or a label out of range.
    """
    rows = _rows(source, batch_size, process_index, process_count)
    if not 0 <= seed < 2**64 or start_step < 0:
        raise ValueError(f"seed={seed} must be in [0, 2**64), and start_step={start_step} must not be negative")
    batch = _TrainBatch(_Examples(source, transform, KEEP_BYTES), batch_size, rows, seed)
    return _iterate(batch, start_step, _FOREVER, workers, prefetch)


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    start_batch: int = 0,
    stop_batch: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """One pass over the source in its own order, the last batch filled up; every process yields equally many batches.

    Arguments and errors are those of `train_batches`; the pass may be cut to the batches from `start_batch` to before
    `stop_batch`. A random operation draws the same at every pass.

    Returns:
      An iterator over {"image", "label"} as in training, "mask": bool (b,), False for the rows that fill up (zeros),
      and "index": int64 (b,), the number of the record (-1 where the mask is False). It has a `close()`.
    """
    rows = _rows(source, batch_size, process_index, process_count)
    batch = _EvalBatch(_Examples(source, transform, 0), batch_size, rows)
    end = -(-len(source.records) // batch_size)
    return _iterate(batch, start_batch, end if stop_batch is None else min(stop_batch, end), workers, prefetch)


def order(seed: int, position: int, n: int) -> int:
    """The record at a position of the training stream: each epoch of n positions is another permutation of range(n)."""
    epoch, index = divmod(position, n)
    if n <= _SHUFFLE_IN_MEMORY:
        return int(_permutation(seed, epoch, n)[index])
    # Needs no memory, but tens of microseconds where n is small.
    return grain.experimental.index_shuffle(index, max_index=n - 1, seed=_epoch_seed(seed, epoch), rounds=4)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(np.arange(n, dtype=np.uint32))


@functools.lru_cache(maxsize=4)
def _epoch_seed(seed: int, epoch: int) -> int:
    # Hashed, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _generator(seed: int, position: int) -> np.random.Generator:
    # Philox is counter-based: the streams of two positions are 2**128 draws apart.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, position, 0]))


def _rows(source: Source, batch_size: int, process_index: int, process_count: int) -> range:
    if batch_size <= 0 or process_count <= 0 or batch_size % process_count:
        raise ValueError(f"batch_size={batch_size} must be a positive multiple of process_count={process_count}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} must be in [0, process_count={process_count})")
    if not len(source.records):
        raise ValueError(f"dataset {source.name!r} split {source.split!r} has no records")
    size = batch_size // process_count
    return range(process_index * size, (process_index + 1) * size)


class _Examples:
    """The records of a source after the fixed part of the transform, kept in memory where all of them fit."""

    def __init__(self, source: Source, transform: Transform, keep_bytes: int):
        self.source, self.transform = source, transform
        self._kept: dict[int, dict[str, Any]] = {}
        self.all_kept = keep_bytes > 0 and self._begin(0)["image"].nbytes * len(source.records) <= keep_bytes
        self._room = keep_bytes if self.all_kept else 0

    def get(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """The transformed record."""
        record = self._kept.get(index)
        if record is None:
            record = self._begin(index)
            if record["image"].nbytes <= self._room:
                self._room -= record["image"].nbytes
                self._kept[index] = record
        return self.transform.finish(record, rng)

    def _begin(self, index: int) -> dict[str, Any]:
        source = self.source
        where = f"dataset {source.name!r} split {source.split!r}: record {index}"
        try:
            record = self.transform.begin(source.records[index])
        except Exception as error:  # damage shows as any of a dozen types, by format
            raise ValueError(f"{where} cannot be read: {type(error).__name__}: {error}") from error
        if not 0 <= record["label"] < source.num_classes:
            raise ValueError(f"{where} has the label {record['label']}, not in [0, num_classes={source.num_classes})")
        return record

    def __getstate__(self) -> dict[str, Any]:
        # A worker fills a memory of its own: only what is needed travels.
        return self.__dict__ | {"_kept": {}}


@dataclasses.dataclass(frozen=True)
class _TrainBatch:
    """Step to batch."""

    examples: _Examples
    batch_size: int
    rows: range
    seed: int

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        n = len(self.examples.source.records)
        positions = (step * self.batch_size + row for row in self.rows)
        return _stack([self.examples.get(order(self.seed, p, n), _generator(self.seed, p)) for p in positions])


@dataclasses.dataclass(frozen=True)
class _EvalBatch:
    """Number of the batch to batch."""

    examples: _Examples
    batch_size: int
    rows: range

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        n = len(self.examples.source.records)
        index = np.arange(self.rows.start, self.rows.stop, dtype=np.int64) + number * self.batch_size
        mask = index < n
        # A process may have filling only: it takes the shape of an image from the last record.
        records = [self.examples.get(i, _generator(0, i)) for i in index[mask].tolist() or [n - 1]]
        batch = _stack(records)
        for name, values in batch.items():
            padded = np.zeros((len(index), *values.shape[1:]), values.dtype)
            padded[mask] = values[: mask.sum()]
            batch[name] = padded
        return batch | {"mask": mask, "index": np.where(mask, index, -1)}


def _stack(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    shapes = {record["image"].shape for record in records}
    if len(shapes) > 1:
        few = ", ".join(map(str, itertools.islice(sorted(shapes), 3)))
        raise ValueError(f"images of one batch have the shapes {few}: end the transform with a crop to one size")
    image = np.stack([record["image"] for record in records])
    return {"image": image, "label": np.array([record["label"] for record in records], np.int32)}


def _iterate(batch: Any, start: int, stop: int, workers: int, prefetch: int) -> Iterator[dict[str, np.ndarray]]:
    if workers < 0 or prefetch < 1:
        raise ValueError(f"workers={workers} must not be negative, prefetch={prefetch} must be positive")
    # Decoding lets other threads run, copies from memory do not: there, more threads only get in each other's way.
    threads = 1 if workers or batch.examples.all_kept else prefetch
    buffered = 1 if workers else prefetch
    dataset = grain.MapDataset.range(start, stop).map(batch)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads absl flags when it starts workers, also outside of absl.app
        # Pipes, since /dev/shm of a container is often 64 MB, and its blocks outlive an iterator closed early.
        by_pipe = grain.experimental.DatasetOptions(min_shm_size=_FOREVER)
        dataset = grain.experimental.WithOptionsIterDataset(dataset, by_pipe)
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(workers, per_worker_buffer_size=-(-prefetch // workers))
        )
    return iter(dataset)
