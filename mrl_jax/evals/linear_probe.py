"""Linear probing of features at every dim: ridge, logistic and SGD probes.

Hyper-parameters are chosen per dim on a part held out of the training rows; the heads are then fitted on all of them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mrl_jax.evals import logistic, needs, ridge, sgd_probe
from mrl_jax.evals.features import FeatureStore, dims_of
from mrl_jax.evals.linear_heads import Heads, accuracy
from mrl_jax.evals.problem import Problem, make_problem
from mrl_jax.evals.streams import Stream


class Outcome(NamedTuple):
    """Test accuracies at every dim, and what was chosen to get them."""

    top1: list[float]
    top5: list[float]
    details: dict[str, Any]


def by_ridge(problem: Problem) -> Outcome:
    """Ridge regression."""
    heads, chosen = ridge.choose(problem.fit_moments, problem.held_moments, problem.held, problem.dims)
    return outcome(problem.test, heads, {"penalty": chosen, "unit": "mean diagonal element of the centred Gram matrix"})


def by_logistic(problem: Problem) -> Outcome:
    """Multinomial logistic regression."""
    whole = problem.fit_moments + problem.held_moments
    found = logistic.choose(problem.fit, problem.fit_moments, problem.held, problem.whole, whole, problem.dims)
    chosen = {"l2": found.l2, "unit": "mean variance of the features / number of classes"}
    return outcome(problem.test, found.heads, chosen | {"iterations": found.iterations, "converged": found.converged})


def by_sgd(problem: Problem) -> Outcome:
    """SGD with momentum."""
    whole = problem.fit_moments + problem.held_moments
    heads, chosen = sgd_probe.choose(problem.fit, problem.held, problem.whole, whole, problem.dims, problem.seed)
    unit = "1 / largest eigenvalue of the correlations of the prefix"
    return outcome(problem.test, heads, {"rate": chosen, "unit": unit})


class LinearProbe:
    """Ridge regression on the features, at every dim: `config.evals` knows it as `linear_probe`."""

    def __init__(self, *, split: str = "test", train: str = "train", dims: tuple[int, ...] = (), seed: int = 0):
        """Fits on split `train`, a part of it held out to choose the penalty by; accuracy is that on `split`."""
        self._split, self._train, self._dims, self._seed = split, train, tuple(dims), seed

    def check(self, what: str, kind: str, split: Callable[[str], Any]) -> None:
        """Raises ValueError unless both splits have classes."""
        needs.classes(what, split(self._train), split(self._split))

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `top1@dim` and `top5@dim`."""
        train, test = ((found.z_NxD, found.label_N) for found in (store(self._train), store(self._split)))
        dims = dims_of(store.nesting, self._dims)
        classes = int(max(train[1].max(), test[1].max())) + 1
        found = by_ridge(make_problem(train, test, classes, dims, self._seed))
        for m, top1, top5 in zip(dims, found.top1, found.top5):
            yield f"top1@{m}", top1
            yield f"top5@{m}", top5


def outcome(test: Stream, heads: Heads, details: dict[str, Any]) -> Outcome:
    """The accuracies of heads on the test rows."""
    top1, top5 = accuracy(test, heads)
    return Outcome(top1.tolist(), top5.tolist(), details)
