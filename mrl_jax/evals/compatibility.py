"""Can one model's queries search another's gallery? The matrix of all pairs, and what it says about compatibility.

Row i, column j: queries embedded by model i, gallery by model j (self-test on the diagonal, cross-test off it). Models
are widths of one network, its nested dims, or an old model and its successor.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from mrl_jax.choices import choose
from mrl_jax.evals import rankings
from mrl_jax.evals.exact import check
from mrl_jax.evals.matching import Identities, Matching, impostors, known

TILE = 2**24  # scores of a metric of single queries alive at once
GRID = 2**24  # of cosines: float32 holds every multiple of 1 / GRID in -1..1, and is no finer next to 1


class Names(NamedTuple):
    """Names of the models: of the rows, which embedded the queries, and of the columns, which embedded the gallery."""

    queries: tuple[str, ...]
    galleries: tuple[str, ...]


class Compatibility(NamedTuple):
    """How many ordered pairs of models hold BCT's criterion; the pairs, as (query, gallery) indices.

    Attributes:
      upgraded: pairs (i, j), i the larger, with M(i, j) > M(j, j): new queries find more in the old gallery.
      served: pairs (j, i), i the larger, with M(j, i) > M(j, j): small queries gain from the large model's gallery.
      pairs: how many pairs there are of each kind, m (m - 1) / 2.
    """

    upgraded: tuple[tuple[int, int], ...]
    served: tuple[tuple[int, int], ...]
    pairs: int


def cross_matrix(
    queries: Mapping[str, np.ndarray],
    galleries: Mapping[str, np.ndarray],
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray | None = None,
    gallery_cameras: np.ndarray | None = None,
    metric: str = "map",
    *,
    junk_ids: Sequence[int] = (-1,),
) -> tuple[np.ndarray, Names]:
    """The metric of every model's queries in every model's gallery, by cosine; embeddings are made unit vectors.

    Where two models' embeddings differ in size, both are cut to the smaller one first. Gallery items of a junk id are
    left out, and with cameras those of the query's own identity and camera (the rule of re-identification). Queries
    without a relevant item are left out of all metrics but tpir, for which they are the unknown ones. Cosines equal
    to 2**-24 are ranked by gallery index.

    Args:
      queries: by model name the features (Q, D), rows in one order for all.
      galleries: by model name the features (N, D); the names may differ from those of the queries.
      query_ids: identities (Q,).
      gallery_ids: identities (N,).
      query_cameras: cameras (Q,), or None for no camera rule.
      gallery_cameras: cameras (N,), given with query_cameras.
      metric: "map" (mean of the precision at each hit), "map@k" (over min(k, relevant)), "map_trapezoid" (that of
        Oxford and Paris), "minp", "cmc@k" or "r@k" (any hit in the first k), "tar@x" (pairs accepted at false accept
        rate x), "tpir@x" (queries identified at false positive rate x).
      junk_ids: gallery identities to leave out.

    Returns:
      The matrix (models of queries, models of galleries), float64, and the names of its rows and columns.

    Raises:
      ValueError: for arrays that do not fit together, an unknown metric, where no query has a relevant item, or
        where a rate has nothing to be of.
    """
    query_ids, gallery_ids = np.asarray(query_ids), np.asarray(gallery_ids)
    _check(queries, galleries, query_ids, gallery_ids, query_cameras, gallery_cameras)
    found = Identities(query_ids, gallery_ids, query_cameras, gallery_cameras, np.isin(gallery_ids, list(junk_ids)))
    check_metrics([metric])
    check_rates(found, check_known(found), [metric])
    matrix = [[measure(q, g, found, [metric])[metric] for g in galleries.values()] for q in queries.values()]
    return np.array(matrix), Names(tuple(queries), tuple(galleries))


def measure(
    queries_QxD: np.ndarray, gallery_NxD: np.ndarray, matching: Matching, metrics: Sequence[str], dim: int | None = None
) -> dict[str, float]:
    """The metrics (see `cross_matrix`) of one model's queries in one model's gallery, from one ranking.

    Args:
      queries_QxD: features of the queries.
      gallery_NxD: features of the gallery, of the same or of another size.
      matching: what matches what.
      metrics: by name.
      dim: of the prefixes to compare; None: the smaller of both sizes.

    Raises:
      ValueError: for an unknown metric, or a dim that not both have.
    """
    dim = dim or min(queries_QxD.shape[1], gallery_NxD.shape[1])
    if not 1 <= dim <= min(queries_QxD.shape[1], gallery_NxD.shape[1]):
        raise ValueError(f"dim={dim} of queries of {queries_QxD.shape[1]} and a gallery of {gallery_NxD.shape[1]}")
    parsed = {name: _parse(name) for name in metrics}
    rated = {
        n: rankings.BY_RATE[m.kind](m.rate, matching.shape[0] * matching.shape[1])
        for n, m in parsed.items()
        if m.by_rate
    }
    single: dict[str, list[np.ndarray]] = {name: [] for name in metrics if name not in rated}
    unit_NxD = _unit(gallery_NxD[:, :dim])
    rows = max(TILE // len(unit_NxD), 1)
    for first in range(0, len(queries_QxD), rows):
        at = slice(first, first + rows)
        relevant_BxN, valid_BxN = matching.tile(at)
        scores_BxN = _cosines(_unit(queries_QxD[at, :dim]), unit_NxD)
        for accumulated in rated.values():
            accumulated.add(scores_BxN, relevant_BxN, valid_BxN)
        ranked = rankings.rank(scores_BxN, relevant_BxN, valid_BxN) if single else None
        for name, found in single.items():
            found.append(rankings.PER_QUERY[parsed[name].kind](ranked, parsed[name].k))
    means = {name: float(np.nanmean(np.concatenate(found))) for name, found in single.items()}
    return {name: rated[name].value() if name in rated else means[name] for name in metrics}


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises ValueError for a name that is no metric."""
    for name in metrics:
        _parse(name)


