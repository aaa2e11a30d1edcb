"""Linear classification by the trained heads, at every dim (MRL, section 4.2.1)."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals import needs
from mrl_jax.evals.features import FeatureStore, dims_of

BATCH = 1024


class Classification:
    """Top-1 and top-5 accuracy of the model's own heads on a split.

    Where examples have several labels, top-k is the fraction with any of them among the k classes of the largest logits
    (top-1 is precision at 1).

    Dims that were not trained see the mean embedding of the split (no label of it) in place of what they leave out.
    """

    def __init__(self, *, split: str = "test", dims: tuple[int, ...] = ()):
        """Evaluates `split` at `dims`; by default at every trained dim and one in between each two."""
        self._split, self._dims = split, tuple(dims)

    def check(self, what: str, kind: str, split: Callable[[str], Any]) -> None:
        """Raises ValueError unless the data are images of several classes."""
        needs.kinds(what, kind, ("image",))
        needs.classes(what, split(self._split))

    def check_head(self, what: str, known: int, split: Callable[[str], Any]) -> None:
        """Raises ValueError where the split has more classes than the head: a label that it lacks has no rank."""
        needs.known_classes(what, known, split(self._split))

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `top1@dim` and `top5@dim`, fractions of the split."""
        features = store(self._split)
        mean_D = features.z_NxD.mean(axis=0)
        for dim in dims_of(store.nesting, self._dims):
            rank = ranks(
                features.z_NxD,
                features.label_N,
                lambda z, dim=dim: store.logits(z, store.head, store.nesting, dim, mean_D),
            )
            yield f"top1@{dim}", float(np.mean(rank < 1))
            yield f"top5@{dim}", float(np.mean(rank < 5))


def ranks(z_NxD: np.ndarray, label_N: np.ndarray, logits) -> np.ndarray:
    """How many classes each row's label is ranked behind, (N,) int; of equal logits the lower class comes first.

    Of several labels (N, L), filled up with -1, the one that is ranked first counts.
    """
    label_NxL = label_N[:, None] if label_N.ndim == 1 else label_N

    @jax.jit
    def rank(z_BxD, label_BxL):
        logits_BxC = logits(z_BxD)
        label_B = _best(logits_BxC, label_BxL)
        own_Bx1 = jnp.take_along_axis(logits_BxC, label_B[:, None], axis=1)
        earlier = jnp.arange(logits_BxC.shape[1])[None, :] < label_B[:, None]
        return jnp.sum((logits_BxC > own_Bx1) | ((logits_BxC == own_Bx1) & earlier), axis=1)

    starts = range(0, len(z_NxD), BATCH)
    return np.concatenate([np.asarray(rank(z_NxD[i : i + BATCH], label_NxL[i : i + BATCH])) for i in starts])


def _best(logits_BxC, label_BxL):
    """The label of the largest logit, the lowest of equals."""
    own_BxL = jnp.take_along_axis(logits_BxC, jnp.maximum(label_BxL, 0), axis=1)
    own_BxL = jnp.where(label_BxL < 0, -jnp.inf, own_BxL)
    is_best = own_BxL == own_BxL.max(axis=1, keepdims=True)
    return jnp.where(is_best & (label_BxL >= 0), label_BxL, logits_BxC.shape[1]).min(axis=1)
