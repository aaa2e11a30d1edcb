"""Evaluators by name: a constructor and `run(store) -> Iterator[(name, value)]`.

One that does not fit all data has `check(what, kind, split)` besides, called before anything is compiled. It raises
ValueError, beginning with `what`, where data.kind or a split, `split(name)`, a `data.sources.Source`, is of no use.
One that asks the head has `check_head(what, known, split)`, which does so where the head knows too few classes.
"""

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
