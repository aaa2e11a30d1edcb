import numpy as np

from mrl_jax.evals import knn


def test_vote():
    labels = np.array([[3, 1, 1], [2, 4, 5], [7, 8, 8]])
    assert knn.vote(labels).tolist() == [1, 2, 8]


def test_sharing_a_label():
    found = knn.shares(np.array([[1, 2], [1, -1], [3, -1]]), np.array([[2, 5], [2, -1], [3, 4]]))
    assert found.tolist() == [True, False, True]
