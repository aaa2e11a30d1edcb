"""Indexes of unit vectors through faiss, the one door to it: built, searched, saved and opened again.

An index holds the prefixes of one dim of one gallery. What `save` writes carries the gallery's fingerprint, so that no
answer ever comes from an index of other vectors. `pip install 'mrl_jax[retrieval]'` brings faiss.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrl_jax.choices import choose
from mrl_jax.writers import write_json

BLOCK_ROWS = 16384
TRAIN_ROWS = 131_072  # at most
OPQ_ROUNDS = 8  # of rotation and codebooks in turn; the library's 50 take minutes for a fraction of a percent
PER_CENTROID = 39  # rows that faiss wants for each
FORMAT, INDEX, MANIFEST = 1, "index.faiss", "index.json"
# The OpenBLAS that comes with faiss takes processors it does not know for the oldest: five times slower.
_CORES = {"avx512f": "SkylakeX", "avx2": "Haswell"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of index.

    Attributes:
      factory: its description for faiss; {lists} is the number of inverted lists, {half} half the dim.
      effort: the search parameter that trades time for recall, or "".
      efforts: values of it worth trying, in increasing order.
      divides: a number that must divide the dim.
      centroids: how many a codebook has; 39 times as many rows are needed.
    """

    factory: str
    effort: str = ""
    efforts: tuple[int, ...] = (0,)
    divides: int = 1
    centroids: int = 0


_PROBES, _WALKS = (2, 4, 8, 16, 32, 64, 128, 256), (16, 32, 64, 128, 256, 512)
KINDS = {
    "flat": Kind("Flat"),
    "flat_panorama": Kind("FlatL2Panorama8_2048", divides=8),
    "hnsw": Kind("HNSW32,Flat", "efSearch", _WALKS),
    "ivf": Kind("IVF{lists},Flat", "nprobe", _PROBES, centroids=1),
    "ivf_panorama": Kind("IVF{lists},FlatPanorama4", "nprobe", _PROBES, 4, 1),
    "pq": Kind("PQ{half}np", divides=2, centroids=256),
    "opq": Kind("OPQ{half},PQ{half}np", divides=2, centroids=256),
    "pq_fast": Kind("PQ{half}x4fs", divides=2, centroids=16),
    "pq_fast_refine": Kind("PQ{half}x4fs,RFlat", "k_factor_rf", (1, 2, 4, 8), 2, 16),
    "ivf_pq": Kind("IVF{lists},PQ{half}np", "nprobe", _PROBES, 2, 256),
    "ivf_pq_fast": Kind("IVF{lists},PQ{half}x4fs", "nprobe", _PROBES, 2, 16),
    "sq8": Kind("SQ8"),
    "sq_fp16": Kind("SQfp16"),
    "ivf_sq8": Kind("IVF{lists},SQ8", "nprobe", _PROBES, centroids=1),
    "binary": Kind("LSHt"),  # a bit a feature, split at its median
}


