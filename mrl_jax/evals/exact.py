"""Exact nearest neighbours on unit-normalised prefixes, all dims in one pass over the gallery, in bounded memory.

Two engines: `jax` splits the gallery's rows over the devices of this host and keeps a running top k on each; `faiss`
runs on the host. L2 distance between unit vectors orders as the cosine does. Dot products of the dims are prefix sums
of those of the blocks between them, so that with `jax` all dims together cost one product at the largest.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mrl_jax import indexes
from mrl_jax.evals.gallery import check_finite, squared_norms

QUERY_TILE, GALLERY_TILE = 1024, 8192  # rows, the latter of each device
HOST_TILE = 65536


def search(
    queries_QxD: np.ndarray, gallery_NxD: np.ndarray, dims: tuple[int, ...], k: int, *, engine: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (G, Q, k) and indices (G, Q, k) of the k gallery rows nearest to each query at each dim, nearest first.

    Of equal cosines the lower index comes first. Host memory holds the arrays given (which may be memory-mapped), the
    devices a tile of each: never all Q x N cosines.

    Args:
      queries_QxD: float queries, of any scale.
      gallery_NxD: the gallery.
      dims: of the prefixes.
      k: neighbours.
      engine: "jax", "faiss", or None: faiss on CPUs where it is installed, jax otherwise.

    Raises:
      ValueError: for sizes that differ, a dim outside 1..D, increasing or not, k outside 1..N or values not finite.
    """
    check(queries_QxD, gallery_NxD, dims, k)
    if engine is None:
        engine = "faiss" if jax.default_backend() == "cpu" and indexes.available() else "jax"
    return {"jax": _on_devices, "faiss": _on_host}[engine](queries_QxD, gallery_NxD, tuple(dims), k)


def check(queries_QxD: np.ndarray, gallery_NxD: np.ndarray, dims: tuple[int, ...], k: int) -> None:
    """Raises ValueError unless these can be searched."""
    if queries_QxD.ndim != 2 or len(gallery_NxD.shape) != 2 or queries_QxD.shape[1] != gallery_NxD.shape[1]:
        raise ValueError(
            f"queries have shape {queries_QxD.shape}, the gallery {gallery_NxD.shape}: both must be (rows, D) with "
            "the same D, features of one model"
        )
    if not 1 <= k <= len(gallery_NxD):
        raise ValueError(f"k={k} neighbours of a gallery of {len(gallery_NxD)}: k must be in 1..{len(gallery_NxD)}")
    full = gallery_NxD.shape[1]
    if not dims or not all(1 <= m <= full for m in dims):
        raise ValueError(f"dims={tuple(dims)}: every dim must be in 1..{full}, the size of the embedding")
    if not np.isfinite(np.einsum("qd,qd->q", queries_QxD, queries_QxD, dtype=np.float64)).all():
        raise ValueError("queries hold values that are not finite: embed them again")


def _read(gallery_NxD, first, count):
    """Rows from `first` as float32, looked through for NaN, and their squared norms."""
    block = np.asarray(gallery_NxD[first : first + count], np.float32)
    squared = squared_norms(block)
    check_finite("gallery", squared, first)
    return block, squared


def _on_host(queries_QxD, gallery_NxD, dims, k):
    kept = min(k + 1, len(gallery_NxD)) if k > 1 else 1  # of the largest alone, faiss keeps the first
    best = [(np.full((len(queries_QxD), 0), -np.inf, np.float32), np.empty((len(queries_QxD), 0), np.int64))] * len(
        dims
    )
    unit_queries = [indexes.unit(queries_QxD, dim) for dim in dims]
    for first in range(0, len(gallery_NxD), HOST_TILE):
        block, squared = _read(gallery_NxD, first, HOST_TILE)
        # Rows that can be taken as they are spare a copy of them all.
        is_unit = block.flags.c_contiguous and bool((np.abs(squared - 1) < 1e-6).all())
        for g, dim in enumerate(dims):
            unit = block if is_unit and dim == block.shape[1] else indexes.unit(block, dim)
            score, at = indexes.largest_products(unit_queries[g], unit, min(kept, len(block)))
            best[g] = _merge([best[g], (score, at + first)], kept)
    score, at = np.stack([b[0] for b in best]), np.stack([b[1] for b in best]).astype(np.int32)
    if kept > k:
        _break_ties(score, at, queries_QxD, gallery_NxD, dims)
    return score[..., :k], at[..., :k]


def _break_ties(score_GxQxK, at_GxQxK, queries_QxD, gallery_NxD, dims):
    """Searches again, in place, where the last two are equal: of as many as are, faiss keeps any."""
    tied_GxQ = score_GxQxK[..., -2] == score_GxQxK[..., -1]
    some, rows = tied_GxQ.any(axis=1).nonzero()[0], tied_GxQ.any(axis=0).nonzero()[0]
    if not len(rows):
        return
    filled = np.resize(rows, 1 << (len(rows) - 1).bit_length())  # few sizes, for each is compiled
    own = tuple(dims[g] for g in some)
    found = _on_devices(queries_QxD[filled], gallery_NxD, own, score_GxQxK.shape[-1])
    for kept, again in zip((score_GxQxK, at_GxQxK), found):
        kept[np.ix_(some, rows)] = again[:, : len(rows)]


