"""One clear error for arguments that do not fit together, before anything is traced."""

import jax
import jax.numpy as jnp

from mrl_jax.losses.plan import Head
from mrl_jax.nesting import Nesting


def check_head(z: jax.Array, kernels: list, biases: list, nesting: Nesting, tied: bool) -> Head:
    """The head, with zeros for a bias that is None.

    Raises:
      ValueError: if z, the kernels or the biases do not have the shapes that the nesting asks for.
    """
    if z.ndim != 2 or z.shape[1] != nesting.full or not z.shape[0]:
        raise ValueError(f"z has shape {z.shape}; it must be (B, {nesting.full}) with B > 0, as in {nesting.dims=}")
    rows = (nesting.full,) if tied else nesting.dims
    if len(kernels) != len(rows) or len(biases) != len(rows):
        raise ValueError(f"{len(kernels)} kernels and {len(biases)} biases for {len(rows)} dims: give one per dim")
    n_classes = kernels[0].shape[-1]
    for g, (kernel, bias, m) in enumerate(zip(kernels, biases, rows)):
        if kernel.shape != (m, n_classes) or not n_classes:
            raise ValueError(f"kernel {g} has shape {kernel.shape}; it must be ({m}, {n_classes or 'C > 0'})")
        if bias is not None and bias.shape != (n_classes,):
            raise ValueError(f"bias {g} has shape {bias.shape}; it must be ({n_classes},), as kernel {kernel.shape}")
    zeros = jnp.zeros((n_classes,), jnp.float32)
    return Head(tuple(kernels), tuple(zeros if bias is None else bias for bias in biases))


def check_labels(labels: jax.Array, rows: int) -> None:
    """Raises ValueError unless labels are integers of shape (rows,)."""
    if labels.shape != (rows,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}{labels.shape}; they must be integers of shape ({rows},), as z")


def check_targets(targets: jax.Array, shape: tuple[int, int]) -> None:
    """Raises ValueError unless targets have the shape."""
    if targets.shape != shape:
        raise ValueError(f"targets have shape {targets.shape}; they must have {shape}: the rows of z, the classes")


def check_smoothing(label_smoothing: float) -> None:
    """Raises ValueError unless the smoothing is in 0..1."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing={label_smoothing} must be in 0..1")


def check_teacher(z_BxD: jax.Array, teacher_BxD: jax.Array, nesting: Nesting) -> None:
    """Raises ValueError unless features and those of their teacher are of one shape, (B, D)."""
    if z_BxD.ndim != 2 or z_BxD.shape[1] != nesting.full or teacher_BxD.shape != z_BxD.shape:
        raise ValueError(
            f"z has shape {z_BxD.shape} and the teacher's {teacher_BxD.shape}; both must be (B, {nesting.full}), as in "
            f"{nesting.dims=}"
        )
