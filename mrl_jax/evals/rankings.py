"""What rankings, and the scores that make them, are worth: one query at a time, whatever says which items are relevant.

An item that is not valid for a query, such as junk or another picture by the same camera, is as if it were not there.
Of equal scores the lower index is ranked first.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_TILE = 2**22  # scores looked through at once for equal ones


class Rankings(NamedTuple):
    """At which ranks the relevant items of each query stand, hits sorted by query and rank; the rest is not kept.

    Attributes:
      query_P: the query of each hit.
      rank_P: how many valid items stand before it.
      turn_P: how many hits of its query stand before it.
      relevant_Q: how many valid items are relevant.
    """

    query_P: np.ndarray
    rank_P: np.ndarray
    turn_P: np.ndarray
    relevant_Q: np.ndarray


def rank(scores_QxN: np.ndarray, relevant_QxN: np.ndarray, valid_QxN: np.ndarray) -> Rankings:
    """Ranks the relevant items of each query among the valid ones by score in float32, the largest first."""
    scores_QxN = np.where(valid_QxN, np.asarray(scores_QxN, np.float32), np.float32(-np.inf))
    query_P, item_P = np.divmod(np.flatnonzero(relevant_QxN & valid_QxN), scores_QxN.shape[1])
    score_P = scores_QxN[query_P, item_P]
    # Scores sort many times faster than what says where they were.
    sorted_QxN = np.sort(scores_QxN, axis=1)
    above_P, equal_P = (_first(sorted_QxN, query_P, score_P, compare) for compare in (np.less_equal, np.less))
    rank_P = scores_QxN.shape[1] - above_P
    tied = np.flatnonzero(above_P - equal_P > 1)
    rank_P[tied] += _equal_before(scores_QxN, query_P[tied], item_P[tied])
    rank_P = rank_P[np.lexsort((rank_P, query_P))]
    relevant_Q = np.bincount(query_P, minlength=len(scores_QxN))
    turn_P = np.arange(len(query_P)) - np.repeat(np.cumsum(relevant_Q) - relevant_Q, relevant_Q)
    return Rankings(query_P, rank_P, turn_P, relevant_Q)


def _first(sorted_QxN: np.ndarray, query_P: np.ndarray, score_P: np.ndarray, compare: Callable) -> np.ndarray:
    """How many scores of its query compare so with each score, by bisection of all at once."""
    low_P, high_P = np.zeros_like(query_P), np.full_like(query_P, sorted_QxN.shape[1])
    for _ in range(sorted_QxN.shape[1].bit_length()):
        middle_P = np.minimum((low_P + high_P) // 2, sorted_QxN.shape[1] - 1)
        beyond_P = (low_P < high_P) & compare(sorted_QxN[query_P, middle_P], score_P)
        low_P, high_P = np.where(beyond_P, middle_P + 1, low_P), np.where(beyond_P, high_P, middle_P)
    return low_P


def _equal_before(scores_QxN: np.ndarray, query_P: np.ndarray, item_P: np.ndarray) -> np.ndarray:
    """How many items of a lower index have the item's score."""
    items_N, rows = np.arange(scores_QxN.shape[1]), max(_TILE // scores_QxN.shape[1], 1)
    found_P = np.zeros_like(query_P)
    for first in range(0, len(query_P), rows):
        query, item = query_P[first : first + rows], item_P[first : first + rows]
        equal_PxN = scores_QxN[query] == scores_QxN[query, item][:, None]
        found_P[first : first + rows] = (equal_PxN & (items_N < item[:, None])).sum(axis=1)
    return found_P


def average_precision(rankings: Rankings, k: int | None = None) -> np.ndarray:
    """Per query the sum of the precision at each hit of the first k (all), over min(relevant, k); NaN without any."""
    precision_P = (rankings.turn_P + 1) / (rankings.rank_P + 1)
    if k is None:
        return _over(_sum(rankings, precision_P), rankings.relevant_Q)
    return _over(_sum(rankings, precision_P * (rankings.rank_P < k)), np.minimum(rankings.relevant_Q, k))


def trapezoid_average_precision(rankings: Rankings, k: None = None) -> np.ndarray:
    """Per query the area under precision by recall, by trapezoids: the convention of Oxford and Paris; NaN without any.

    The hit at rank r (from 0), the j-th (from 0), adds the mean of j / r (1 at rank 0) and (j + 1) / (r + 1).
    """
    rank_P, turn_P = rankings.rank_P, rankings.turn_P
    before_P = np.where(rank_P == 0, 1.0, turn_P / np.maximum(rank_P, 1))
    return _over(_sum(rankings, (before_P + (turn_P + 1) / (rank_P + 1)) / 2), rankings.relevant_Q)


def hit_among(rankings: Rankings, k: int) -> np.ndarray:
    """Per query whether any of the first k is relevant, as 0 or 1: CMC rank-k, R@k; NaN without relevant items."""
    hit_Q = _sum(rankings, (rankings.rank_P < k) & (rankings.turn_P == 0))
    return _over(hit_Q * rankings.relevant_Q, rankings.relevant_Q)


def inverse_negative_penalty(rankings: Rankings, k: None = None) -> np.ndarray:
    """Per query the relevant items over the rank of the last of them (mINP is its mean); NaN without any."""
    last_P = rankings.turn_P + 1 == rankings.relevant_Q[rankings.query_P]
    return _over(
        _sum(rankings, last_P * rankings.relevant_Q[rankings.query_P] / (rankings.rank_P + 1)), rankings.relevant_Q > 0
    )


def _sum(rankings: Rankings, values_P: np.ndarray) -> np.ndarray:
    return np.bincount(rankings.query_P, values_P, minlength=len(rankings.relevant_Q))


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