class Index:
    """A searchable index of the unit prefixes of one dim; what `build` and `load` return."""

    def __init__(self, index: Any, kind: str, dim: int, fingerprint: str):
        """Wraps a faiss index, at the highest of its kind's efforts."""
        self.faiss, self.kind, self.dim, self.fingerprint = index, kind, dim, fingerprint
        self.set_effort(KINDS[kind].efforts[-1])

    @property
    def rows(self) -> int:
        """How many vectors it holds."""
        return self.faiss.ntotal

    def set_effort(self, effort: int) -> None:
        """Sets nprobe, efSearch or whatever the kind's search parameter is; nothing where it has none."""
        self.effort = effort
        if KINDS[self.kind].effort:
            _faiss().ParameterSpace().set_index_parameter(self.faiss, KINDS[self.kind].effort, effort)

    def search(self, unit_QxM: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k rows nearest to each query: distances (Q, k) float32, ascending, and indices (Q, k) int64.

        Distances are squared L2 distances of what the index stores, or differing bits where that is bits. Where an
        approximate index finds fewer than k, the rest are -1.
        """
        unit_QxM = np.ascontiguousarray(unit_QxM, np.float32)
        if unit_QxM.shape[1] != self.dim:
            raise ValueError(f"queries of dim {unit_QxM.shape[1]} for an index of dim {self.dim}")
        if not 1 <= k <= self.rows:
            raise ValueError(f"k={k} neighbours of a gallery of {self.rows}: at most all of them can be found")
        return self.faiss.search(unit_QxM, k)

    def operations(self, unit_QxM: np.ndarray, k: int) -> float:
        """Vectors compared for one query, on average over these; each costs one operation per dim."""
        faiss, lists = _faiss(), getattr(self.faiss, "nlist", 0)
        if self.kind == "hnsw":
            faiss.cvar.hnsw_stats.reset()
            self.search(unit_QxM, k)
            return faiss.cvar.hnsw_stats.ndis / len(unit_QxM)
        if lists:
            sizes = np.array([self.faiss.get_list_size(i) for i in range(lists)])
            probed = self.faiss.quantizer.search(np.ascontiguousarray(unit_QxM, np.float32), self.effort)[1]
            return lists + float(sizes[probed].sum(axis=1).mean())
        return float(self.rows)


def available() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def _faiss() -> Any:
    if not available():
        raise ImportError("faiss is not installed: pip install 'mrl_jax[retrieval]'")
    if "OPENBLAS_CORETYPE" not in os.environ and os.path.exists("/proc/cpuinfo"):
        found = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
        if core := next((core for flag, core in _CORES.items() if flag in found), None):
            os.environ["OPENBLAS_CORETYPE"] = core
    import faiss

    return faiss


def unit(z_NxD: np.ndarray, dim: int) -> np.ndarray:
    """The first `dim` features as float32, scaled to unit norm, a copy; zero rows stay zero."""
    z = np.asarray(z_NxD[:, :dim], np.float32)
    squared = np.vecdot(z, z)
    return np.multiply(z, (1 / np.sqrt(np.where(squared > 0, squared, 1.0)))[:, None], order="C")


def fingerprint(z_NxD: np.ndarray) -> str:
    """A digest of the shape, the dtype and every row, whatever memory they lie in; blocks are hashed by threads."""
    digest = hashlib.sha256(f"{z_NxD.shape} {z_NxD.dtype.name}".encode())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for block in pool.map(functools.partial(_digest, z_NxD), range(0, len(z_NxD), BLOCK_ROWS)):
            digest.update(block)
    return digest.hexdigest()


def _digest(z_NxD: np.ndarray, first: int) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(z_NxD[first : first + BLOCK_ROWS]).view(np.uint8)).digest()


def refusal(kind: str, rows: int, dim: int) -> str | None:
    """Why this kind of index cannot hold `rows` vectors of `dim` features, or None."""
    needed = PER_CENTROID * KINDS[kind].centroids
    if dim % KINDS[kind].divides:
        return f"index {kind!r} needs a dim that {KINDS[kind].divides} divides, not {dim}"
    if rows < needed:
        return f"index {kind!r} needs {needed} rows to train, not {rows}: use 'flat' or 'hnsw'"
    return None


def build(kind: str, gallery_NxD: np.ndarray, dim: int, *, seed: int = 0) -> Index:
    """An index of the gallery's unit prefixes of `dim` features; the gallery is read in blocks and left as it is.

    Raises:
      ValueError: for an unknown kind, a dim outside 1..D, or one, or too few rows, that the kind cannot hold, or for
        values that are not finite.
    """
    choose("index", kind, KINDS)
    rows, full = gallery_NxD.shape
    if not 1 <= dim <= full:
        raise ValueError(f"index dim={dim} is not in 1..{full}, the size of the embedding")
    if reason := refusal(kind, rows, dim):
        raise ValueError(reason)
    faiss = _faiss()
    lists = 2 ** min(round(np.log2(4 * np.sqrt(rows))), int(np.log2(max(rows / PER_CENTROID, 1))))
    index = faiss.index_factory(dim, KINDS[kind].factory.format(lists=lists, half=dim // 2))
    if kind == "opq":
        faiss.downcast_VectorTransform(index.chain.at(0)).niter = OPQ_ROUNDS
    if not index.is_trained:
        sample = np.sort(np.random.default_rng(seed).choice(rows, min(rows, TRAIN_ROWS), replace=False))
        index.train(_finite(unit(gallery_NxD[sample, :dim], dim), sample))
    for first in range(0, rows, BLOCK_ROWS):
        block = unit(gallery_NxD[first : first + BLOCK_ROWS], dim)
        _finite(block, range(first, rows))
        index.add(block)
    return Index(index, kind, dim, fingerprint(gallery_NxD))


def _finite(unit_NxM: np.ndarray, numbers_N: Sequence[int]) -> np.ndarray:
    """The rows as they are; ValueError where one is not finite, with its number."""
    wrong = np.flatnonzero(~np.isfinite(np.vecdot(unit_NxM, unit_NxM)))
    if len(wrong):
        raise ValueError(f"gallery: row {numbers_N[wrong[0]]} is not finite: an index needs every row; embed it again")
    return unit_NxM


def size(index: Index) -> int:
    """The bytes that it takes in a file; none is written."""
    written = []
    _faiss().write_index(index.faiss, _faiss().PyCallbackIOWriter(lambda block: written.append(len(block))))
    return sum(written)


def save(index: Index, path: pathlib.Path) -> None:
    """Writes the folder of an index: the index in one rename, then what it is of."""
    faiss, unfinished = _faiss(), path / (INDEX + ".tmp")
    path.mkdir(parents=True, exist_ok=True)
    (path / MANIFEST).unlink(missing_ok=True)
    faiss.write_index(index.faiss, str(unfinished))
    size = unfinished.stat().st_size
    unfinished.replace(path / INDEX)
    record = {"format": FORMAT, "kind": index.kind, "dim": index.dim, "rows": index.rows, "bytes": size}
    write_json(path / MANIFEST, record | {"gallery": index.fingerprint})


def load(path: pathlib.Path, gallery: str) -> Index:
    """The index that `save` wrote, for the gallery of this fingerprint.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: where it is damaged, or of another gallery.
    """
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"{path} holds no {MANIFEST}: no finished index is there")
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        kind, dim, size, of = (found[name] for name in ("kind", "dim", "bytes", "gallery"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / MANIFEST} does not describe an index: build it again in another folder") from error
    if of != gallery:
        raise ValueError(
            f"{path} is an index of another gallery (fingerprint {of[:8]}, this one's is {gallery[:8]}): name the "
            "gallery it was built for, or another folder to build one"
        )
    if not (path / INDEX).is_file() or (path / INDEX).stat().st_size != size:
        raise ValueError(f"{path / INDEX} is damaged: it should have {size} bytes; build it again in another folder")
    return Index(_faiss().read_index(str(path / INDEX)), kind, dim, of)


def largest_products(queries_QxD: np.ndarray, gallery_NxD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest inner products (Q, k) of each query, descending, and the rows (Q, k) they are with; exact."""
    faiss = _faiss()
    return faiss.knn(queries_QxD, gallery_NxD, k, metric=faiss.METRIC_INNER_PRODUCT)


def products_of(queries_QxD: np.ndarray, gallery_NxD: np.ndarray, rows_QxK: np.ndarray, dim: int) -> np.ndarray:
    """Inner products (Q, K) over the first `dim` features of each query with its own rows; -inf for row -1.

    Nothing is copied: `dim` divides D, and faiss takes the gallery for one of D / dim times as many rows of `dim`.
    """
    if gallery_NxD.dtype != np.float32 or not gallery_NxD.flags.c_contiguous or gallery_NxD.shape[1] % dim:
        raise ValueError(f"a gallery of {gallery_NxD.dtype}{gallery_NxD.shape} cannot be read in rows of {dim}")
    faiss, step = _faiss(), gallery_NxD.shape[1] // dim
    queries_QxM = np.ascontiguousarray(queries_QxD[:, :dim], np.float32)
    rows_QxK = np.ascontiguousarray(np.where(rows_QxK < 0, -1, rows_QxK * step), np.int64)
    found_QxK = np.empty(rows_QxK.shape, np.float32)
    pointers = [faiss.swig_ptr(array) for array in (found_QxK, queries_QxM, gallery_NxD, rows_QxK)]
    faiss.fvec_inner_products_by_idx(*pointers, dim, *rows_QxK.shape)
    return found_QxK