def check_known(matching: Matching) -> np.ndarray:
    """Which queries (Q,) have an item to find; ValueError where none has."""
    known_Q = known(matching, TILE)
    if known_Q.any():
        return known_Q
    none = f"none of {len(known_Q)} queries has a gallery item of its identity"
    ruled = isinstance(matching, Identities) and matching.query_cameras is not None
    if ruled and known(dataclasses.replace(matching, query_cameras=None, gallery_cameras=None), TILE).any():
        raise ValueError(f"{none} by another camera: --camera_rule=off (from Python: no cameras) counts its own too")
    raise ValueError(f"{none}: nothing to find; name the queries and the gallery of one set")


def check_rates(matching: Matching, known_Q: np.ndarray, metrics: Sequence[str]) -> None:
    """Raises ValueError for a metric at a rate among what is not there; `known_Q` is that of `check_known`."""
    for name in metrics:
        kind, problem = _parse(name).kind, ""
        if kind == "tpir" and known_Q.all():
            problem = (
                f"its rate is that of queries with nothing to find, and all {len(known_Q)} have something: leave it "
                "out, or add queries of identities that the gallery lacks"
            )
        elif kind == "tar" and not impostors(matching, TILE):
            problem = (
                "its rate is that of pairs of two identities, and all pairs are of one: leave it out, or add items of "
                "other identities"
            )
        if problem:
            raise ValueError(f"--metrics={','.join(metrics)}: {name} cannot be measured: {problem}")


def compatible_pairs(matrix_mxm: np.ndarray) -> Compatibility:
    """Which pairs of models are compatible (BCT, Shen et al. 2020); models in order of capacity, the smallest first.

    Raises:
      ValueError: unless the matrix is square.
    """
    m = np.asarray(matrix_mxm)
    if m.ndim != 2 or m.shape[0] != m.shape[1]:
        raise ValueError(f"matrix has shape {m.shape}: it must be square, the same models as queries and galleries")
    pairs = [(i, j) for i in range(len(m)) for j in range(i)]
    upgraded = tuple((i, j) for i, j in pairs if m[i, j] > m[j, j])
    return Compatibility(upgraded, tuple((j, i) for i, j in pairs if m[j, i] > m[j, j]), len(pairs))


def update_gain(cross: float, old: float, independent: float) -> float:
    """(cross - old) / (independent - old): the part of a new model's gain that needs no new gallery.

    Args:
      cross: new queries in the old gallery.
      old: the old model's self-test.
      independent: the self-test of a new model trained without regard to the old one.

    Raises:
      ValueError: where the independent model is no better than the old one: there is no gain to speak of.
    """
    if not independent > old:
        raise ValueError(f"independent={independent} is not above old={old}: without a gain there is no part of it")
    return (cross - old) / (independent - old)


