"""Linear probing of features at every dim: ridge, logistic and SGD probes, and baselines through the same ridge.

Hyper-parameters are chosen per dim on a part held out of the training rows; the heads are then fitted on all of them.
The baselines answer whether prefixes are worth more than any m numbers of the features: m features drawn at random
("Rand. LP" of MRL, appendix D), a random projection to m, the m principal components. They need no further pass.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.choices import choose
from mrl_jax.evals import logistic, ridge, sgd_probe
from mrl_jax.evals.features import FeatureStore, dims_of
from mrl_jax.evals.linear_heads import accuracy
from mrl_jax.evals.moments import Moments, accumulate
from mrl_jax.evals.streams import Stream, hold_out


class Problem(NamedTuple):
    """Training rows with their split and moments, test rows, and the dims: what every method starts from."""

    fit: Stream
    held: Stream
    whole: Stream
    test: Stream
    fit_moments: Moments
    held_moments: Moments
    dims: tuple[int, ...]
    seed: int


class Outcome(NamedTuple):
    """Test accuracies at every dim, and what was chosen to get them."""

    top1: list[float]
    top5: list[float]
    details: dict[str, Any]


def make_problem(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: int,
    dims: Sequence[int],
    seed: int = 0,
) -> Problem:
    """Splits the training rows and takes their moments, in one pass.

    Args:
      train: features (N, D), in memory or mapped, and labels (N,) or (N, L) padded with -1.
      test: likewise.
      classes: every label is below it.
      dims: of the prefixes, increasing.
      seed: of the split and of all that is random later.

    Raises:
      ValueError: if labels or sizes do not fit.
    """
    for name, (z, labels) in (("training", train), ("test", test)):
        if len(z) != len(labels) or not len(z) or z.shape[1] < max(dims):
            raise ValueError(f"{name} features {z.shape} with labels {labels.shape} do not fit dims up to {max(dims)}")
        if int(labels.max()) >= classes:
            raise ValueError(f"the {name} labels reach {int(labels.max())}, beyond the {classes} classes of training")
    fit_index, held_index = hold_out(len(train[0]), seed)
    fit, held = Stream(*train, fit_index), Stream(*train, held_index)
    fit_moments = accumulate(fit, classes)
    held_moments = accumulate(held, classes, fit_moments.shift)
    return Problem(fit, held, Stream(*train), Stream(*test), fit_moments, held_moments, tuple(dims), seed)


def by_ridge(problem: Problem, matrix: Callable[[Moments, int], np.ndarray] | None = None) -> Outcome:
    """Ridge regression on prefixes of the features, or of features @ matrix(moments, seed)."""
    fit, held, streams = problem.fit_moments, problem.held_moments, (problem.held, problem.test)
    if matrix:
        columns = matrix(fit + held, problem.seed)
        fit, held = fit.projected(columns), held.projected(columns)
        project = _projection(columns)
        streams = tuple(s.projected(project) for s in streams)
    heads, chosen = ridge.choose(fit, held, streams[0], problem.dims)
    return _outcome(streams[1], heads, {"penalty": chosen, "unit": "mean diagonal element of the centred Gram matrix"})


def by_logistic(problem: Problem) -> Outcome:
    """Multinomial logistic regression."""
    whole = problem.fit_moments + problem.held_moments
    found = logistic.choose(problem.fit, problem.fit_moments, problem.held, problem.whole, whole, problem.dims)
    chosen = {"l2": found.l2, "unit": "mean variance of the features / number of classes"}
    return _outcome(problem.test, found.heads, chosen | {"iterations": found.iterations, "converged": found.converged})


def by_sgd(problem: Problem) -> Outcome:
    """SGD with momentum."""
    whole = problem.fit_moments + problem.held_moments
    heads, chosen = sgd_probe.choose(problem.fit, problem.held, problem.whole, whole, problem.dims, problem.seed)
    unit = "1 / largest eigenvalue of the correlations of the prefix"
    return _outcome(problem.test, heads, {"rate": chosen, "unit": unit})


def random_features(moments: Moments, seed: int) -> np.ndarray:
    """The matrix (D, D) that puts the features in a random order: its first m columns draw m of them."""
    dim = len(moments.gram)
    return np.eye(dim)[:, np.random.default_rng(seed).permutation(dim)]


def random_projection(moments: Moments, seed: int) -> np.ndarray:
    """A Gaussian matrix (D, D); its first m columns are a random projection to m (Johnson and Lindenstrauss)."""
    dim = len(moments.gram)
    return np.random.default_rng(seed).normal(size=(dim, dim)) / np.sqrt(dim)


def principal_components(moments: Moments, seed: int) -> np.ndarray:
    """The eigenvectors (D, D) of the covariance, of the largest eigenvalue first."""
    del seed
    return np.linalg.eigh(moments.centred()[0])[1][:, ::-1]


METHODS: dict[str, Callable[[Problem], Outcome]] = {
    "ridge": by_ridge,
    "logistic": by_logistic,
    "sgd": by_sgd,
    "random_features": lambda problem: by_ridge(problem, random_features),
    "random_projection": lambda problem: by_ridge(problem, random_projection),
    "pca": lambda problem: by_ridge(problem, principal_components),
}


def probe(
    problem: Problem, methods: Sequence[str], say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Runs the methods.

    Returns:
      `<method>_top1@dim` and `<method>_top5@dim`; and by method what was chosen per dim, and its seconds.

    Raises:
      ValueError: for an unknown method, or one that the labels do not suit.
    """
    for method in methods:
        choose("--methods", method, METHODS)
        if method in ("logistic", "sgd"):
            logistic.check_single(problem.whole.labels, method)
    values, details = {}, {}
    for method in methods:
        began = time.monotonic()
        found = METHODS[method](problem)
        for name, curve in (("top1", found.top1), ("top5", found.top5)):
            values |= {f"{method}_{name}@{m}": v for m, v in zip(problem.dims, curve)}
        details[method] = {**found.details, "seconds": round(time.monotonic() - began, 2)}
        say(f"{method}: {details[method]['seconds']:.1f} s")
    return values, details


class LinearProbe:
    """Ridge regression on the features, at every dim: `config.evals` knows it as `linear_probe`."""

    def __init__(self, *, split: str = "test", train: str = "train", dims: tuple[int, ...] = (), seed: int = 0):
        """Fits on split `train`, a part of it held out to choose the penalty by; accuracy is that on `split`."""
        self._split, self._train, self._dims, self._seed = split, train, tuple(dims), seed

    def run(self, store: FeatureStore) -> Iterator[tuple[str, float]]:
        """Yields `top1@dim` and `top5@dim`."""
        train, test = store(self._train), store(self._split)
        dims = dims_of(store.nesting, self._dims)
        classes = int(max(train.label_N.max(), test.label_N.max())) + 1
        found = by_ridge(make_problem(train, test, classes, dims, self._seed))
        for m, top1, top5 in zip(dims, found.top1, found.top5):
            yield f"top1@{m}", top1
            yield f"top5@{m}", top5


def _projection(columns: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    matrix = jnp.asarray(columns, jnp.float32)
    return jax.jit(lambda z: jnp.matmul(z, matrix, precision="highest"))


def _outcome(test: Stream, heads: Any, details: dict[str, Any]) -> Outcome:
    top1, top5 = accuracy(test, heads)
    return Outcome(top1.tolist(), top5.tolist(), details)
