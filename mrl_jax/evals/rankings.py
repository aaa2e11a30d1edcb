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


class Accepts:
    """TAR@FAR, one to one: the part of relevant pairs whose score is above that of all but `rate` of the other pairs.

    A tie with an impostor that must be rejected is rejected. Scores come a tile at a time; of the impostors only those
    are kept that the threshold may be among.
    """

    def __init__(self, rate: float, pairs: int):
        """Of at most `pairs` scores in all."""
        self._rate, self._keep = rate, int(rate * pairs + 1e-9) + 1
        self._own: list[np.ndarray] = []
        self._others: list[np.ndarray] = []
        self._count = 0

    def add(self, scores_QxN: np.ndarray, relevant_QxN: np.ndarray, valid_QxN: np.ndarray) -> None:
        """Takes the scores of some queries."""
        others = scores_QxN[~relevant_QxN & valid_QxN]
        self._own.append(scores_QxN[relevant_QxN & valid_QxN])
        self._count += len(others)
        self._others.append(_largest(others, self._keep))
        if sum(map(len, self._others)) > 2 * self._keep:
            self._others = [_largest(np.concatenate(self._others), self._keep)]

    def value(self) -> float:
        """The rate of true accepts; ValueError where there are no matches, or nothing else."""
        own, others = np.concatenate(self._own), np.concatenate(self._others)
        return float(np.mean(_above(own, others, self._rate, self._count)))


class Identifications:
    """TPIR@FPIR, one to many: the part of queries with relevant items of which one is first and above the threshold.

    The threshold lets pass at most `rate` of the queries without relevant items, by their first item's score.
    """

    def __init__(self, rate: float, pairs: int):
        """However many pairs there are."""
        del pairs
        self._rate = rate
        self._found: list[tuple[np.ndarray, ...]] = []

    def add(self, scores_QxN: np.ndarray, relevant_QxN: np.ndarray, valid_QxN: np.ndarray) -> None:
        """Takes the scores of some queries."""
        scores_QxN = np.where(valid_QxN, scores_QxN, -np.inf)
        first_Q = scores_QxN.argmax(axis=1)
        right_Q = relevant_QxN[np.arange(len(first_Q)), first_Q]
        self._found.append((scores_QxN.max(axis=1), right_Q, (relevant_QxN & valid_QxN).any(axis=1)))

    def value(self) -> float:
        """The rate of true identifications; ValueError where all queries are known, or none."""
        best_Q, right_Q, known_Q = (np.concatenate(part) for part in zip(*self._found))
        own, others = best_Q[known_Q], best_Q[~known_Q]
        return float(np.mean(_above(own, others, self._rate, len(others)) & right_Q[known_Q]))


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    return scores if len(scores) <= count else np.partition(scores, len(scores) - count)[len(scores) - count :]


def _above(own: np.ndarray, others: np.ndarray, rate: float, count: int) -> np.ndarray:
    """Which of `own` are above all but the part `rate` of `count` others, of which the largest are given.

    Raises:
      ValueError: where either is empty.
    """
    if not len(own) or not len(others):
        raise ValueError(f"{len(own)} scores of matches and {len(others)} of others: a rate needs both kinds")
    passed = int(np.floor(rate * count + 1e-9))
    if passed >= count:
        return np.ones(len(own), bool)
    return own > np.partition(others, len(others) - 1 - passed)[len(others) - 1 - passed]


BY_RATE: dict[str, Callable] = {"tar": Accepts, "tpir": Identifications}
