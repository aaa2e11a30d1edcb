"""What every probe starts from: training rows with their split and moments, test rows, and the dims."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals.moments import Moments, accumulate
from mrl_jax.evals.streams import Stream, hold_out


class Problem(NamedTuple):
    """Training rows with their split and moments, test rows, the dims, and the head that was trained, if known."""

    fit: Stream
    held: Stream
    whole: Stream
    test: Stream
    fit_moments: Moments
    held_moments: Moments
    dims: tuple[int, ...]
    seed: int
    head: tuple[np.ndarray, np.ndarray] | None = None  # kernel (D, C) and bias (C,)


def make_problem(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: int,
    dims: Sequence[int],
    seed: int = 0,
    head: tuple[np.ndarray, np.ndarray] | None = None,
) -> Problem:
    """Splits the training rows and takes their moments, in one pass.

    Args:
      train: features (N, D), in memory or mapped, and labels (N,) or (N, L) padded with -1.
      test: likewise.
      classes: every label is below it.
      dims: of the prefixes, increasing.
      seed: of the split and of all that is random later.
      head: kernel (D, C) and bias (C,) of a classifier of the features.

    Raises:
      ValueError: if labels or sizes do not fit.
    """
    for name, (z, labels) in (("training", train), ("test", test)):
        if len(z) != len(labels) or not len(z) or z.shape[1] < max(dims):
            raise ValueError(f"{name} features {z.shape} with labels {labels.shape} do not fit dims up to {max(dims)}")
        if int(labels.max()) >= classes:
            raise ValueError(f"the {name} labels reach {int(labels.max())}, beyond the {classes} classes of training")
    if head is not None and (head[0].shape != (train[0].shape[1], len(head[1])) or len(head[1]) < classes):
        raise ValueError(
            f"the head's kernel {head[0].shape} and bias {head[1].shape} do not fit {train[0].shape[1]} features and "
            f"{classes} classes"
        )
    fit_index, held_index = hold_out(len(train[0]), seed)
    fit, held = Stream(*train, fit_index), Stream(*train, held_index)
    fit_moments = accumulate(fit, classes)
    held_moments = accumulate(held, classes, fit_moments.shift)
    return Problem(fit, held, Stream(*train), Stream(*test), fit_moments, held_moments, tuple(dims), seed, head)


def projected(problem: Problem, matrix_DxK: np.ndarray, dims: tuple[int, ...]) -> Problem:
    """The same rows with features @ matrix, at other dims; their moments cost no further pass."""
    project = projection(matrix_DxK)
    streams = (s.projected(project) for s in problem[:4])
    moments = (m.projected(matrix_DxK) for m in (problem.fit_moments, problem.held_moments))
    return Problem(*streams, *moments, dims, problem.seed)


def projection(matrix_DxK: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """The jitted map z -> z @ matrix, in float32."""
    matrix = jnp.asarray(matrix_DxK, jnp.float32)
    return jax.jit(lambda z: jnp.matmul(z, matrix, precision="highest"))


def rows_of(problem: Problem, *, centred: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Features of the test and of all training rows on the host, less the mean of training where `centred`.

    Mapped or centred features are held in memory, (N, K) float32.
    """
    offset = (problem.fit_moments + problem.held_moments).mean_z if centred else None
    return _on_host(problem.test, offset), _on_host(problem.whole, offset)


def _on_host(stream: Stream, offset: np.ndarray | None) -> np.ndarray:
    if offset is None and not stream.is_projected:
        return stream.z
    z = np.concatenate([np.asarray(z, np.float32) for z, _ in stream])
    return z if offset is None else z - offset.astype(np.float32)[None]
