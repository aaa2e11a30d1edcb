"""What a study is about: the features of two sets, the dims, and linear heads that answer at each of them."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import flips, results, trained
from mrl_jax.choices import choose
from mrl_jax.evals import adaptive, answers, linear_probe, logistic, ridge
from mrl_jax.evals.features import dims_of
from mrl_jax.evals.linear_heads import Heads
from mrl_jax.feature_pairs import Pair
from mrl_jax.models import heads as model_heads

PROBES = ("logistic", "ridge")


class Finding(NamedTuple):
    """What a study found.

    Attributes:
      values: `metric@dim` to a fraction: the table, and the page of the run.
      details: whatever else there is to tell, as JSON values.
      text: lines to print below the table.
      figures: to draw.
      measured: what was timed, if anything was.
    """

    values: dict[str, float]
    details: dict[str, Any]
    text: list[str]
    figures: list[results.Lines | results.HeatMap | results.Pictures]
    measured: results.Measured | None = None


@dataclasses.dataclass(frozen=True)
class Subject:
    """The features of a model and what answers for it.

    Attributes:
      pair: the features.
      dims: to study, increasing.
      seed: of all that is drawn.
      probe: of PROBES, fitted on the training features where there is no checkpoint.
      path: the run's folder, whose heads answer; None: a probe does.
      step: of its checkpoint.
      out: the folder that results go to.
    """

    pair: Pair
    dims: tuple[int, ...]
    seed: int
    probe: str
    path: pathlib.Path | None
    step: int | None
    out: pathlib.Path

    @property
    def classes(self) -> int:
        """One more than the largest label, or as many as the features were written with."""
        return max(self.pair.train.info.num_classes, self.pair.test.info.num_classes)

    @property
    def views(self) -> int:
        """Of how many views of each test image the logits are added."""
        return flips.views_of(self.pair.test.info.identity)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The test labels (N,); ValueError where rows have several."""
        logistic.check_single(self.pair.test.labels, "this study")
        return np.asarray(self.pair.test.labels, np.int64)

    @functools.cached_property
    def train_labels(self) -> np.ndarray:
        """The training labels (N,); ValueError where rows have several."""
        logistic.check_single(self.pair.train.labels, "this study")
        return np.asarray(self.pair.train.labels, np.int64)

    @property
    def answered_by(self) -> str:
        """What the answers come from, in words."""
        return f"the heads of step {self.step}" if self.path else f"a {self.probe} probe of the training features"

    @functools.cached_property
    def heads(self) -> Heads:
        """A linear head for every dim."""
        return heads_at(self, self.dims)

    def decisions(self, confidence: str = "max_softmax") -> adaptive.Decisions:
        """Answers and confidences of every dim on the test rows."""
        return answers.decide(self.pair.test.z, self.heads, confidence)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """Answers (G, N) of every dim on the test rows."""
        return self.decisions().predicted_GxN

    @property
    def correct(self) -> np.ndarray:
        """(G, N) whether they are right."""
        return adaptive.correct(self.predicted, self.labels)


def subject_dims(pair: Pair, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The dims asked for, by default the trained ones; ValueError for one outside 1..D."""
    return dims_of(pair.nesting, dims) if dims else pair.nesting.dims


def heads_at(subject: Subject, dims: tuple[int, ...]) -> Heads:
    """A linear head for each of these dims: the checkpoint's own, or a probe.

    A checkpoint answers at a dim that it was not trained for as its evaluation does: by the next larger head, with the
    mean test embedding in place of what is left out.

    Raises:
      ValueError: for an unknown probe, or features that do not fit.
    """
    train, test = subject.pair.train, subject.pair.test
    if subject.path:
        tensors = trained.head(subject.path, subject.step)
        mean_D = np.asarray(test.z, np.float32).mean(axis=0)
        classes = len(model_heads.linear(tensors, subject.pair.nesting, dims[0])[1])
        if int(test.labels.max()) >= classes:
            raise ValueError(
                f"the test labels reach {int(test.labels.max())}, beyond the {classes} classes of the checkpoint's "
                "heads: leave --workdir out to have a probe answer"
            )
        found = [model_heads.linear(tensors, subject.pair.nesting, m, mean_D) for m in dims]
        # Logits of all views together are so many times those of their mean.
        return Heads(*([subject.views * np.asarray(x, np.float32) for x in parts] for parts in zip(*found)))
    choose("--probe", subject.probe, PROBES)
    return probe_heads(subject, (train.z, train.labels), dims)


def probe_heads(subject: Subject, train: tuple[np.ndarray, np.ndarray], dims: tuple[int, ...]) -> Heads:
    """The heads of a probe fitted on these rows, its penalty chosen on a tenth of them."""
    test, train_classes = subject.pair.test, subject.pair.train.info.num_classes
    problem = linear_probe.make_problem(train, (test.z, test.labels), train_classes, dims, subject.seed)
    if subject.probe == "ridge":
        return ridge.choose(problem.fit_moments, problem.held_moments, problem.held, dims)[0]
    whole = problem.fit_moments + problem.held_moments
    return logistic.choose(problem.fit, problem.fit_moments, problem.held, problem.whole, whole, dims).heads


def by_dim(metric: str, dims: tuple[int, ...], values: np.ndarray) -> dict[str, float]:
    """`metric@dim` to value, without what is not a number."""
    return {f"{metric}@{m}": float(v) for m, v in zip(dims, values) if np.isfinite(v)}
