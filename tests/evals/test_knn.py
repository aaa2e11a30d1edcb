import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors as Reference

from mrl_jax.evals import knn


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 24)).astype(np.float32), rng.normal(size=(300, 24)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5])
def test_equals_an_independent_search_at_every_dim(vectors, monkeypatch, k):
    monkeypatch.setattr(knn, "QUERY_TILE", 16)
    monkeypatch.setattr(knn, "GALLERY_TILE", 70)
    queries, gallery = vectors
    dims = (3, 8, 24)
    found = knn.nearest(queries, gallery, dims, k)
    assert found.shape == (3, 50, k)
    for m, indices in zip(dims, found):
        q, g = (x[:, :m] / np.linalg.norm(x[:, :m], axis=1, keepdims=True) for x in (queries, gallery))
        np.testing.assert_array_equal(indices, Reference(n_neighbors=k).fit(g).kneighbors(q)[1])


def test_of_equal_neighbours_the_first_wins(monkeypatch):
    monkeypatch.setattr(knn, "GALLERY_TILE", 2)
    gallery = np.ones((5, 3), np.float32)
    assert knn.nearest(gallery[:1], gallery, (3,), 2).tolist() == [[[0, 1]]]


def test_fewer_rows_in_a_tile_than_neighbours(monkeypatch):
    monkeypatch.setattr(knn, "GALLERY_TILE", 2)
    gallery = np.eye(5, dtype=np.float32)
    assert sorted(knn.nearest(gallery[:1], gallery, (5,), 5)[0, 0]) == [0, 1, 2, 3, 4]


def test_zero_vectors_are_nobody_s_neighbour():
    gallery = np.array([[0, 0], [1, 1]], np.float32)
    assert knn.nearest(np.array([[1, 0]], np.float32), gallery, (2,), 1).tolist() == [[[1]]]


def test_vote():
    labels = np.array([[3, 1, 1], [2, 4, 5], [7, 8, 8]])
    assert knn.vote(labels).tolist() == [1, 2, 8]


def test_sharing_a_label():
    found = knn.shares(np.array([[1, 2], [1, -1], [3, -1]]), np.array([[2, 5], [2, -1], [3, 4]]))
    assert found.tolist() == [True, False, True]