class Upgrade(NamedTuple):
    """How good a new model is, how well it fits the old one, and both: each in 0..1."""

    up: float
    comp: float
    both: float


def upgrade_scores(
    new: Sequence[float], cross: Sequence[float], old: Sequence[float], independent: Sequence[float]
) -> Upgrade:
    """AdvBCT's P_up, P_comp and P_1 (Pan et al. 2023) over one or several test sets, as its table has them.

    P_up is the mean of sigmoid((new - independent) / independent), 0.5 where compatibility cost nothing; P_comp that of
    sigmoid((cross - old) / (independent - old)), above 0.5 where new queries beat the old model in its own gallery;
    P_1 is their harmonic mean.

    Args:
      new: the new model's self-test on each set.
      cross: new queries in the old gallery.
      old: the old model's self-test.
      independent: the self-test of a new model trained without regard to the old one.

    Raises:
      ValueError: unless there is one number of each kind per set, and the independent model is above the old one and 0.
    """
    arrays = [np.asarray(x, float) for x in (new, cross, old, independent)]
    if not arrays[0].size or any(x.ndim != 1 or x.shape != arrays[0].shape for x in arrays):
        raise ValueError(f"scores have shapes {[x.shape for x in arrays]}: give one number of each kind per test set")
    new_S, cross_S, old_S, independent_S = arrays
    if not (independent_S > np.maximum(old_S, 0)).all():
        raise ValueError(
            f"independent={independent_S} is not above old={old_S} and 0: without a gain there is no score"
        )
    up = float(scipy.special.expit((new_S - independent_S) / independent_S).mean())
    comp = float(scipy.special.expit((cross_S - old_S) / (independent_S - old_S)).mean())
    return Upgrade(up, comp, 2 * up * comp / (up + comp))


class _Metric(NamedTuple):
    kind: str
    k: int | None = None
    rate: float = 0.0

    @property
    def by_rate(self) -> bool:
        return self.kind in rankings.BY_RATE


def _parse(name: str) -> _Metric:
    kind, _, number = name.partition("@")
    choose("metric", kind, (*rankings.PER_QUERY, *rankings.BY_RATE))
    if kind in rankings.BY_RATE:
        rate = _number(name, number, float)
        if not 0 <= rate <= 1:
            raise ValueError(f"metric={name!r}: the rate must be in 0..1")
        return _Metric(kind, rate=rate)
    k = _number(name, number, int) if number or kind in ("cmc", "r") else None
    if k is not None and (k < 1 or kind in ("map_trapezoid", "minp")):
        raise ValueError(f"metric={name!r}: k must be at least 1, and there is none for map_trapezoid and minp")
    return _Metric(kind, k)


def _number(name, text, kind):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"metric={name!r} needs a number after '@', as in cmc@1, map@100 or tar@1e-3") from None


def _cosines(unit_QxD, unit_NxD):
    """Cosines to multiples of 1 / GRID: equal rows score equal, however summed."""
    return (np.rint(unit_QxD @ unit_NxD.T * GRID) / GRID).astype(np.float32)


def _unit(z_NxD):
    z = np.asarray(z_NxD, np.float64)
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(norms > 0, norms, 1)


def _check(queries, galleries, query_ids, gallery_ids, query_cameras, gallery_cameras) -> None:
    if not queries or not galleries:
        raise ValueError(
            f"{len(queries)} models of queries and {len(galleries)} of galleries: give at least one of each"
        )
    if (query_cameras is None) != (gallery_cameras is None):
        raise ValueError("cameras are given for queries or gallery alone: give both, or neither")
    for kind, tables, ids, cameras in (
        ("queries", queries, query_ids, query_cameras),
        ("gallery", galleries, gallery_ids, gallery_cameras),
    ):
        if ids.ndim != 1 or not len(ids) or (cameras is not None and np.shape(cameras) != ids.shape):
            raise ValueError(f"ids of {kind} have shape {ids.shape}, cameras {np.shape(cameras)}: both must be (rows,)")
        for name, z in tables.items():
            if np.ndim(z) != 2 or len(z) != len(ids):
                raise ValueError(
                    f"{kind} of {name!r} have shape {np.shape(z)} for {len(ids)} ids: they must be (rows, D)"
                )
            check(np.asarray(z), np.asarray(z), (z.shape[1],), 1)
