"""Search of what belongs together: pictures by captions, captions by pictures, texts by texts, at every dim.

Both sides are cut to the same dim and normalised. What has the same caption as the one looked for is right too.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mrl_jax.evals import exact, needs
from mrl_jax.evals.features import FeatureStore, dims_of

KS = (1, 5, 10)


class PairRetrieval:
    """Recall at 1, 5 and 10 in both directions, and of the second: nDCG at 10, MRR at 10, Spearman's correlation."""

    def __init__(self, *, split: str = "test", dims: tuple[int, ...] = ()):
        """Evaluates `split` at `dims`; by default at every trained dim and one in between each two."""
        self._split, self._dims = split, tuple(dims)

    def check(self, what: str, kind: str, split: Callable[[str], Any]) -> None:
        """Raises ValueError unless the data have pairs."""
        needs.kinds(what, kind, ("image_text", "text_pair"))
        split(self._split)

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `to_pair_r1@dim`, `to_pair_r5@dim`, `to_pair_r10@dim` (captions found by pictures), `from_pair_r1@dim`
        ... (pictures by captions), `ndcg10@dim` and `mrr10@dim` of the captions found; and `spearman@dim` of the
        cosines and the scores, where the data have scores.

        Raises:
          ValueError: where the data have no pairs.
        """
        found = store(self._split)
        if found.pair_NxD is None:
            raise ValueError(f"split {self._split!r} has no pairs: set data.kind to image_text or text_pair")
        dims = dims_of(store.nesting, self._dims)
        sides = {"to_pair": (found.z_NxD, found.pair_NxD), "from_pair": (found.pair_NxD, found.z_NxD)}
        for name, (queries, gallery) in sides.items():
            for dim, hits in zip(dims, ranked_hits(queries, gallery, found.caption_N, dims)):
                for k in KS:
                    yield f"{name}_r{k}@{dim}", float(hits[:, :k].any(axis=1).mean())
                if name == "to_pair":
                    yield f"ndcg10@{dim}", float(ndcg(hits, _counts(found.caption_N)).mean())
                    yield f"mrr10@{dim}", float(mrr(hits).mean())
        if found.score_N is not None and np.isfinite(found.score_N).all():
            for dim in dims:
                yield f"spearman@{dim}", spearman(found.z_NxD, found.pair_NxD, found.score_N, dim)


def ranked_hits(
    queries_QxD: np.ndarray, gallery_NxD: np.ndarray, caption_N: np.ndarray, dims: tuple[int, ...]
) -> np.ndarray:
    """Whether each of the ten nearest of a query has its caption, (G, Q, 10) bool; query i has caption i.

    Raises:
      ValueError: for sides of different dims, or rows that do not match.
    """
    if queries_QxD.shape != gallery_NxD.shape or len(caption_N) != len(queries_QxD):
        raise ValueError(
            f"queries {queries_QxD.shape} and gallery {gallery_NxD.shape} with {len(caption_N)} captions: both sides "
            "must have the same rows and the same dims"
        )
    k = min(max(KS), len(gallery_NxD))
    _, neighbors_GxQxk = exact.search(queries_QxD, gallery_NxD, dims, k)
    hits = caption_N[neighbors_GxQxk] == caption_N[None, :, None]
    return np.pad(hits, ((0, 0), (0, 0), (0, max(KS) - k)))


def ndcg(hits_QxK: np.ndarray, relevant_Q: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain of each query, (Q,), with so many right answers for it."""
    gains_K = 1 / np.log2(np.arange(2, hits_QxK.shape[1] + 2))
    ideal_Q = np.cumsum(gains_K)[np.minimum(relevant_Q, len(gains_K)) - 1]
    return hits_QxK @ gains_K / ideal_Q


def mrr(hits_QxK: np.ndarray) -> np.ndarray:
    """1 / the rank of the first right answer of each query, (Q,); 0 where there is none."""
    return np.where(hits_QxK.any(axis=1), 1 / (1 + hits_QxK.argmax(axis=1)), 0.0)


def spearman(u_NxD: np.ndarray, v_NxD: np.ndarray, score_N: np.ndarray, dim: int) -> float:
    """The rank correlation of the cosines of the first `dim` features with the scores."""
    import scipy.stats  # slow to import, and few runs need it

    u, v = u_NxD[:, :dim], v_NxD[:, :dim]
    norms = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    return float(scipy.stats.spearmanr((u * v).sum(axis=1) / np.maximum(norms, 1e-30), score_N).statistic)


def _counts(caption_N: np.ndarray) -> np.ndarray:
    """How often each row's caption comes."""
    _, inverse, counts = np.unique(caption_N, return_inverse=True, return_counts=True)
    return counts[inverse]
