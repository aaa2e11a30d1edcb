"""Embeddings of fewer bits: int8 by calibrated scales or one bit a feature, of any prefix, rescored by floats.

A prefix of M features takes M bytes or M / 8; the two savings multiply. What a coarse code misorders, a short list
rescored with the floats of the full dim puts right.
"""

import dataclasses

import numpy as np

from mrl_jax import indexes
from mrl_jax.evals import exact, retrieval
from mrl_jax.evals.gallery import Gallery, check_finite

BITS = (8, 1)
BLOCK_ROWS, QUERY_ROWS = 16384, 64


@dataclasses.dataclass(frozen=True)
class Int8:
    """Codes c (N, M) int8 of unit prefixes z: z is about c scale + offset, feature by feature.

    Attributes:
      scale: (M,) float32.
      offset: (M,) float32.
    """

    scale: np.ndarray
    offset: np.ndarray

    def encode(self, z_NxD: np.ndarray) -> np.ndarray:
        """Codes (N, M) int8 of the unit prefixes of features; values beyond the calibrated range are cut off."""
        unit = indexes.unit(z_NxD, len(self.scale))
        check_finite("features", unit.sum(axis=1))
        return np.clip(np.rint((unit - self.offset) / self.scale), -127, 127).astype(np.int8)

    def decode(self, codes_NxM: np.ndarray) -> np.ndarray:
        """The unit prefixes (N, M) float32 that the codes stand for; off by half a scale at most within the range."""
        return codes_NxM * self.scale + self.offset


def calibrate(sample_NxD: np.ndarray, dim: int, quantile: float = 0.9999) -> Int8:
    """The scales with which 255 codes span the central `quantile` of every feature of a sample's unit prefixes.

    Raises:
      ValueError: for a dim outside 1..D, a quantile outside (0, 1], an empty sample or values not finite.
    """
    if sample_NxD.ndim != 2 or not len(sample_NxD) or not 1 <= dim <= sample_NxD.shape[1]:
        raise ValueError(f"dim={dim} of a sample of shape {sample_NxD.shape}: it must be (N, D) with dim in 1..D")
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile={quantile} must be above 0 and at most 1")
    unit = indexes.unit(sample_NxD, dim)
    check_finite("sample", unit.sum(axis=1))
    low, high = np.quantile(unit, [(1 - quantile) / 2, (1 + quantile) / 2], axis=0)
    scale = np.maximum((high - low) / 254, np.finfo(np.float32).tiny)
    return Int8(scale.astype(np.float32), ((high + low) / 2).astype(np.float32))


def thresholds(sample_NxD: np.ndarray, dim: int) -> np.ndarray:
    """The median (M,) of every feature of a sample's unit prefixes: bits that tell it apart are 1 half of the time.

    Zero tells nothing of features that a ReLU has left positive.

    Raises:
      ValueError: for a dim outside 1..D or values not finite.
    """
    if not 1 <= dim <= sample_NxD.shape[1]:
        raise ValueError(f"dim={dim} is not in 1..{sample_NxD.shape[1]}, the size of the embedding")
    unit = indexes.unit(sample_NxD, dim)
    check_finite("sample", unit.sum(axis=1))
    return np.median(unit, axis=0)


def bits_above(z_NxD: np.ndarray, threshold_M: np.ndarray) -> np.ndarray:
    """Codes (N, ceil(M / 8)) uint8 of unit prefixes: a bit a feature, 1 where it is above its threshold.

    Raises:
      ValueError: for values not finite: NaN is above nothing and would pass for a row of zeros.
    """
    unit = indexes.unit(z_NxD, len(threshold_M))
    check_finite("features", unit.sum(axis=1))
    return np.packbits(unit > threshold_M, axis=1)


class Codes:
    """A gallery held as codes of one prefix; an index for `retrieval.adaptive_search`, which rescores by floats."""

    def __init__(self, gallery: Gallery, dim: int, bits: int, calibration: Int8 | None = None):
        """Encodes the gallery; calibrated on it, unless with 8 bits a calibration is given.

        Raises:
          ValueError: for bits other than 8 or 1, a dim outside 1..D or values not finite.
        """
        if bits not in BITS:
            raise ValueError(f"bits={bits} a feature: give one of {BITS}")
        self.dim, self.bits, self.rows, self.fingerprint = dim, bits, gallery.shape[0], gallery.fingerprint
        at = np.linspace(0, self.rows - 1, min(self.rows, BLOCK_ROWS)).astype(np.int64)
        if bits == 8 and calibration is None:
            calibration = calibrate(gallery.rows[at], dim)
        self.calibration = calibration
        self.thresholds = thresholds(gallery.rows[at], dim) if bits == 1 else None
        self.codes = np.concatenate(
            [self._encode(gallery.rows[first : first + BLOCK_ROWS]) for first in range(0, self.rows, BLOCK_ROWS)]
        )

    @property
    def bytes_per_row(self) -> int:
        """What a row takes."""
        return self.codes.itemsize * self.codes.shape[1]

    def _encode(self, z_NxD):
        return self.calibration.encode(z_NxD) if self.bits == 8 else bits_above(z_NxD, self.thresholds)

    def search(self, unit_QxM: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest codes to each query, ties to the lower row, and their rows (Q, k) int64.

        Distances (Q, k) are squared L2 ones to what int8 codes stand for, scaled to unit norm, or numbers of differing
        bits.

        Raises:
          ValueError: for queries of another dim or not finite, or k outside 1..N.
        """
        if unit_QxM.ndim != 2 or unit_QxM.shape[1] != self.dim:
            raise ValueError(f"queries of shape {unit_QxM.shape} for codes of dim {self.dim}: give (Q, {self.dim})")
        if not 1 <= k <= self.rows:
            raise ValueError(f"k={k} neighbours of a gallery of {self.rows}: at most all of them can be found")
        if self.bits == 8:
            # Blocks are decoded as they are visited; the exact search scales them to unit norm.
            cosines, rows = exact.search(unit_QxM, _Decoded(self), (self.dim,), k)
            return retrieval.squared_distances(cosines[0]), rows[0].astype(np.int64)
        parts = [self._differing(unit_QxM[q : q + QUERY_ROWS], k) for q in range(0, len(unit_QxM), QUERY_ROWS)]
        return tuple(np.concatenate(part) for part in zip(*parts))

    def _differing(self, unit_QxM, k):
        """Hamming distances in blocks, the k smallest kept; one number orders by distance, then by row."""
        bits_QxB, best = self._encode(unit_QxM), np.empty((len(unit_QxM), 0), np.int64)
        for first in range(0, self.rows, BLOCK_ROWS):
            block = self.codes[first : first + BLOCK_ROWS]
            count = np.zeros((len(bits_QxB), len(block)), np.int64)
            for byte in range(block.shape[1]):
                count += np.bitwise_count(bits_QxB[:, byte, None] ^ block[None, :, byte])
            best = np.concatenate([best, count * self.rows + np.arange(first, first + len(block))], axis=1)
            best = np.partition(best, min(k, best.shape[1]) - 1, axis=1)[:, :k]
        best.sort(axis=1)
        return (best // self.rows).astype(np.float32), best % self.rows


class _Decoded:
    """Int8 codes that read as float rows, a block at a time."""

    def __init__(self, codes: Codes):
        self._codes, self.shape, self.ndim = codes, (codes.rows, codes.dim), 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: slice) -> np.ndarray:
        return self._codes.calibration.decode(self._codes.codes[at])