def _merge(parts, k):
    """The k best of lists found in different rows; of equal ones the lower index."""
    score, at = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts))
    order = np.lexsort((at, -score), axis=-1)[..., :k]
    return np.take_along_axis(score, order, -1), np.take_along_axis(at, order, -1)


def _on_devices(queries_QxD, gallery_NxD, dims, k):
    own = jax.local_devices()  # every host has all rows and searches them by itself: it cannot read others' devices
    mesh = jax.make_mesh((len(own),), ("gallery",), axis_types=(AxisType.Auto,), devices=own)
    count, tile = mesh.size, min(GALLERY_TILE, -(-len(gallery_NxD) // mesh.size))
    rows, whole = NamedSharding(mesh, P("gallery")), NamedSharding(mesh, P())
    tiles = [
        jax.device_put(np.asarray(queries_QxD[q : q + QUERY_TILE], np.float32), whole) for q in _steps(queries_QxD)
    ]
    kept = min(k, -(-len(gallery_NxD) // (count * tile)) * tile)  # no device sees more rows
    best = [_empty(count, len(dims), len(q), kept, rows) for q in tiles]
    for first in range(0, len(gallery_NxD), count * tile):
        block, _ = _read(gallery_NxD, first, count * tile)
        missing = count * tile - len(block)
        filled = np.pad(block, ((0, missing), (0, 0))) if missing else block
        sent = jax.device_put(filled, rows)
        numbers = np.int32(first), np.int32(len(gallery_NxD))
        with jax.set_mesh(mesh):  # the caller's, that of a training run, is another
            best = [_update(mesh, dims, b, q, sent, *numbers) for b, q in zip(best, tiles)]
    found = [_merge([(score[d], at[d]) for d in range(count)], k) for score, at in jax.device_get(best)]
    return tuple(np.concatenate(part, axis=1) for part in zip(*found))


def _steps(queries_QxD):
    return range(0, len(queries_QxD), QUERY_TILE)


def _empty(count, dims, queries, k, rows):
    shape = (count, dims, queries, k)
    score, at = np.full(shape, -np.inf, np.float32), np.full(shape, np.iinfo(np.int32).max, np.int32)
    return jax.device_put(score, rows), jax.device_put(at, rows)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _update(mesh, dims, best, queries_QxD, gallery_NxD, first, total):
    """Every device compares the queries with its rows of the tile and keeps its own k best."""

    def local(score, at, queries_QxD, gallery_NxD, first, total):
        begin = first + jax.lax.axis_index("gallery") * len(gallery_NxD)
        score, at = _tile((score[0], at[0]), queries_QxD, gallery_NxD, begin, total, dims)
        return score[None], at[None]

    rows = P("gallery")
    specs = {"in_specs": (rows, rows, P(), rows, P(), P()), "out_specs": (rows, rows)}
    return jax.shard_map(local, mesh=mesh, **specs)(*best, queries_QxD, gallery_NxD, first, total)


def _tile(best, queries_QxD, gallery_NxD, begin, total, dims):
    k = best[0].shape[-1]
    scores, indices = [], []
    dots = jnp.zeros((len(queries_QxD), len(gallery_NxD)))
    q_norm, g_norm = jnp.zeros(len(queries_QxD)), jnp.zeros(len(gallery_NxD))
    there = begin + jnp.arange(len(gallery_NxD)) < total
    order = sorted(range(len(dims)), key=dims.__getitem__)
    for start, g in zip((0, *(dims[g] for g in order)), order):
        q, x = queries_QxD[:, start : dims[g]], gallery_NxD[:, start : dims[g]]
        dots += jnp.matmul(q, x.T, precision=jax.lax.Precision.HIGHEST)
        q_norm, g_norm = q_norm + jnp.sum(q * q, axis=1), g_norm + jnp.sum(x * x, axis=1)
        cosine = dots * _inverse_root(q_norm)[:, None] * _inverse_root(g_norm)[None, :]
        top, at = jax.lax.top_k(jnp.where(there[None, :], cosine, -jnp.inf), min(k, len(gallery_NxD)))
        # What was found before stands first, so that of equal cosines the lower index wins.
        top, order_k = jax.lax.top_k(jnp.concatenate([best[0][g], top], axis=1), k)
        all_at = jnp.concatenate([best[1][g], at.astype(jnp.int32) + begin], axis=1)
        scores.append(top)
        indices.append(jnp.take_along_axis(all_at, order_k, axis=1))
    back = [order.index(g) for g in range(len(dims))]
    return jnp.stack([scores[i] for i in back]), jnp.stack([indices[i] for i in back])


def _inverse_root(squared):
    return jax.lax.rsqrt(jnp.where(squared > 0, squared, 1.0))
