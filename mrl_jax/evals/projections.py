"""Linear maps of features to fewer of them: what prefixes have to be better than.

A map is a matrix (D, K) of which the first m columns are the map to m dims, or a matrix of its own for every dim.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax.evals import learned_projection
from mrl_jax.evals.linear_heads import Heads
from mrl_jax.evals.moments import Moments
from mrl_jax.evals.problem import Problem, projected, rows_of


class Projection(NamedTuple):
    """A map for some of the dims.

    Attributes:
      dims: those that it is for.
      matrix: (D, K), K at least the largest of them.
      centred: whether neighbours are looked for among features less their mean.
      heads: classifiers of the mapped features that were learned with it, or None.
      details: what was chosen on the way.
    """

    dims: tuple[int, ...]
    matrix: np.ndarray
    centred: bool = False
    heads: Heads | None = None
    details: dict[str, float] | None = None


def random_features(problem: Problem) -> Sequence[Projection]:
    """The features in a random order: the first m columns draw m of them ("Rand. LP" of MRL, appendix D)."""
    dim = len(problem.fit_moments.gram)
    order = np.random.default_rng(problem.seed).permutation(dim)
    return [Projection(problem.dims, np.eye(dim)[:, order])]


def random_projection(problem: Problem) -> Sequence[Projection]:
    """A Gaussian matrix, whose first m columns are a random projection to m (Johnson and Lindenstrauss)."""
    dim = len(problem.fit_moments.gram)
    matrix = np.random.default_rng(problem.seed).normal(size=(dim, dim)) / np.sqrt(dim)
    return [Projection(problem.dims, matrix)]


def principal_components(problem: Problem) -> Sequence[Projection]:
    """The eigenvectors of the covariance, of the largest eigenvalue first."""
    gram, _ = _whole(problem).centred()
    return [Projection(problem.dims, np.linalg.eigh(gram)[1][:, ::-1], centred=True)]


def singular_vectors(problem: Problem) -> Sequence[Projection]:
    """The right singular vectors of the matrix of all training features, not centred, of the largest value first."""
    m = _whole(problem)
    outer = np.outer(m.shift, m.sum_z)
    gram = m.gram + outer + outer.T + m.rows * np.outer(m.shift, m.shift)
    return [Projection(problem.dims, np.linalg.eigh(gram)[1][:, ::-1])]


def learned(problem: Problem) -> Sequence[Projection]:
    """One map learned with a nested softmax at all dims: what MRL would do to frozen features."""
    return [_learned(problem, problem.dims)]


def learned_apart(problem: Problem) -> Sequence[Projection]:
    """A map learned for every dim by itself, with a plain softmax."""
    return [_learned(problem, (m,)) for m in problem.dims]


def _learned(problem: Problem, dims: tuple[int, ...]) -> Projection:
    found = learned_projection.learn(problem, dims)
    return Projection(dims, found.matrix, True, found.heads, {"rate": found.rate})


def _whole(problem: Problem) -> Moments:
    return problem.fit_moments + problem.held_moments


PROJECTIONS = {
    "random_features": random_features,
    "random_projection": random_projection,
    "pca": principal_components,
    "svd": singular_vectors,
    "learned": learned,
    "learned_apart": learned_apart,
}
NESTED = tuple(name for name in PROJECTIONS if name != "learned_apart")  # one matrix, whose prefixes are for every dim


def mapped(problem: Problem, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Test and training features (N, K) by one of NESTED, which is fitted on the training rows alone."""
    (found,) = PROJECTIONS[name](problem)
    return rows_of(projected(problem, found.matrix, found.dims), centred=found.centred)
