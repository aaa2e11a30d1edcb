"""What bits cost: prefixes of float32, int8 and one bit a feature as the gallery, with and without rescoring."""

from collections.abc import Sequence

import numpy as np

from mrl_jax import results
from mrl_jax.evals import quantize, retrieval, retrieval_study
from mrl_jax.evals.gallery import of
from mrl_jax.studies.subject import Finding, Subject

K = 10
NAMES = {32: "float32", 8: "int8", 1: "binary"}
RESCORED = "_rescored"


def run(subject: Subject, *, ks: Sequence[int] = (K,), shortlist: int = retrieval_study.SHORTLIST) -> Finding:
    """mAP@k of the training rows found for the test rows, by the codes alone and after rescoring.

    Args:
      subject: what it is about.
      ks: depths of the metric; the picture is of the first one.
      shortlist: rows that are rescored by the floats of the full dim.

    Raises:
      ValueError: for lengths or labels that do not fit.
    """
    train, test, dims = subject.pair.train, subject.pair.test, subject.dims
    retrieval_study.check_lengths(len(train.z), ks, shortlist)
    retrieval_study.check_labels(len(train.z), train.labels, len(test.z), test.labels)
    gallery, queries = of(train.z), np.asarray(test.z, np.float32)
    labels_N, labels_Q = np.asarray(train.labels), np.asarray(test.labels)
    relevant_Q, longest, full = retrieval_study.counts(labels_N, labels_Q), max(ks), gallery.shape[1]
    length = min(max(shortlist, longest), len(train.z))
    values, size = {}, {}
    for bits, name in NAMES.items():
        for dim in dims:
            index = None if bits == 32 else quantize.Codes(gallery, dim, bits)
            size[f"{name}@{dim}"] = 4 * dim if index is None else index.bytes_per_row
            for suffix, rerank in (("", ()), (RESCORED, ((length, full),))):
                rows = retrieval.adaptive_search(queries, gallery, dim, rerank, index=index, k=longest)[1]
                for k in ks:
                    scored = retrieval.metrics(labels_N[rows], labels_Q, k, relevant_Q)
                    values[f"map@{k}_{name}{suffix}@{dim}"] = scored["map"]
    details = {"bytes_per_row": size, "shortlist": length}
    return Finding(values, details, [], [_figure(values, size, dims, ks[0], length)])


def _figure(values: dict[str, float], size: dict[str, int], dims: Sequence[int], k: int, length: int) -> results.Lines:
    series = {}
    for name in NAMES.values():
        for suffix, said in (("", ""), (RESCORED, f", {length} rescored")):
            curve = [100 * values[f"map@{k}_{name}{suffix}@{dim}"] for dim in dims]
            series[name + said] = [size[f"{name}@{dim}"] for dim in dims], curve
    return results.Lines("quantization", "bytes a row of the gallery", f"mAP@{k}, %", series)
