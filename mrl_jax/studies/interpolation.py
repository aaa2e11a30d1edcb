"""Accuracy at dims that were never trained, against the line between their trained neighbours."""

import numpy as np

from mrl_jax import results
from mrl_jax.evals import adaptive, analysis, answers, exact
from mrl_jax.evals.features import dims_of
from mrl_jax.studies.subject import Finding, Subject, by_dim, heads_at


def run(subject: Subject) -> Finding:
    """Top-1 of the heads and of the nearest training row, at the dims of the subject, the trained ones among them.

    A subject of trained dims alone is studied at one more dim between each two.
    """
    nesting, test = subject.pair.nesting, subject.pair.test
    inner = set(subject.dims) - set(nesting.dims)
    dims = dims_of(nesting, tuple(inner | set(nesting.dims)) if inner else ())
    predicted = answers.decide(test.z, heads_at(subject, dims)).predicted_GxN
    heads = adaptive.correct(predicted, subject.labels).mean(axis=1)
    train_z, test_z = (np.asarray(x.z, np.float32) for x in (subject.pair.train, test))
    found = subject.train_labels[exact.search(test_z, train_z, dims, 1)[1][:, :, 0]]
    curves = {"top1": heads, "knn_top1": (found == subject.labels[None]).mean(axis=1)}
    values, gaps, text = {}, {}, []
    for metric, curve in curves.items():
        values |= by_dim(metric, dims, curve)
        gap = analysis.gap_to_line(dims, curve, nesting.dims)
        gaps |= by_dim(metric, dims, gap)
        between = {m: g for m, g in zip(dims, gap) if m not in nesting.dims and np.isfinite(g)}
        if between:
            worst = min(between, key=between.get)
            text.append(
                f"{metric}: dims between trained ones lie {100 * np.mean(list(between.values())):+.2f} points off the "
                f"line through those on average, at worst {100 * between[worst]:+.2f} (dim {worst})."
            )
    series = {metric: (dims, 100 * curve) for metric, curve in curves.items()}
    figure = results.Lines("interpolation", "embedding dim", "top-1 accuracy, %", series)
    return Finding(values, {"gap_to_line": gaps, "answered_by": subject.answered_by}, text, [figure])
