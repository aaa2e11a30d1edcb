"""A backbone beside one that was trained before and is what it learns from (Asymmetric-R)."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from mrl_jax.models.pixels import standardize


class Taught(nn.Module):
    """A student and its teacher, which sees the same images as in evaluation.

    Attributes:
      student: a backbone, standardised images to (B, D).
      teacher: likewise; `config.optim.freeze='^teacher/'` keeps it as it is.
      full: the features that are used of both; the others are cut off (FF-k).
      mean: see `pixels.standardize`.
      std: see `pixels.standardize`.
      dtype: of the computation.
    """

    student: nn.Module
    teacher: nn.Module
    full: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The student's embedding (B, D) of `image`, and in training the teacher's as `teacher/z`."""
        x_BxHxWxC = standardize(batch["image"], self.mean, self.std, self.dtype)
        z = self.student(x_BxHxWxC, train=train)[:, : self.full]
        if not train and not self.is_initializing():
            return z, {}
        return z, {"teacher/z": jax.lax.stop_gradient(self.teacher(x_BxHxWxC, train=False)[:, : self.full])}
