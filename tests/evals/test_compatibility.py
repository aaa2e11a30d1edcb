"""The matrix of all pairs of models against a scorer written item by item, with ties, cameras and junk."""

import numpy as np
import pytest

from mrl_jax.evals import compatibility, rankings
from mrl_jax.evals.compatibility import compatible_pairs, cross_matrix, update_gain, upgrade_scores


def ranked(hits, relevant=None):
    hits = np.atleast_2d(np.array(hits, bool))
    found = rankings.rank(-np.arange(hits.shape[1])[None], hits, np.ones_like(hits))
    return found if relevant is None else found._replace(relevant_Q=np.array([relevant]))


def test_reference_values():
    r = ranked([1, 0, 1, 0, 0, 1])
    np.testing.assert_allclose(rankings.average_precision(r), [0.722222], atol=1e-6)
    np.testing.assert_allclose(rankings.trapezoid_average_precision(r), [0.677778], atol=1e-6)
    np.testing.assert_allclose(rankings.average_precision(ranked([1, 0, 1, 0, 0, 1], 4), 100), [0.541667], atol=1e-6)
    np.testing.assert_allclose(rankings.inverse_negative_penalty(r), [0.5])
    np.testing.assert_allclose([rankings.hit_among(ranked([0, 0, 1]), k)[0] for k in (1, 2, 3)], [0, 0, 1])


def problem(seed=0):
    """Two models of small integer features, so that many cosines are equal; -1 is junk, identity 9 has no match."""
    rng = np.random.default_rng(seed)
    queries = {"small": rng.integers(-1, 2, (14, 3)), "large": rng.integers(-1, 2, (14, 5))}
    galleries = {"small": rng.integers(-1, 2, (40, 3)), "large": rng.integers(-1, 2, (40, 5))}
    ids = np.where(np.arange(14) < 2, 9, rng.integers(0, 4, 14)), rng.integers(-1, 4, 40)
    features = ({k: v.astype(np.float32) for k, v in d.items()} for d in (queries, galleries))
    return *features, *ids, rng.integers(0, 2, 14), rng.integers(0, 2, 40)


def item_by_item(q, g, query_id, gallery_ids, query_camera, gallery_cameras):
    """The hits of one query in ranked order, the lower index first of equal cosines, and the largest cosine."""
    items = []
    for n, x in enumerate(g):
        if gallery_ids[n] == -1 or (gallery_ids[n] == query_id and gallery_cameras[n] == query_camera):
            continue
        dim = min(len(q), len(x))
        a, b = q[:dim].astype(float), x[:dim].astype(float)
        # Squared and signed, exact in integers: equal cosines are equal numbers.
        dot, squares = float(a @ b), float((a @ a) * (b @ b))
        items.append((-np.sign(dot) * (dot**2 / squares if squares else 0.0), n))
    items.sort()
    return [gallery_ids[n] == query_id for _, n in items]


def naive(metric, hits):
    positions = [r for r, hit in enumerate(hits, 1) if hit]
    if metric == "map":
        return np.mean([(j + 1) / r for j, r in enumerate(positions)])
    if metric == "map@5":
        return sum((j + 1) / r for j, r in enumerate(positions) if r <= 5) / min(5, len(positions))
    if metric == "minp":
        return len(positions) / positions[-1]
    return float(positions[0] <= int(metric.partition("@")[2]))


@pytest.mark.parametrize("metric", ["map", "map@5", "minp", "cmc@1", "r@4"])
def test_the_matrix_equals_an_item_by_item_scorer(metric, monkeypatch):
    monkeypatch.setattr(compatibility, "TILE", 200)  # five queries at a time
    for seed in range(3):
        queries, galleries, *rest = problem(seed)
        matrix, names = cross_matrix(queries, galleries, *rest, metric=metric)
        assert names == (("small", "large"), ("small", "large"))
        query_ids, gallery_ids, query_cameras, gallery_cameras = rest
        for i, q in enumerate(queries.values()):
            for j, g in enumerate(galleries.values()):
                found = [
                    item_by_item(row, g, a, gallery_ids, b, gallery_cameras)
                    for row, a, b in zip(q, query_ids, query_cameras)
                ]
                expected = np.mean([naive(metric, hits) for hits in found if any(hits)])
                np.testing.assert_allclose(matrix[i, j], expected, rtol=1e-12)


def test_the_diagonal_is_the_self_test_and_equal_models_make_a_constant_matrix():
    queries, galleries, *rest = problem()
    matrix, _ = cross_matrix(queries, galleries, *rest)
    alone, _ = cross_matrix({"x": queries["large"]}, {"x": galleries["large"]}, *rest)
    assert matrix[1, 1] == alone[0, 0]
    same, _ = cross_matrix({"a": queries["large"], "b": queries["large"] * 3}, {"a": galleries["large"]}, *rest)
    assert same[0, 0] == same[1, 0]


def test_cameras_and_junk_change_what_counts():
    z = {"m": np.eye(3, dtype=np.float32)[[0, 0, 1, 0]]}
    ids, cameras = np.array([5, -1, 6, 5]), np.array([0, 0, 0, 1])
    query = {"m": np.array([[1.0, 0, 0]], np.float32)}
    one, of_camera = np.array([5]), np.array([1])
    for arguments, expected in (
        ((), 1.0),
        ((of_camera, cameras), 1.0),
        ((np.array([0]), cameras), 1.0),
    ):
        np.testing.assert_allclose(cross_matrix(query, z, one, ids, *arguments)[0], [[expected]])
    # Kept, the junk item pushes the second hit back: precision 1 and 2/3.
    np.testing.assert_allclose(cross_matrix(query, z, one, ids, junk_ids=())[0], [[(1 + 2 / 3) / 2]])
    # Its own camera's item left out, the junk item stands before the only hit.
    np.testing.assert_allclose(cross_matrix(query, z, one, ids, np.array([0]), cameras, junk_ids=())[0], [[0.5]])


