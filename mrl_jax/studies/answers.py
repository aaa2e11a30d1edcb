"""Studies of what the answers of all dims say together: the oracle with the vote, disagreement, class trends."""

import numpy as np

from mrl_jax import results
from mrl_jax.evals import analysis
from mrl_jax.studies.subject import Finding, Subject, by_dim


def oracle(subject: Subject) -> Finding:
    """Routing every example to the smallest dim that is right, and the vote of all dims."""
    right, dims = subject.correct, subject.dims
    found = analysis.oracle(right, dims)
    vote = float(np.mean(analysis.majority_vote(subject.predicted) == subject.labels))
    values = by_dim("top1", dims, right.mean(axis=1)) | by_dim("first_correct", dims, found.first_correct_G)
    details = {
        "oracle_accuracy": found.accuracy,
        "never_correct": found.never,
        "expected_dim": found.expected_dim,
        "majority_vote": vote,
        "answered_by": subject.answered_by,
    }
    text = [
        f"Oracle: {100 * found.accuracy:.2f} % at an expected dim of {found.expected_dim:.1f}; "
        f"{100 * found.never:.2f} % are right at no dim, and count as dim {dims[-1]}.",
        f"Majority vote of all dims: {100 * vote:.2f} %.",
    ]
    return Finding(values, details, text, [])


def disagreement(subject: Subject) -> Finding:
    """How often each two dims answer differently, and how often one alone is right."""
    dims, right = subject.dims, subject.correct
    differ, alone = 100 * analysis.disagreement(subject.predicted), 100 * analysis.only_right(right)
    details = {"dims": list(dims), "disagreement_percent": differ.tolist(), "only_row_right_percent": alone.tolist()}
    return Finding(
        by_dim("top1", dims, right.mean(axis=1)) | by_dim("differs_from_full", dims, differ[-1] / 100),
        details | {"answered_by": subject.answered_by},
        [],
        [
            results.HeatMap("disagreement", "different answers, %", dims, dims, differ),
            results.HeatMap("only_right", "right at the row's dim, wrong at the column's, %", dims, dims, alone),
        ],
    )


def trends(subject: Subject, *, tolerance: float = 0.0) -> Finding:
    """Which classes gain and lose as the dim grows; steps of at most `tolerance` of a class's accuracy do not count."""
    accuracy_GxC = analysis.class_accuracy(subject.correct, subject.labels, subject.classes)
    place_C = analysis.trends(accuracy_GxC, tolerance)
    names = subject.pair.test.info.label_names or subject.pair.train.info.label_names
    members = {
        trend: [names[c] if names else int(c) for c in np.flatnonzero(place_C == i)]
        for i, trend in enumerate(analysis.TRENDS)
    }
    seen = int((place_C >= 0).sum())
    text = [f"Of {seen} classes, by their accuracy from dim {subject.dims[0]} to {subject.dims[-1]}:"]
    text += [f"{len(found):7d}  {trend}" for trend, found in members.items()]
    details = {"tolerance": tolerance, "classes": members, "answered_by": subject.answered_by}
    shown = {
        trend: np.nanmean(accuracy_GxC[:, place_C == i], axis=1)
        for i, trend in enumerate(analysis.TRENDS)
        if (place_C == i).any()
    }
    series = {f"{trend} ({len(members[trend])})": (subject.dims, 100 * curve) for trend, curve in shown.items()}
    figure = results.Lines("trends", "embedding dim", "mean accuracy of the classes, %", series)
    return Finding(by_dim("top1", subject.dims, subject.correct.mean(axis=1)), details, text, [figure])
