"""Accuracy by superclass: after mapping answers to superclasses, and inside each superclass."""

import pathlib

import numpy as np

from mrl_jax import results
from mrl_jax.evals import answers, superclass
from mrl_jax.studies.subject import Finding, Subject, by_dim


def run(subject: Subject, *, hierarchy: str, superclasses: int = 30, label_names: str = "") -> Finding:
    """Whether an answer is of the right superclass, and whether it is right where only that superclass is asked for.

    Args:
      subject: what it is about.
      hierarchy: a JSON or CSV file from class to superclass, or "wordnet".
      superclasses: how many to take from WordNet; a file has its own.
      label_names: a file of the names of the classes, one a line or a JSON list, in place of those of the features.

    Raises:
      ValueError, FileNotFoundError, ImportError: for a hierarchy or names that are missing or do not fit.
    """
    names = subject.pair.test.info.label_names or subject.pair.train.info.label_names
    if label_names:
        names = superclass.read_names(pathlib.Path(label_names), subject.classes)
    if hierarchy == "wordnet":
        found = superclass.from_wordnet(names, superclasses)
    else:
        found = superclass.read(pathlib.Path(hierarchy), subject.classes, names)
    own_N, dims = found.of_C[subject.labels], subject.dims
    mapped = found.of_C[subject.predicted] == own_N[None]
    inside = answers.within(subject.pair.test.z, subject.heads, found.of_C, own_N) == subject.labels[None]
    values = by_dim("top1", dims, subject.correct.mean(axis=1)) | by_dim("mapped", dims, mapped.mean(axis=1))
    values |= by_dim("inside", dims, inside.mean(axis=1))
    each = {
        "mapped": superclass.by_superclass(mapped, own_N, len(found.names)),
        "inside": superclass.by_superclass(inside, own_N, len(found.names)),
    }
    sizes = np.bincount(found.of_C, minlength=len(found.names))
    rejected = sizes[found.names.index(superclass.REJECTS)] if superclass.REJECTS in found.names else 0
    details = {
        "hierarchy": hierarchy,
        "superclasses": len(found.names),
        "classes_below_a_superclass": int(sizes.sum() - rejected),
        "classes_of_superclass": dict(zip(found.names, sizes.tolist())),
        **{
            f"{metric}_of_each": {n: by_dim(metric, dims, c) for n, c in zip(found.names, x.T)}
            for metric, x in each.items()
        },
        "answered_by": subject.answered_by,
    }
    text = [f"{len(found.names)} superclasses of {sizes.min()} to {sizes.max()} classes."]
    # Superclasses that no test row belongs to have no row in the picture.
    seen = [s for s in range(len(found.names)) if np.isfinite(each["mapped"][:, s]).all()]
    picture = results.HeatMap(
        "superclass",
        "right superclass, %",
        [found.names[s] for s in seen],
        dims,
        100 * each["mapped"].T[seen],
    )
    return Finding(values, details, text, [picture])
