"""Probes of prefixes, and beside them the same probes of other linear maps of the same features, at every dim.

Methods are named PROBE (of prefixes) or MAP_PROBE, with ridge understood where no probe is named: `knn`, `pca`,
`pca_knn`, `learned_sgd`. A learned map also has heads of its own (`learned_head`), and `head_svd` is the truncated
singular value decomposition of the classifier that was trained, its bias kept (MRL, appendix D).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mrl_jax.choices import choose
from mrl_jax.evals import linear_probe, logistic
from mrl_jax.evals.exact import search
from mrl_jax.evals.knn import shares
from mrl_jax.evals.linear_heads import Heads
from mrl_jax.evals.linear_probe import Outcome
from mrl_jax.evals.problem import Problem, projected, rows_of
from mrl_jax.evals.projections import PROJECTIONS, Projection

PROBES = {"ridge": linear_probe.by_ridge, "logistic": linear_probe.by_logistic, "sgd": linear_probe.by_sgd}
PREFIX, OWN_HEAD = "", "head"
# By name: the map and the probe.
METHODS = {name: (PREFIX, name) for name in (*PROBES, "knn", "head_svd")}
METHODS |= {name: (name, "ridge") for name in PROJECTIONS}
METHODS |= {f"{name}_{probe}": (name, probe) for name in PROJECTIONS for probe in (*PROBES, "knn")}
METHODS |= {f"{name}_{OWN_HEAD}": (name, OWN_HEAD) for name in ("learned", "learned_apart")}
DEFAULT = ("ridge", "logistic", "sgd", "random_features", "random_projection", "pca")


def probe(
    problem: Problem, methods: Sequence[str], say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Runs the methods; a map that several of them need is made once.

    Returns:
      `<method>_top1@dim` and, but for neighbours, `<method>_top5@dim`; and by method what was chosen per dim, and its
      seconds, those of the map with the first method that needs it.

    Raises:
      ValueError: for an unknown method, one that the labels do not suit, or `head_svd` without a head.
    """
    _check(problem, methods)
    values, details = {}, {}
    maps: dict[str, Sequence[Projection]] = {}
    for method in methods:
        began = time.monotonic()
        name, kind = METHODS[method]
        if name and name not in maps:
            maps[name] = PROJECTIONS[name](problem)
        parts = [_measure(problem, part, kind) for part in maps[name]] if name else [_prefix(problem, kind)]
        for metric in ("top1", "top5"):
            curve = [value for part in parts for value in getattr(part, metric)]
            values |= {f"{method}_{metric}@{m}": v for m, v in zip(problem.dims, curve)}
        details[method] = {
            **(parts[0].details if len(parts) == 1 else {"parts": [part.details for part in parts]}),
            "seconds": round(time.monotonic() - began, 2),
        }
        say(f"{method}: {details[method]['seconds']:.1f} s")
    return values, details


def _check(problem: Problem, methods: Sequence[str]) -> None:
    for method in methods:
        choose("--methods", method, METHODS)
        name, kind = METHODS[method]
        if kind in ("logistic", "sgd") or name.startswith("learned"):
            logistic.check_single(problem.whole.labels, method)
        if method == "head_svd" and problem.head is None:
            raise ValueError(
                "--methods=head_svd needs the classifier: give --workdir=RUN or --head=KERNEL.npy,BIAS.npy"
            )


def _prefix(problem: Problem, kind: str) -> Outcome:
    if kind == "knn":
        return by_nearest(problem)
    return by_head_svd(problem) if kind == "head_svd" else PROBES[kind](problem)


def _measure(problem: Problem, part: Projection, kind: str) -> Outcome:
    mapped = projected(problem, part.matrix, part.dims)
    if kind == OWN_HEAD:
        found = linear_probe.outcome(mapped.test, part.heads, {})
    elif kind == "knn":
        found = by_nearest(mapped, centred=part.centred)
    else:
        found = PROBES[kind](mapped)
    return found._replace(details=found.details | (part.details or {}))


def by_nearest(problem: Problem, *, centred: bool = False) -> Outcome:
    """The label of the nearest training row by cosine, as `problem.rows_of` has them."""
    queries, gallery = rows_of(problem, centred=centred)
    found = problem.whole.labels[search(queries, gallery, problem.dims, 1)[1][..., 0]]
    labels = problem.test.labels
    right = [shares(f, labels) if f.ndim > 1 else f == labels for f in found]
    return Outcome([float(np.mean(r)) for r in right], [], {"neighbours": 1, "centred": centred})


def by_head_svd(problem: Problem) -> Outcome:
    """The trained classifier with its kernel cut to rank m, the features all kept."""
    kernel, bias = problem.head
    u, s, vt = np.linalg.svd(np.asarray(kernel, np.float64), full_matrices=False)
    kernels = [((u[:, :m] * s[:m]) @ vt[:m]).astype(np.float32) for m in problem.dims]
    heads = Heads(kernels, [np.asarray(bias, np.float32)] * len(problem.dims))
    return linear_probe.outcome(
        problem.test, heads, {"singular_values": [float(s[m - 1 : m].sum()) for m in problem.dims]}
    )
