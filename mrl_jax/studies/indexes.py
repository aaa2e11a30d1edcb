"""What indexes of faiss cost and find at every dim (MRL, appendix I, tables 19 and 20)."""

import os
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrl_jax import results
from mrl_jax.evals import index_study, retrieval_study
from mrl_jax.evals.gallery import of
from mrl_jax.studies.subject import Finding, Subject

K = 10
KINDS = ("flat", "hnsw")
COSTS = ("build_seconds", "ms_per_query", "bytes", "operations")


def run(
    subject: Subject, *, kinds: Sequence[str] = KINDS, efforts: Sequence[int] = (), ks: Sequence[int] = (K,)
) -> Finding:
    """Builds each index of the training rows and asks it for the neighbours of the test rows.

    Args:
      subject: what it is about.
      kinds: of index.
      efforts: efSearch, nprobe or what the kinds have; empty for all that are worth trying with each.
      ks: how many neighbours are asked for, one number.

    Raises:
      ValueError: for lengths, labels or kinds that do not fit.
      ImportError: where faiss is not installed.
    """
    train, test, dims = subject.pair.train, subject.pair.test, subject.dims
    retrieval_study.check_lengths(len(train.z), ks, max(ks))
    retrieval_study.check_labels(len(train.z), train.labels, len(test.z), test.labels)
    index_study.check(kinds, efforts, len(train.z), dims)
    if len(ks) != 1:
        raise ValueError(f"--ks={','.join(map(str, ks))}: give one number, that of the neighbours asked for")
    labels, queries = (np.asarray(train.labels), np.asarray(test.labels)), np.asarray(test.z, np.float32)
    values: dict[str, float] = {}
    details: dict[str, Any] = {name: {} for name in COSTS}
    details["machine"] = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    found = list(index_study.run(of(train.z), labels[0], queries, labels[1], dims, kinds, efforts, ks[0], subject.seed))
    for one in found:
        values |= {f"{metric}@{ks[0]}_{one.name}@{one.dim}": score for metric, score in one.scores.items()}
        for name in COSTS:
            details[name][f"{one.name}@{one.dim}"] = getattr(one, name)
    text = [_line("index", "dim", "build, s", "ms a query", "MB", f"recall@{ks[0]}, %", f"mAP@{ks[0]}, %")]
    text += [
        _line(
            one.name,
            str(one.dim),
            f"{one.build_seconds:.2f}",
            f"{one.ms_per_query:.4f}",
            f"{one.bytes / 1e6:.1f}",
            f"{100 * one.scores['ann_recall']:.2f}",
            f"{100 * one.scores['map']:.2f}",
        )
        for one in found
    ]
    series = {name: [one for one in found if one.name.split(":")[0] == name] for name in kinds}
    lines = {name: ([p.ms_per_query for p in ps], [100 * p.scores["map"] for p in ps]) for name, ps in series.items()}
    return Finding(values, details, text, [results.Lines("indexes", "ms a query", f"mAP@{ks[0]}, %", lines)])


def _line(*cells: str) -> str:
    return "".join(cell.rjust(16 if i == 0 else 14) for i, cell in enumerate(cells))
