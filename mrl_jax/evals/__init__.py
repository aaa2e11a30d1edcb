"""Evaluators by name: a constructor and `run(store) -> Iterator[(name, value)]`."""

from mrl_jax.evals.classification import Classification
from mrl_jax.evals.knn import NearestNeighbors
from mrl_jax.evals.linear_probe import LinearProbe
from mrl_jax.evals.masked_lm import MaskedLanguageModel
from mrl_jax.evals.pair_retrieval import PairRetrieval
from mrl_jax.evals.zero_shot import ZeroShot

EVALUATORS = {
    "classification": Classification,
    "knn": NearestNeighbors,
    "linear_probe": LinearProbe,
    "masked_lm": MaskedLanguageModel,
    "pair_retrieval": PairRetrieval,
    "zero_shot": ZeroShot,
}
