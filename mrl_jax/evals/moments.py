"""Second moments of features and targets: all that ridge regression, PCA and their prefixes need of the data.

One pass over the rows costs N D (D + 1) / 2 multiply-adds at the least, since the Gram matrix is symmetric; panels of
columns, each multiplied with itself and those after it, come to (1 + PANEL / D) times that. Products are float32, and
sums over blocks compensated. Features are shifted by the mean of the first block, so that a mean far from zero costs
no digits.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals.streams import Stream, compensated, fold, value, zeros_like

PANEL = 256


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over rows of features z less a shift and of targets y (one or multi-hot); float64.

    Attributes:
      rows: N.
      shift: (D,), what was taken off every row.
      sum_z: (D,).
      sum_y: (C,), how often each class occurs.
      gram: (D, D), sum of z z^T.
      cross: (D, C), sum of z y^T.
    """

    rows: int
    shift: np.ndarray
    sum_z: np.ndarray
    sum_y: np.ndarray
    gram: np.ndarray
    cross: np.ndarray

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows, which must have been shifted alike."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)}
        return Moments(**sums | {"shift": self.shift})

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """Gram (D, D) and cross (D, C) of features less their mean."""
        mean = self.sum_z / self.rows
        return self.gram - np.outer(self.sum_z, mean), self.cross - np.outer(mean, self.sum_y)

    @property
    def mean_z(self) -> np.ndarray:
        """The mean of the features, not shifted, (D,)."""
        return self.shift + self.sum_z / self.rows

    @property
    def mean_y(self) -> np.ndarray:
        """The share of rows of each class, (C,)."""
        return self.sum_y / self.rows

    def projected(self, matrix_DxK: np.ndarray) -> "Moments":
        """The moments of z @ matrix, without another pass."""
        p = matrix_DxK
        return Moments(self.rows, self.shift @ p, self.sum_z @ p, self.sum_y, p.T @ self.gram @ p, p.T @ self.cross)


def accumulate(stream: Stream, classes: int, shift: np.ndarray | None = None) -> Moments:
    """The moments of a stream in one pass.

    Args:
      stream: of (z, labels).
      classes: C.
      shift: (D,); None: the mean of the first block.

    Raises:
      ValueError: if a feature is not finite.
    """
    dim = stream.z.shape[1]
    if shift is None:
        shift = np.asarray(jnp.mean(stream.first().astype(jnp.float32), axis=0))
    own = jnp.asarray(shift, jnp.float32)
    shapes = jax.eval_shape(partial(_terms, classes=classes), *_one_row(stream, dim), own)

    def step(total, z, labels):
        return _add(total, z, labels, own, classes=classes)

    sum_z, sum_y, panels, cross = value(fold(step, zeros_like(shapes), stream))
    if not np.isfinite(sum_z).all():
        raise ValueError(
            f"feature {int(np.flatnonzero(~np.isfinite(sum_z))[0])} is not finite in some row: the model has diverged"
        )
    upper = np.zeros((dim, dim))
    for start, panel in zip(range(0, dim, PANEL), panels):
        upper[start : start + PANEL, start:] = panel
    gram = np.triu(upper) + np.triu(upper, 1).T
    return Moments(len(stream), np.asarray(own, np.float64), sum_z, sum_y, gram, cross.T)


def _one_row(stream: Stream, dim: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return (
        jax.ShapeDtypeStruct((1, dim), jnp.float32),
        jax.ShapeDtypeStruct((1, *stream.labels.shape[1:]), jnp.int32),
    )


@partial(jax.jit, static_argnames="classes", donate_argnums=0)
def _add(total, z, labels, shift, *, classes):
    return compensated(total, _terms(z, labels, shift, classes=classes))


def _terms(z_BxD, labels, shift_D, *, classes):
    """Sums of one block: features, targets, panels of the Gram matrix from the diagonal on, and cross (C, D)."""
    z_BxD = z_BxD.astype(jnp.float32) - shift_D[None]
    starts = range(0, z_BxD.shape[1], PANEL)
    panels = [jnp.matmul(z_BxD[:, i : i + PANEL].T, z_BxD[:, i:], precision="highest") for i in starts]
    # Fillings go to a class of their own, which is cut off.
    columns = jnp.where(labels < 0, classes, labels).reshape(len(z_BxD), -1)
    cross = sum(jax.ops.segment_sum(z_BxD, columns[:, i], classes + 1) for i in range(columns.shape[1]))
    counts = jax.ops.segment_sum(jnp.ones(columns.size), columns.reshape(-1), classes + 1)
    return z_BxD.sum(axis=0), counts[:-1], tuple(panels), cross[:-1]
