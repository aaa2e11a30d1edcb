"""Near duplicates by perceptual hash: a resized or re-encoded copy differs in a few of 64 bits, others in about 32.

The hash says which of the 64 lowest frequencies are above their median (Zauner 2010, section 3.2.1). Pairs within
distance r are found without comparing all: of r + 1 parts of the hash, one at least is equal in both (Norouzi et al.
2012).
"""

import numpy as np
from PIL import Image

SIDE, LOW = 32, 8
FLAT = 2.0  # grey levels of deviation: below, all signs are noise
FARTHEST = 15
_PAIRS = 1 << 22  # compared at a time


def _cosines() -> np.ndarray:
    """The rows 1..8 of the discrete cosine transform of 32 numbers: without the mean."""
    frequency, place = np.arange(1, LOW + 1)[:, None], np.arange(SIDE)[None, :]
    return np.cos(np.pi / SIDE * (place + 0.5) * frequency)


_COSINES = _cosines()


def perceptual_hash(image: np.ndarray) -> int | None:
    """64 bits of an image (uint8 (H, W, C)), or None where it is flat and has nothing to tell it by."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("L")
    grey = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    if grey.std() < FLAT:
        return None
    coefficients = _COSINES @ grey @ _COSINES.T
    bits = np.packbits(coefficients > np.median(coefficients))
    return int.from_bytes(bits.tobytes(), "big")


class Index:
    """Hashes, to find those near to others."""

    def __init__(self, hashes: np.ndarray, distance: int):
        """Sorts each part of `hashes` (uint64 (M,)); `distance` is the most bits that may differ, at most 15."""
        self._hashes, self._distance = hashes, distance
        edges = np.arange(distance + 2) * 64 // (distance + 1)
        self._parts = [(int(low), int(high - low)) for low, high in zip(edges, edges[1:])]
        self._order = [np.argsort(_part(hashes, part), kind="stable") for part in self._parts]
        self._sorted = [_part(hashes, part)[order] for part, order in zip(self._parts, self._order)]

    def nearest(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For queries uint64 (Q,): the index (Q,) of the nearest hash, -1 where none is near, and the distance (Q,).

        Of equally near ones the first counts.
        """
        # Distance and index in one number, so that the minimum is the nearest and the first.
        best = np.full(len(queries), np.iinfo(np.int64).max)
        for part, order, keys in zip(self._parts, self._order, self._sorted):
            wanted = _part(queries, part)
            left, right = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
            ends = np.cumsum(right - left)
            first = 0
            while first < len(queries):
                done = ends[first - 1] if first else 0
                stop = max(int(np.searchsorted(ends, done + _PAIRS, "right")), first + 1)
                rows = np.repeat(np.arange(first, stop), (right - left)[first:stop])
                starts = np.repeat(left[first:stop] - (ends - (right - left))[first:stop], (right - left)[first:stop])
                found = order[starts + np.arange(done, ends[stop - 1])]
                differing = np.bitwise_count(queries[rows] ^ self._hashes[found]).astype(np.int64)
                near = differing <= self._distance
                np.minimum.at(best, rows[near], (differing[near] << 40) | found[near])
                first = stop
        none = best == np.iinfo(np.int64).max
        return np.where(none, -1, best & ((1 << 40) - 1)), np.where(none, -1, best >> 40)


def _part(hashes: np.ndarray, part: tuple[int, int]) -> np.ndarray:
    low, width = part
    return (hashes >> np.uint64(low)) & np.uint64((1 << width) - 1)
