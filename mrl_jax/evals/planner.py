"""The planner: which index, shortlist and re-ranking answer within a target, from measured cost and recall.

In stages, so that a gallery of gigabytes is affordable: the exact answer of a sample of queries; every index built
once, and asked once per effort for its longest shortlist, from which the quality of all shorter ones and of all funnels
follows (`settings.answer`); their time predicted from the measured time of shortlists and of re-ranking a row; at last
the few most promising ones run whole, several times, in turns.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from mrl_jax import indexes
from mrl_jax.choices import choose
from mrl_jax.evals import exact, retrieval, settings
from mrl_jax.evals.gallery import Gallery
from mrl_jax.evals.settings import Setting

TARGETS = ("recall", "latency", "mflops", "map_loss")
DEFAULT_KINDS = ("flat", "ivf", "hnsw", "ivf_pq_fast")
FINALISTS, SLACK = (6, 12), 1.6  # at least, where there are as many, and at most
ROUNDS, SECONDS = (3, 31), 12  # turns of the finalists: at least, at most, and how long they may take in between
SATURATED = 5e-4  # of recall that the next effort must add


@dataclasses.dataclass(frozen=True)
class Target:
    """What is asked for: recall of the full-dim answer's top k at least, mean precision lost at most (in points), or
    ms or MFLOPs a query at most.
    """

    name: str
    value: float


@dataclasses.dataclass
class Point:
    """A setting and what it is worth; `ms` a query is predicted until it is measured."""

    setting: Setting
    quality: float
    error: float  # standard error of the quality
    ms: float
    mflops: float
    measured: bool = False


@dataclasses.dataclass
class Plan:
    """The chosen point, its index (None: exact), every index and point tried, the time of exact search at full dim."""

    chosen: Point
    index: indexes.Index | None
    built: dict[tuple[str, int], indexes.Index]
    points: list[Point]
    exact_ms: float
    k: int
    batch: int
    target: Target

    def search(self, queries_QxD: np.ndarray, gallery: Gallery, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Answers queries, as `retrieval.adaptive_search`."""
        return run(self.chosen.setting, self.index, queries_QxD, gallery, k or self.k)


def parse_target(text: str) -> Target:
    """`recall=0.99`, `latency=0.5`, `mflops=20` or `map_loss=0.1`.

    Raises:
      ValueError: for another name, or a value out of range.
    """
    name, _, value = text.partition("=")
    choose("target", name, TARGETS)
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not 0 < number < (float("inf") if name != "recall" else 1.0000001):
        raise ValueError(f"target={text!r}: {name} must be a positive number{', at most 1' * (name == 'recall')}")
    return Target(name, number)


