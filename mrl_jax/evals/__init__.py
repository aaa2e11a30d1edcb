"""Evaluators by name: a constructor and `run(store) -> Iterator[(name, value)]`."""

from mrl_jax.evals.classification import Classification
from mrl_jax.evals.knn import NearestNeighbors
from mrl_jax.evals.linear_probe import LinearProbe

EVALUATORS = {"classification": Classification, "knn": NearestNeighbors, "linear_probe": LinearProbe}
