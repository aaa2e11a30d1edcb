"""Which record stands at which position of the training stream: a function of the seed and the position alone.

Natural order is one permutation of the records after another. A mixture takes the streams of its parts in turn, each as
often as its weight says. Balanced sampling draws a class first, with replacement.
"""

import bisect
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from mrl_jax.data import labels
from mrl_jax.data.sources import Concatenated, Source

_SHUFFLE_IN_MEMORY = 2**22
_BLOCK = 1024  # positions in which a mixture keeps its weights exactly

Sampler = Callable[[int, int], int]  # (seed, position) -> index of a record; can be pickled


def order(seed: int, position: int, n: int) -> int:
    """The record at a position of the training stream: each epoch of n positions is another permutation of range(n)."""
    epoch, index = divmod(position, n)
    if n <= _SHUFFLE_IN_MEMORY:
        return int(_permutation(seed, epoch, n)[index])
    # Needs no memory, but tens of microseconds where n is small.
    return grain.experimental.index_shuffle(index, max_index=n - 1, seed=_epoch_seed(seed, epoch), rounds=4)


@dataclasses.dataclass(frozen=True)
class Natural:
    """Every record once per epoch: `order`."""

    n: int

    def __call__(self, seed: int, position: int) -> int:
        """The record at a position."""
        return order(seed, position, self.n)


@dataclasses.dataclass(frozen=True)
class Balanced:
    """A class drawn by weights, then one of its records, all alike."""

    by_class: np.ndarray  # indices of the records, those of one class together
    first: np.ndarray  # where in it each class begins, and the end
    cumulative: list[float]  # of the weights

    def __call__(self, seed: int, position: int) -> int:
        """The record at a position."""
        bits = _hash(seed, position)
        share = (bits >> 11) * 2.0**-53 * self.cumulative[-1]
        c = min(bisect.bisect_right(self.cumulative, share), len(self.cumulative) - 1)
        low, high = int(self.first[c]), int(self.first[c + 1])
        return int(self.by_class[low + _hash(bits, position) % (high - low)])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Streams in turn; in every block of positions each has its share, in random order."""

    parts: tuple[Sampler, ...]
    offsets: tuple[int, ...]  # of the records of each part
    counts: tuple[int, ...]  # positions of each part in a block

    def __call__(self, seed: int, position: int) -> int:
        """The record at a position."""
        block, index = divmod(position, sum(self.counts))
        turns = _turns(seed, block, self.counts)
        part = int(turns[index])
        # Positions of this part before this one, in the blocks before and in this one.
        done = block * self.counts[part] + int(np.count_nonzero(turns[:index] == part))
        return self.offsets[part] + self.parts[part](_hash(seed, part), done)


def make(source: Source, *, weights: Sequence[float] = (), balance: float = 0.0) -> Sampler:
    """The sampler of a source.

    Args:
      source: a dataset, or several as `sources.concatenate` joins them.
      weights: of the parts of a mixture, to 1 in 1024; none for a single dataset.
      balance: 0 leaves the classes as frequent as they are, 1 makes them equally frequent, and between the two a
        class of n records has a share proportional to n ** (1 - balance) (0.5: square root). In a mixture, within
        each part. A record of several classes counts as one of the rarest of them. The labels are read once, and
        kept beside the data where it can be written.

    Raises:
      ValueError: for a balance outside 0..1.
    """
    if not 0 <= balance <= 1:
        raise ValueError(f"data.balance={balance} must be in 0..1: 0 for the natural order, 1 for equal classes")
    parts = source.records.parts if isinstance(source.records, Concatenated) else (source,)
    samplers = tuple(_balanced(part, balance) if balance else Natural(len(part.records)) for part in parts)
    if len(parts) == 1:
        return samplers[0]
    share = np.asarray(weights) / np.sum(weights)
    counts = np.maximum(np.floor(share * _BLOCK), 1).astype(int)
    # Largest remainders; a part of a tiny weight has one position in a block.
    for part in np.argsort(counts - share * _BLOCK)[: max(_BLOCK - counts.sum(), 0)]:
        counts[part] += 1
    offsets = np.cumsum([0, *(len(part.records) for part in parts[:-1])]).tolist()
    return Mixture(samplers, tuple(offsets), tuple(counts.tolist()))


def _balanced(source: Source, power: float) -> Balanced:
    label_N = labels.read(source)
    count_C = np.bincount(label_N, minlength=source.num_classes)
    present = count_C > 0
    weight_C = np.where(present, np.power(np.maximum(count_C, 1).astype(float), 1 - power), 0.0)
    by_class = np.argsort(label_N, kind="stable").astype(np.int64)
    first = np.concatenate([[0], np.cumsum(count_C[present])])
    return Balanced(by_class, first, np.cumsum(weight_C[present]).tolist())


@functools.lru_cache(maxsize=4)
def _turns(seed: int, block: int, counts: tuple[int, ...]) -> np.ndarray:
    turns = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng([seed, block, 1]).permutation(turns)


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(np.arange(n, dtype=np.uint32))


@functools.lru_cache(maxsize=16)
def _epoch_seed(seed: int, epoch: int) -> int:
    # Hashed, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _hash(a: Any, b: Any) -> int:
    """64 well-mixed bits of two integers (the finalizer of SplitMix64, twice)."""
    x = a & _MASK
    for word in (b, 0):
        x = (x + 0x9E3779B97F4A7C15 * (word + 1)) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x


_MASK = 2**64 - 1
