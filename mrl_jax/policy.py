"""A cascade ready to serve: dims, thresholds and the confidence they were learned by, in one JSON file beside a model.

policy = Policy.load("runs/q/policies/max_softmax-1000.json")
answers, dims_used = policy.apply(jax.nn.softmax(logits_GxNxC))
answers, dims_used = policy.serve(lambda rows, dim: z[rows, :dim] @ kernels[dim] + biases[dim], len(z))
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.special

from mrl_jax.choices import choose
from mrl_jax.evals import adaptive
from mrl_jax.writers import write_json

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which dim answers.

    Attributes:
      dims: of the cascade, increasing.
      thresholds: one for every dim but the last: strictly above it a dim's answer is taken.
      confidence: a key of `adaptive.CONFIDENCES`.
      calibrated_on: what the thresholds were learned on, as JSON values: the data, the rows, the model.

    Raises:
      ValueError: where dims, thresholds and confidence are not of that form.
    """

    dims: tuple[int, ...]
    thresholds: tuple[float, ...]
    confidence: str
    calibrated_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Checks the fields."""
        choose("confidence", self.confidence, adaptive.CONFIDENCES)
        object.__setattr__(self, "dims", tuple(int(m) for m in self.dims))
        object.__setattr__(self, "thresholds", tuple(float(t) for t in self.thresholds))
        adaptive.check_dims(self.dims, len(self.dims))
        if len(self.thresholds) != len(self.dims) - 1 or not np.isfinite(self.thresholds).all():
            raise ValueError(
                f"thresholds={self.thresholds} for dims={self.dims}: give one finite number for every dim but the last"
            )

    def apply(self, probs_GxNxC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Answers (N,) and the dims (N,) they were taken at, from probabilities of every dim."""
        return adaptive.apply_cascade(probs_GxNxC, np.asarray(self.thresholds), self.dims, self.confidence)

    def serve(self, logits: Callable[[np.ndarray, int], np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The same, asking each dim only about the examples that no smaller one was sure of.

        Args:
          logits: `(index_B, dim) -> (B, C)`, the logits of these examples at a dim.
          rows: the number of examples, N.
        """
        answers, used, left = np.empty(rows, np.int32), np.empty(rows, np.int64), np.arange(rows)
        for dim, threshold in zip(self.dims, (*self.thresholds, -np.inf)):
            if not len(left):
                break
            probs = scipy.special.softmax(np.asarray(logits(left, dim), np.float32), axis=1)
            found = adaptive.decide(probs[None], self.confidence)
            sure = found.confidence_GxN[0] > threshold
            answers[left[sure]], used[left[sure]] = found.predicted_GxN[0, sure], dim
            left = left[~sure]
        return answers, used

    def save(self, path: os.PathLike | str) -> None:
        """Writes the file, in one rename."""
        write_json(path, {"format": FORMAT, **dataclasses.asdict(self), "calibrated_on": dict(self.calibrated_on)})

    @classmethod
    def load(cls, path: os.PathLike | str) -> "Policy":
        """What `save` wrote.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it is not a policy.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: `python -m mrl_jax.study adaptive` writes policies")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError("it has another format")
            return cls(**found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a policy of format {FORMAT} ({error}): learn it again") from error
