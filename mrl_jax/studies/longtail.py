"""Classifiers fitted on a long tail of the training rows, tested by how often a class was seen."""

from collections.abc import Sequence

import numpy as np

from mrl_jax import results
from mrl_jax.choices import choose
from mrl_jax.evals import answers, fewshot, longtail
from mrl_jax.studies.subject import PROBES, Finding, Subject, by_dim, probe_heads

CLASSIFIERS = ("nearest_mean", "probe")


def run(
    subject: Subject,
    *,
    imbalance: float = 100.0,
    groups: Sequence[int] = longtail.EDGES,
    classifiers: Sequence[str] = CLASSIFIERS,
) -> Finding:
    """Accuracy of head, medium and tail classes at every dim.

    Args:
      subject: what it is about; classifiers are fitted anew, on training features, whatever heads there are.
      imbalance: rows of the largest class over those of the smallest; 1 takes the training rows as they are.
      groups: classes of fewer rows than the first are the tail, of more than the second the head.
      classifiers: of CLASSIFIERS: the nearest class mean, and the probe that `--probe` names.
    """
    for name in classifiers:
        choose("--classifiers", name, CLASSIFIERS)
    choose("--probe", subject.probe, PROBES)
    if len(groups) != 2:
        raise ValueError(f"--groups={','.join(map(str, groups))}: give two numbers of rows, for example 20,100")
    rows = longtail.imbalanced(subject.train_labels, imbalance, subject.seed)
    train = np.asarray(subject.pair.train.z[rows], np.float32), subject.train_labels[rows]
    count_C = np.bincount(train[1], minlength=subject.classes)
    place_C = longtail.group_of(count_C, tuple(groups))
    values, figures = {}, []
    for name in classifiers:
        if name == "nearest_mean":
            predicted = np.stack(list(fewshot.class_mean_answers(train, subject.pair.test.z, subject.dims)))
        else:
            heads = probe_heads(subject, train, subject.dims)
            predicted = answers.decide(subject.pair.test.z, heads).predicted_GxN
        found = longtail.accuracy_by_group(predicted, subject.labels, count_C, tuple(groups))
        label = name if name == "nearest_mean" else subject.probe
        for group, curve in found.items():
            values |= by_dim(f"{label}_{group}", subject.dims, curve)
    series = {
        metric.removeprefix("longtail "): (list(curve), [100 * v for v in curve.values()])
        for metric, curve in results.curves({"longtail": values}).items()
    }
    figures.append(results.Lines("longtail", "embedding dim", "accuracy, %", series))
    seen = count_C[count_C > 0]
    sizes = {g: int(((place_C == i) & (count_C > 0)).sum()) for i, g in enumerate(longtail.GROUPS)}
    details = {"imbalance": imbalance, "groups": list(groups), "classes": sizes, "training_rows": len(rows)}
    text = [
        f"{len(rows)} of {len(subject.train_labels)} training rows, {seen.max()} to {seen.min()} of a class; classes: "
        + ", ".join(f"{count} {group}" for group, count in sizes.items())
        + "."
    ]
    return Finding(values, details, text, figures)
