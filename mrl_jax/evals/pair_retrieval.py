"""Search of what belongs together: pictures by captions, captions by pictures, texts by texts, at every dim.

Both sides are cut to the same dim and normalised. Right is what some row of the data pairs with the one asked for: all
captions of its image, all images of its caption, all second texts of its text. What comes several times in the gallery
stands in it once. A text that stands on both sides does not find itself, unless it is its own pair.
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
        picture_N = np.arange(len(found.z_NxD)) if found.picture_N is None else found.picture_N
        one_kind = found.score_N is not None  # both sides are texts
        sides = {
            "to_pair": (found.z_NxD, found.pair_NxD, found.caption_N, dims, picture_N),
            "from_pair": (found.pair_NxD, found.z_NxD, picture_N, dims, found.caption_N),
        }
        for name, arguments in sides.items():
            for dim, hits in zip(dims, ranked_hits(*arguments, one_kind)):
                for k in KS:
                    yield f"{name}_r{k}@{dim}", float(hits[:, :k].any(axis=1).mean())
                if name == "to_pair":
                    yield f"ndcg10@{dim}", float(ndcg(hits, _relevant(found.caption_N, picture_N)).mean())
                    yield f"mrr10@{dim}", float(mrr(hits).mean())
        if found.score_N is not None and np.isfinite(found.score_N).all():
            for dim in dims:
                yield f"spearman@{dim}", spearman(found.z_NxD, found.pair_NxD, found.score_N, dim)


def ranked_hits(
    queries_NxD: np.ndarray,
    gallery_NxD: np.ndarray,
    item_N: np.ndarray,
    dims: tuple[int, ...],
    asked_N: np.ndarray | None = None,
    one_kind: bool = False,
) -> np.ndarray:
    """Whether each of the ten nearest items of a query belongs to it, (G, N, 10) bool.

    Args:
      queries_NxD: query i belongs to row i of the gallery.
      gallery_NxD: rows of the same number in `item_N` are one item: the first of them is searched.
      item_N: integers.
      dims: of the prefixes.
      asked_N: integers; the items of all queries of the same number belong to each of them. None: each has its own.
      one_kind: an item of the query's own number is the query itself: it is passed over, unless it belongs to it.

    Raises:
      ValueError: for sides of different dims, or rows that do not match.
    """
    if queries_NxD.shape != gallery_NxD.shape or len(item_N) != len(queries_NxD):
        raise ValueError(
            f"queries {queries_NxD.shape} and gallery {gallery_NxD.shape} with {len(item_N)} items: both sides "
            "must have the same rows and the same dims"
        )
    itself_N = asked_N = np.arange(len(item_N)) if asked_N is None else asked_N
    _, asked_N = np.unique(asked_N, return_inverse=True)
    names, first, item_N = np.unique(item_N, return_index=True, return_inverse=True)
    rows = np.sort(first)
    k = min(max(KS) + one_kind, len(rows))  # one more, in the place of the query itself
    _, neighbors_GxNxk = exact.search(queries_NxD, gallery_NxD[rows], dims, k)
    items_GxNxk = item_N[rows][neighbors_GxNxk]
    hits = np.isin(asked_N[None, :, None] * len(rows) + items_GxNxk, asked_N * len(rows) + item_N)
    if one_kind:
        passed_over = (names[items_GxNxk] == itself_N[None, :, None]) & ~hits
        hits = np.take_along_axis(hits, passed_over.argsort(axis=2, kind="stable"), axis=2)
    hits = hits[:, :, : max(KS)]
    return np.pad(hits, ((0, 0), (0, 0), (0, max(KS) - hits.shape[2])))


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


def _relevant(item_N: np.ndarray, asked_N: np.ndarray) -> np.ndarray:
    """How many items belong to each row's query, (N,)."""
    _, asked_N = np.unique(asked_N, return_inverse=True)
    pairs_2xM = np.unique(np.stack([asked_N, item_N]), axis=1)
    return np.bincount(pairs_2xM[0])[asked_N]