def rated(kind, scores, relevant, valid, rate, rows=2):
    """Fed some rows at a time."""
    found = kind(rate, scores.size)
    for first in range(0, len(scores), rows):
        found.add(*(part[first : first + rows] for part in (scores, relevant, valid)))
    return found.value()


def test_accept_rates():
    own, others = np.array([0.9, 0.5, 0.2]), np.array([0.8, 0.5, 0.4, 0.1])
    scores = np.concatenate([own, others])[None]
    relevant, valid = (np.arange(7) < 3)[None], np.ones((1, 7), bool)
    found = [rated(rankings.Accepts, scores, relevant, valid, rate) for rate in (0, 0.25, 0.5, 0.75, 1)]
    # At 0.25 one impostor may pass: above 0.5, which ties with a match, only 0.9 is accepted.
    np.testing.assert_allclose(found, [1 / 3, 1 / 3, 2 / 3, 1, 1])
    valid[0, 3] = False
    np.testing.assert_allclose(rated(rankings.Accepts, scores, relevant, valid, 0.4), 2 / 3)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.99])
def test_accept_rates_of_many_scores_are_those_of_all_sorted(rate):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 300, (40, 50)) / 300  # many ties
    relevant, valid = rng.random((40, 50)) < 0.3, rng.random((40, 50)) < 0.9
    others = np.sort(scores[~relevant & valid])[::-1]
    threshold = others[int(rate * len(others))]
    expected = np.mean(scores[relevant & valid] > threshold)
    for rows in (1, 3, 40):
        assert rated(rankings.Accepts, scores, relevant, valid, rate, rows) == expected


def test_identification_rates():
    scores = np.array([[0.9, 0.1], [0.3, 0.6], [0.7, 0.2], [0.5, 0.4], [0.1, 0.2]])
    relevant = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [0, 0]], bool)
    found = [rated(rankings.Identifications, scores, relevant, np.ones((5, 2), bool), rate) for rate in (0, 0.5, 1)]
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 2 / 3])
    scores[2, 0] = 0.45  # below the unknown query's 0.5
    found = [rated(rankings.Identifications, scores, relevant, np.ones((5, 2), bool), rate) for rate in (0, 0.5)]
    np.testing.assert_allclose(found, [1 / 3, 2 / 3])


def test_rates_in_the_matrix():
    queries, galleries, *rest = problem()
    for metric in ("tar@0.1", "tpir@0.5"):
        matrix, _ = cross_matrix(queries, galleries, *rest, metric=metric)
        assert matrix.shape == (2, 2)
        assert ((matrix >= 0) & (matrix <= 1)).all()


def test_compatible_pairs_and_update_gain():
    found = compatible_pairs([[0.5, 0.6, 0.5], [0.55, 0.7, 0.9], [0.4, 0.8, 0.8]])
    assert found.upgraded == ((1, 0), (2, 1))
    assert found.served == ((0, 1), (1, 2))
    assert found.pairs == 3
    assert update_gain(cross=0.6, old=0.5, independent=0.9) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="not above"):
        update_gain(0.6, 0.5, 0.5)
    with pytest.raises(ValueError, match="square"):
        compatible_pairs(np.zeros((2, 3)))


def test_upgrade_scores_are_those_of_the_published_table():
    # The row of BCT in the table of AdvBCT, on RParis, ROxford and GLDv2-test; its own P_1 is rounded on the way.
    old, independent = (75.45, 49.15, 10.03), (81.15, 63.85, 16.48)
    found = upgrade_scores((80.58, 56.34, 14.61), (77.37, 49.66, 11.3), old, independent)
    np.testing.assert_allclose(100 * np.array(found), (48.02, 54.71, 51.13), atol=0.02)
    assert upgrade_scores([0.9], [0.5], [0.5], [0.9]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="not above"):
        upgrade_scores([0.5], [0.5], [0.6], [0.6])
    with pytest.raises(ValueError, match="one number of each kind"):
        upgrade_scores([0.5], [0.5], [0.6, 0.1], [0.7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "mpa"}, "did you mean 'map'"),
        ({"metric": "cmc"}, "cmc@1"),
        ({"metric": "tar@2"}, "0..1"),
        ({"metric": "map@0"}, "at least 1"),
        ({"metric": "minp@3"}, "none for"),
        ({"query_ids": np.arange(3)}, r"shape \(3,\)"),
        ({"query_ids": np.full(14, 77)}, "nothing to find"),
        ({"gallery_cameras": None}, "both, or neither"),
        ({"query_cameras": np.zeros(14), "gallery_cameras": np.zeros(40)}, "by another camera"),
        ({"queries": {}}, "0 models"),
        ({"queries": {"small": np.full((14, 3), np.nan)}}, "not finite"),
    ],
)
def test_bad_input_is_refused(change, message):
    names = ("queries", "galleries", "query_ids", "gallery_ids", "query_cameras", "gallery_cameras")
    with pytest.raises(ValueError, match=message):
        cross_matrix(**(dict(zip(names, problem())) | change))
