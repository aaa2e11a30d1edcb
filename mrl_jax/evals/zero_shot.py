"""Classification of images by the names of the classes alone (CLIP, section 3.1), at every dim."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mrl_jax.evals import exact, needs
from mrl_jax.evals.features import FeatureStore, dims_of

BATCH = 256


class ZeroShot:
    """Top-1 and top-5 accuracy of the nearest class, among those that the split shows.

    A class is the mean of the normalised embeddings of its prompts, at each dim by itself.
    """

    def __init__(self, *, split: str = "test", templates: tuple[str, ...] = ("{}",), dims: tuple[int, ...] = ()):
        """Evaluates `split` at `dims`; a template such as "a photo of a {}" stands for a prompt.

        Raises:
          ValueError: for no template, or one without {}.
        """
        check_templates("evals.zero_shot.templates", templates)
        self._split, self._templates, self._dims = split, tuple(templates), tuple(dims)

    def check(self, what: str, kind: str, split: Callable[[str], Any]) -> None:
        """Raises ValueError unless the model reads texts, and the classes have names."""
        needs.kinds(what, kind, ("image_text", "text_pair", "masked_text"))
        found = split(self._split)
        needs.classes(what, found)
        needs.class_names(what, found)

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `top1@dim` and `top5@dim`, fractions of the split.

        Raises:
          ValueError: where the classes have no names, or two of them the same token ids.
        """
        found, names = store(self._split), store.label_names(self._split)
        if names is None or found.label_N.ndim > 1:
            raise ValueError(f"zero_shot needs names of classes and one label an example: not split {self._split!r}")
        classes, label_N = np.unique(found.label_N, return_inverse=True)
        z_CxPxD, _ = embed_names(store, [names[c] for c in classes], self._templates)
        yield from accuracies(found.z_NxD, label_N, z_CxPxD, dims_of(store.nesting, self._dims))


def check_templates(field: str, templates: Sequence[str]) -> None:
    """Raises ValueError for no template, or one without {}."""
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ValueError(f"{field}={tuple(templates)!r}: each needs one {{}} for the name of the class")


def embed_names(store: FeatureStore, names: Sequence[str], templates: Sequence[str]) -> tuple[np.ndarray, int]:
    """The embeddings (C, P, D) of the P prompts of each of C names, and how many prompts were cut.

    Raises:
      ValueError: for two names whose prompts have the same token ids.
    """
    tokens, cut = store.tokenize([template.format(name) for name in names for template in templates])
    seen: dict[bytes, str] = {}
    for name, ids_PxT in zip(names, tokens.reshape(len(names), len(templates), -1)):
        other = seen.setdefault(ids_PxT.tobytes(), name)
        if other != name:
            raise ValueError(
                f"the classes {other!r} and {name!r} have the same {ids_PxT.shape[1]} token ids in "
                f"templates={tuple(templates)!r}: shorten names or templates so that no end is cut, or name them apart"
            )
    filled = np.concatenate([tokens, np.repeat(tokens[-1:], -len(tokens) % BATCH, axis=0)])
    parts = [store.embed({"tokens": filled[i : i + BATCH]}) for i in range(0, len(filled), BATCH)]
    return np.concatenate(parts)[: len(tokens)].reshape(len(names), len(templates), -1), cut


def accuracies(
    z_NxD: np.ndarray, label_N: np.ndarray, z_CxPxD: np.ndarray, dims: Sequence[int]
) -> Iterator[tuple[str, float]]:
    """Yields `top1@dim` and `top5@dim` of images by the embeddings of the prompts of all classes."""
    k = min(5, len(z_CxPxD))
    for dim in dims:
        cut = z_CxPxD[:, :, :dim]
        cut = cut / np.maximum(np.linalg.norm(cut, axis=2, keepdims=True), 1e-30)
        _, (nearest_NxK,) = exact.search(z_NxD[:, :dim], cut.mean(axis=1), (dim,), k)
        hits = nearest_NxK == label_N[:, None]
        yield f"top1@{dim}", float(hits[:, 0].mean())
        yield f"top5@{dim}", float(hits.any(axis=1).mean())
