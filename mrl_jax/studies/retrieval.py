"""Retrieval by exact search at every dim, by adaptive retrieval and by funnels, as the MRL paper measures them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mrl_jax import results
from mrl_jax.evals import projections, retrieval, retrieval_study
from mrl_jax.evals.gallery import Gallery, of
from mrl_jax.evals.problem import make_problem
from mrl_jax.studies.subject import Finding, Subject

SHORTLIST_DIM, K = 16, 10  # of the table of shortlist lengths (appendix K), and the depth of all that re-ranks


def run(
    subject: Subject,
    *,
    ks: Sequence[int] = (K, 25, 50, 100),
    shortlist: int = retrieval_study.SHORTLIST,
    shortlists: Sequence[int] = (),
    projection: str = "",
) -> Finding:
    """The training rows are the gallery, the test rows the queries.

    Args:
      subject: what it is about.
      ks: depths of the metrics; re-ranking is measured at the first one.
      shortlist: rows that adaptive retrieval re-ranks.
      shortlists: lengths to compare besides, from SHORTLIST_DIM dims (or the smallest studied) to the full dim.
      projection: of projections.NESTED, fitted on the training rows: what is searched in place of the features.

    Raises:
      ValueError: for lengths or labels that do not fit.
    """
    train, test, dims = subject.pair.train, subject.pair.test, subject.dims
    retrieval_study.check_lengths(len(train.z), ks, shortlist, shortlists)
    queries, rows = np.asarray(test.z, np.float32), train.z
    if projection:
        problem = make_problem(train[:2], test[:2], subject.classes, dims, subject.seed)
        queries, rows = projections.mapped(problem, projection)
    gallery = of(rows)
    measured = retrieval_study.run(gallery, train.labels, queries, test.labels, dims, ks=tuple(ks), shortlist=shortlist)
    values: dict[str, float] = {}
    details: dict[str, dict[str, float]] = {"adaptive": {}, "funnel": {}, "mflops": {}}
    for name, value in measured:
        kind, _, rest = name.partition("/")
        if rest:
            details[kind][rest] = value
        elif name.startswith("mflops@"):
            details["mflops"][name.removeprefix("mflops@")] = value
        else:
            values[name] = value
    start = SHORTLIST_DIM if SHORTLIST_DIM in dims else dims[0]
    details["shortlists"] = {}
    for length in shortlists:
        found = retrieval.adaptive_search(queries, gallery, start, ((length, dims[-1]),), k=ks[0])[1]
        relevant = retrieval_study.counts(np.asarray(train.labels), np.asarray(test.labels))
        scored = retrieval.metrics(np.where(found >= 0, train.labels[found], -1), test.labels, ks[0], relevant)
        for metric in ("map", "map_paper", "top1"):
            details["shortlists"][f"{metric}@{ks[0]}/{start}-{dims[-1]}:{length}"] = scored[metric]
    details |= {"shortlist": shortlist} | ({"projection": projection} if projection else {})
    return Finding(values, details, [], [_figure(values, details, dims, ks[0])], _timed(gallery, queries, dims, ks[0]))


def _timed(gallery: Gallery, queries: np.ndarray, dims: Sequence[int], k: int) -> results.Measured:
    times = dict(retrieval_study.milliseconds(gallery, queries, dims, k))
    at_once = min(len(queries), retrieval_study.TIMED_QUERIES)
    return results.Measured(
        times,
        f"{jax.devices()[0].device_kind}, exact search of {gallery.shape[0]} rows for {k} neighbours of {at_once} "
        f"queries at once, medians of {retrieval_study.REPEATS}",
    )


def _figure(values: Mapping[str, float], details: Mapping[str, Any], dims: Sequence[int], k: int) -> results.Lines:
    """Accuracy against cost: one dim for all, and the shortlists re-ranked at the full dim."""
    metric, full = f"map@{k}", dims[-1]
    single = [details["mflops"][str(m)] for m in dims], [100 * values[f"{metric}@{m}"] for m in dims]
    pairs = [f"{m}-{full}" for m in dims]
    adaptive = details["adaptive"]
    reranked = [adaptive[f"mflops/{p}"] for p in pairs], [100 * adaptive[f"{metric}/{p}"] for p in pairs]
    series = {"a single search": single, f"shortlist, re-ranked at {full}": reranked}
    return results.Lines("retrieval", "MFLOPs a query", f"mAP@{k}, %", series)
