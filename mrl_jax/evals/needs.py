"""What evaluators need of the data, compared with what there is before anything is compiled.

`what` is the field of the config and its value, as messages name it; a source is that of `data.sources`.
"""

from collections.abc import Sequence
from typing import Any


def kinds(what: str, kind: str, wanted: Sequence[str]) -> None:
    """Raises ValueError unless the kind of the data is among those wanted."""
    if kind not in wanted:
        raise ValueError(
            f"{what} is for data.kind in {list(wanted)}, and data.kind={kind!r}: name another evaluator, or leave it "
            "out of config.evals"
        )


def classes(what: str, *found: Any) -> None:
    """Raises ValueError unless every source has classes to tell apart."""
    for source in found:
        if source.num_classes < 2:
            raise ValueError(
                f"{what} needs labels of two classes or more, and dataset {source.name!r} split {source.split!r} has "
                f"{source.num_classes}: prepare it with labels, or leave it out of config.evals"
            )


def known_classes(what: str, known: int, source: Any) -> None:
    """Raises ValueError unless a source has no more classes than the head of the model knows."""
    if source.num_classes > known:
        raise ValueError(
            f"{what} asks the head, which knows the {known} classes of training, and dataset {source.name!r} split "
            f"{source.split!r} has {source.num_classes}: evaluate it by 'knn', or name a split of those classes"
        )


def class_names(what: str, source: Any) -> None:
    """Raises ValueError unless a source has names of its classes, and one label an example."""
    if source.label_names is None or source.max_labels > 1:
        raise ValueError(
            f"{what} needs names of classes and one label an example, and dataset {source.name!r} split "
            f"{source.split!r} does not have them: prepare it with --labels, or leave it out of config.evals"
        )
