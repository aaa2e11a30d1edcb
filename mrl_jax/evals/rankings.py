"""What rankings, and the scores that make them, are worth: one query at a time, whatever says which items are relevant.

An item that is not valid for a query, such as junk or another picture by the same camera, is as if it were not there.
Of equal scores the lower index is ranked first.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Rankings(NamedTuple):
    """Scores of a gallery for each query, ranked.

    Attributes:
      hits_QxN: whether the item at each rank is relevant; invalid items stand last and are no hits.
      relevant_Q: how many valid items are relevant.
    """

    hits_QxN: np.ndarray
    relevant_Q: np.ndarray


def rank(scores_QxN: np.ndarray, relevant_QxN: np.ndarray, valid_QxN: np.ndarray) -> Rankings:
    """Ranks the valid items of each query by score, the largest first."""
    wanted_QxN = relevant_QxN & valid_QxN
    order_QxN = np.argsort(np.where(valid_QxN, -scores_QxN, np.inf), axis=1, kind="stable")
    return Rankings(np.take_along_axis(wanted_QxN, order_QxN, axis=1), wanted_QxN.sum(axis=1))


def average_precision(rankings: Rankings, k: int | None = None) -> np.ndarray:
    """Per query the sum of the precision at each hit of the first k (all), over min(relevant, k); NaN without any."""
    hits_Qxk = rankings.hits_QxN[:, :k]
    precision_Qxk = np.cumsum(hits_Qxk, axis=1) / np.arange(1, hits_Qxk.shape[1] + 1)
    most_Q = rankings.relevant_Q if k is None else np.minimum(rankings.relevant_Q, k)
    return _over((precision_Qxk * hits_Qxk).sum(axis=1), most_Q)


def trapezoid_average_precision(rankings: Rankings, k: None = None) -> np.ndarray:
    """Per query the area under precision by recall, by trapezoids: the convention of Oxford and Paris; NaN without any.

    The hit at rank r (from 0), the j-th (from 0), adds the mean of j / r (1 at rank 0) and (j + 1) / (r + 1).
    """
    hits_QxN = rankings.hits_QxN
    rank_N, after_QxN = np.arange(hits_QxN.shape[1]), np.cumsum(hits_QxN, axis=1)
    before_QxN = np.where(rank_N == 0, 1.0, (after_QxN - hits_QxN) / np.maximum(rank_N, 1))
    area_QxN = (before_QxN + after_QxN / (rank_N + 1)) / 2
    return _over((area_QxN * hits_QxN).sum(axis=1), rankings.relevant_Q)


def hit_among(rankings: Rankings, k: int) -> np.ndarray:
    """Per query whether any of the first k is relevant, as 0 or 1: CMC rank-k, R@k; NaN without relevant items."""
    return _over(rankings.hits_QxN[:, :k].any(axis=1) * rankings.relevant_Q, rankings.relevant_Q)


def inverse_negative_penalty(rankings: Rankings, k: None = None) -> np.ndarray:
    """Per query the relevant items over the rank of the last of them (mINP is its mean); NaN without any."""
    hits_QxN = rankings.hits_QxN
    last_Q = hits_QxN.shape[1] - np.argmax(hits_QxN[:, ::-1], axis=1)
    return _over(rankings.relevant_Q / last_Q, rankings.relevant_Q > 0)


def _over(values_Q, count_Q):
    return np.where(count_Q > 0, values_Q / np.maximum(count_Q, 1), np.nan)


PER_QUERY: dict[str, Callable] = {
    "map": average_precision,
    "map_trapezoid": trapezoid_average_precision,
    "minp": inverse_negative_penalty,
    "cmc": hit_among,
    "r": hit_among,
}


def true_accepts(scores_QxN: np.ndarray, relevant_QxN: np.ndarray, valid_QxN: np.ndarray, rate: float) -> float:
    """TAR@FAR, one to one: the part of relevant pairs whose score is above that of all but `rate` of the other pairs.

    A tie with an impostor that must be rejected is rejected.
    """
    accepted = _above(scores_QxN[relevant_QxN & valid_QxN], scores_QxN[~relevant_QxN & valid_QxN], rate)
    return float(np.mean(accepted))


def true_identifications(scores_QxN: np.ndarray, relevant_QxN: np.ndarray, valid_QxN: np.ndarray, rate: float) -> float:
    """TPIR@FPIR, one to many: the part of queries with relevant items of which one is first and above the threshold.

    The threshold lets pass at most `rate` of the queries without relevant items, by their first item's score.
    """
    scores_QxN = np.where(valid_QxN, scores_QxN, -np.inf)
    known_Q = (relevant_QxN & valid_QxN).any(axis=1)
    first_Q = scores_QxN.argmax(axis=1)
    best_Q, right_Q = scores_QxN.max(axis=1), relevant_QxN[np.arange(len(first_Q)), first_Q]
    return float(np.mean(_above(best_Q[known_Q], best_Q[~known_Q], rate) & right_Q[known_Q]))


def _above(own: np.ndarray, others: np.ndarray, rate: float) -> np.ndarray:
    """Which of `own` are above all but the part `rate` of the others.

    Raises:
      ValueError: where either is empty.
    """
    if not len(own) or not len(others):
        raise ValueError(f"{len(own)} scores of matches and {len(others)} of others: a rate needs both kinds")
    passed = int(np.floor(rate * len(others) + 1e-9))
    if passed >= len(others):
        return np.ones(len(own), bool)
    return own > np.partition(others, len(others) - 1 - passed)[len(others) - 1 - passed]


BY_RATE: dict[str, Callable] = {"tar": true_accepts, "tpir": true_identifications}