def run(
    setting: Setting, index: indexes.Index | None, queries_QxD: np.ndarray, gallery: Gallery, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Answers queries by a setting."""
    if index is not None and index.effort != setting.effort:
        index.set_effort(setting.effort)
    return retrieval.adaptive_search(queries_QxD, gallery, setting.dim, setting.rerank, index=index, k=k)


def plan(
    queries_SxD: np.ndarray,
    gallery: Gallery,
    target: Target,
    *,
    dims: Sequence[int],
    kinds: Sequence[str] = DEFAULT_KINDS,
    k: int = 10,
    batch: int = 0,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Chooses a setting for the target: of those that meet a quality the fastest, of those within a budget the best.

    Args:
      queries_SxD: a sample of queries; a few hundred tell recall to about a percent.
      gallery: what is searched.
      target: see `Target`. A quality counts as met where it is so by one standard error of the sample.
      dims: D_s to try.
      kinds: of index to try (`indexes.KINDS`); a kind that cannot hold a prefix is left out.
      k: rows wanted.
      batch: how many queries come at once; 0 for all of the sample.
      labels: of the sample and of the gallery; then quality is their mean average precision at k, not recall.
      seed: of the indexes.
      log: gets a line for each stage.

    Raises:
      ValueError: for arguments that do not fit, or a budget that nothing meets.
    """
    _check(queries_SxD, gallery, target, dims, kinds, k, labels)
    gallery.inverse_norms(gallery.shape[1], *(m for d in dims for m in settings.middles(d, gallery.shape[1])))
    exact_point, quality, exact_ms = _exact(queries_SxD, gallery, target, labels, k, batch)
    log(f"exact search at {gallery.shape[1]} dims: {exact_ms:.3f} ms a query")
    points, built, prices = [exact_point], {}, {}
    for dim in dims:
        for kind in kinds:
            if indexes.refusal(kind, len(gallery.rows), dim):
                continue
            began = time.perf_counter()
            index = built[kind, dim] = indexes.build(kind, gallery.rows, dim, seed=seed)
            seconds = time.perf_counter() - began
            found = list(_points(index, queries_SxD, gallery, k, batch, quality, prices))
            points += found
            best = max(point.quality for point in found)
            log(f"{kind}@{dim}: built in {seconds:.1f} s, {len(found)} settings, the best {best:.4f}")
    finalists = _finalists(points, target, exact_point.quality)
    _measure(finalists, built, queries_SxD, gallery, k, batch)
    chosen = _choose(finalists, target, exact_point.quality)
    log(f"chosen of {len(finalists)} measured: {chosen.setting.name}")
    index = built.get((chosen.setting.index, chosen.setting.dim))
    return Plan(chosen, index, built, points, exact_ms, k, batch or len(queries_SxD), target)


def _check(queries_SxD, gallery, target, dims, kinds, k, labels):
    exact.check(queries_SxD, gallery.rows, tuple(dims), k)
    for kind in kinds:
        choose("kinds", kind, indexes.KINDS)
    if target.name == "map_loss" and labels is None:
        raise ValueError("target map_loss needs labels of the gallery and of the queries")
    if labels and tuple(map(len, labels)) != (len(queries_SxD), len(gallery.rows)):
        raise ValueError(
            f"{len(labels[0])} and {len(labels[1])} labels for {len(queries_SxD)} queries, {gallery.shape[0]} rows"
        )


def _seconds(function, queries_SxD, batch):
    """Of one pass over the sample in batches; the faster of two."""
    size, best = batch or len(queries_SxD), np.inf
    for _ in range(2):
        began = time.perf_counter()
        for first in range(0, len(queries_SxD), size):
            function(slice(first, first + size))
        best = min(best, time.perf_counter() - began)
    return best


def _exact(queries_SxD, gallery, target, labels, k, batch):
    full, size, answers = gallery.shape[1], batch or len(queries_SxD), []
    began = time.perf_counter()
    for first in range(0, len(queries_SxD), size):
        answers.append(exact.search(queries_SxD[first : first + size], gallery.rows, (full,), k)[1][0])
    ms = 1e3 * (time.perf_counter() - began) / len(queries_SxD)
    truth = np.concatenate(answers)
    quality = settings.precision_of(labels[1], labels[0], k) if labels else settings.recall_of(truth)
    mean, error = _mean(quality(truth))
    return Point(Setting("exact", full), mean, error, ms, gallery.shape[0] * full / 1e6), quality, ms


def _mean(values_S):
    return float(values_S.mean()), float(values_S.std() / np.sqrt(len(values_S)))


def _points(index, queries_SxD, gallery, k, batch, quality, prices):
    """Every setting of one index, its quality exact on the sample, its time predicted."""
    full, before = gallery.shape[1], -1.0
    unit, longest = indexes.unit(queries_SxD, index.dim), settings.lengths(len(gallery.rows), k)[-1]
    for effort in indexes.KINDS[index.kind].efforts:
        index.set_effort(effort)
        # A graph walks at least as far as the rows it is asked for: shorter shortlists would be others.
        limit = min(longest, max(effort, k)) if index.kind == "hnsw" else longest
        rows = index.search(unit, limit)[1]
        grid = [s for s in settings.steps(len(gallery.rows), index.dim, full, k) if not s or s[0][0] <= limit]
        wanted = sorted({dim for s in grid for _, dim in s})
        orders = {dim: settings.order_by(retrieval.rescore(queries_SxD, gallery, rows, dim)) for dim in wanted}
        for dim in set(wanted) - set(prices):
            prices[dim] = _price(queries_SxD, gallery, rows, dim, batch)
        times = _shortlist_times(index, unit, sorted({s[0][0] if s else k for s in grid}), batch)
        compared = index.operations(unit, limit)
        best = 0.0
        for rerank in grid:
            mean, error = _mean(quality(settings.answer(rows, orders, rerank, k)))
            seconds = times[rerank[0][0] if rerank else k] / len(unit) + sum(n * prices[m] for n, m in rerank)
            setting = Setting(index.kind, index.dim, effort, rerank)
            yield Point(setting, mean, error, 1e3 * seconds, settings.cost(setting, compared, index.dim))
            best = max(best, mean)
        if best - before < SATURATED:
            return
        before = best


def _price(queries_SxD, gallery, rows_SxK, dim, batch):
    """Seconds to compare and sort one row at `dim`."""

    def step(at):
        settings.order_by(retrieval.rescore(queries_SxD[at], gallery, rows_SxK[at], dim))

    return _seconds(step, queries_SxD, batch) / rows_SxK.size


def _shortlist_times(index, unit_SxM, lengths, batch):
    """Seconds of a pass by length: measured at three, interpolated between."""
    known = sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]})
    seconds = [_seconds(lambda at, n=length: index.search(unit_SxM[at], n), unit_SxM, batch) for length in known]
    return {length: float(np.interp(length, known, seconds)) for length in lengths}


