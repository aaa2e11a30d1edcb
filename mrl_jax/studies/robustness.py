"""Accuracy and retrieval on sets that have changed while their classes have not, of features that lie on disk.

The command `robustness` embeds such sets itself; this is for features of other models, or made before.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mrl_jax import feature_pairs, features_dir, results
from mrl_jax.evals import robustness
from mrl_jax.evals.linear_heads import Heads, logits
from mrl_jax.features_dir import Features
from mrl_jax.studies.subject import Finding, Subject


def run(subject: Subject, *, shifted: Sequence[str]) -> Finding:
    """Accuracy of the heads and of the nearest training row, mAP and P of the training rows found, set by set.

    Args:
      subject: what it is about; its test rows are the set that has not changed.
      shifted: the sets that have, NAME=FEATURES each, features as `features_dir.open_features` takes them. Classes are
        matched by their names; those of a set without names, such as of bare arrays, by their numbers.

    Raises:
      ValueError: for features of another model or of other classes, or two sets of one name.
      FileNotFoundError: for features that are not there.
    """
    values, series, sizes = {}, {}, {}
    for name, found in {robustness.CLEAN: subject.pair.test, **_opened(subject, shifted)}.items():
        labels = _labels(subject, found, name)
        heads = _heads(subject, found, labels)
        train, dims = subject.pair.train, subject.dims
        of_dim = dict(zip(dims, zip(*heads)))

        def answers(z, dim, of_dim=of_dim):
            return logits(z, *of_dim[dim])

        measured = robustness.accuracies(found.z, labels, train.z, subject.train_labels, answers, dims)
        values |= robustness.named(name, measured, dims)
        series[name] = (list(dims), [100 * v for v in measured.top1])
        sizes[name] = {"rows": len(found.z), "classes": len(np.unique(labels))}
        sizes[name]["matched_by"] = "number" if found.info.label_names is None else "name"
    lines = "{}: {rows} rows of {classes} classes, matched by {matched_by}"
    text = [lines.format(name, **size) for name, size in sizes.items()]
    figure = results.Lines("robustness", "embedding dim", "top-1, %", series)
    return Finding(values, {"sets": sizes}, [*text, f"Answers are those of {subject.answered_by}."], [figure])


def _opened(subject: Subject, shifted: Sequence[str]) -> dict[str, Features]:
    sets: dict[str, Features] = {}
    for text in shifted:
        name, _, path = text.partition("=")
        if not path:
            raise ValueError(f"--shifted={text!r} must be NAME=FEATURES")
        results.check_name(name, (robustness.CLEAN, *sets), "--shifted")
        sets[name] = features_dir.open_features(path, verify=True)
        feature_pairs.check_same_model(subject.pair.train, sets[name], f"--shifted={name}")
        if subject.path:
            feature_pairs.check_made_by(f"--shifted={name}", sets[name], subject.path, subject.step)
        feature_pairs.check_finite(f"--shifted={name}", sets[name])
    return sets


def _labels(subject: Subject, found: Features, name: str) -> np.ndarray:
    """The set's labels as classes of training."""
    info, own, what = found.info, subject.pair.train.info, f"--shifted={name}"
    names, trained, count = info.label_names, own.label_names, info.num_classes
    if names is None:
        trained, count = None, own.num_classes
        if found.labels.max() >= count:
            raise ValueError(f"{what} has labels up to {found.labels.max()}, training {count} classes: use its numbers")
    classes = robustness.match_classes(names, count, trained, own.num_classes, what)
    return robustness.trained_labels(np.asarray(found.labels, np.int64), classes, info.label_names, what)


def _heads(subject: Subject, found: Features, labels: np.ndarray) -> Heads:
    """A checkpoint's heads with the set's own mean in place of what a dim leaves out; a probe is fitted once."""
    if not subject.path:
        return subject.heads
    pair = subject.pair._replace(test=found._replace(labels=labels))
    return dataclasses.replace(subject, pair=pair).heads
