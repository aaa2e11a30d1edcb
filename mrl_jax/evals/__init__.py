"""Evaluators by name: a constructor and `run(store) -> Iterator[(name, value)]`."""

from mrl_jax.evals.classification import Classification
from mrl_jax.evals.knn import NearestNeighbors

EVALUATORS = {"classification": Classification, "knn": NearestNeighbors}