def _meets(point: Point, target: Target, exact_quality: float) -> bool:
    if target.name == "recall":
        return point.quality - point.error >= target.value or point.quality >= exact_quality
    if target.name == "map_loss":
        return point.quality >= exact_quality - target.value / 100
    return (point.ms if target.name == "latency" else point.mflops) <= target.value


def _finalists(points, target, exact_quality):
    """The points worth running whole: the fastest that meet a quality, or some along the front within a budget."""
    fit = [p for p in points if _meets(p, target, exact_quality)]
    if not fit:
        cheapest = min(points, key=lambda p: p.ms if target.name == "latency" else p.mflops)
        raise ValueError(
            f"target {target.name}={target.value:g}: nothing that was tried is within it; the least is "
            f"{cheapest.setting.name} with {cheapest.ms:.4f} ms and {cheapest.mflops:.4f} MFLOPs a query"
        )
    least, most = FINALISTS
    if target.name in ("recall", "map_loss"):
        fit.sort(key=lambda p: p.ms)
        # Predictions are noisy: one alone may be far too low.
        return [p for i, p in enumerate(fit[:most]) if i < least or p.ms <= SLACK * fit[0].ms]
    if target.name == "mflops":
        return sorted(fit, key=lambda p: (-p.quality, p.ms))[:most]
    front = pareto(fit)
    return front[:: -max(len(front) // most, 1)]


def _measure(points, built, queries_SxD, gallery, k, batch):
    """Runs every point whole, in turns, and notes the median time."""
    times: list[list[float]] = [[] for _ in points]
    started, (least, most) = time.perf_counter(), ROUNDS
    for turn in range(most):
        if turn >= least and time.perf_counter() - started > SECONDS:
            break
        for point, found in zip(points, times):
            setting = point.setting
            index, size = built.get((setting.index, setting.dim)), batch or len(queries_SxD)
            began = time.perf_counter()
            for first in range(0, len(queries_SxD), size):
                run(setting, index, queries_SxD[first : first + size], gallery, k)
            found.append(time.perf_counter() - began)
    for point, found in zip(points, times):
        point.ms, point.measured = 1e3 * float(np.median(found)) / len(queries_SxD), True


def _choose(finalists, target, exact_quality):
    fit = [p for p in finalists if _meets(p, target, exact_quality)]
    if not fit:
        best = min(finalists, key=lambda p: p.ms)
        raise ValueError(
            f"target {target.name}={target.value:g}: measured, the fastest was {best.setting.name} with {best.ms:.4f} "
            "ms a query: allow as much"
        )
    if target.name in ("recall", "map_loss"):
        return min(fit, key=lambda p: p.ms)
    return max(fit, key=lambda p: (p.quality, -p.ms))


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both time and quality, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front
