"""What is minimised: a function of the model's outputs and the batch, chosen by name in the config.

An objective is the only meeting point of models and losses. It gets the embedding `z` (B, D), the flat dict `out` of
named tensors that the model gave with it (among them its head's parameters) and the batch, and returns a NestedLoss.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mrl_jax import losses
from mrl_jax.nesting import Nesting

Objective = Callable[[jax.Array, Mapping[str, jax.Array], Mapping[str, jax.Array]], losses.NestedLoss]


def softmax(nesting: Nesting, *, label_smoothing: float = 0.0, chunk: int = 0) -> Objective:
    """Nested softmax cross-entropy on `label` (B,); independent heads where `out` has one per dim, else the tied one.

    A batch of two labels a row (see `mixing`) has the target mix x label + (1 - mix) x label_2.
    """

    def objective(z, out, batch):
        options = {"label_smoothing": label_smoothing, "chunk": chunk or None}
        if "head/kernel" in out:
            kernels, biases = [_as(z.dtype, out["head/kernel"])], [out["head/bias"]]
            nested = losses.nested_softmax(z, kernels[0], biases[0], batch["label"], nesting, **options)
        else:
            kernels = [_as(z.dtype, out[f"head/kernel_{m}"]) for m in nesting.dims]
            biases = [out[f"head/bias_{m}"] for m in nesting.dims]
            nested = losses.nested_softmax_untied(z, kernels, biases, batch["label"], nesting, **options)
        if "mix" not in batch:
            return nested
        second = (batch["label"], batch["label_2"], batch["mix"])
        return losses.add_second_label(nested, z, kernels, biases, *second, nesting, label_smoothing=label_smoothing)

    return objective


def binary(nesting: Nesting, *, chunk: int = 0) -> Objective:
    """Nested sigmoid cross-entropy; `label` (B,) or (B, L) holds the classes of an example, -1 for none; tied heads.

    A batch of two labels a row (see `mixing`) has the targets mix x label + (1 - mix) x label_2.
    """

    def objective(z, out, batch):
        if "head/kernel" not in out:
            raise ValueError("loss.name='binary' needs one kernel for every dim: set head='mrl_e' or head='ff'")
        kernel, bias = _as(z.dtype, out["head/kernel"]), out["head/bias"]
        targets = multi_hot(batch["label"], bias.shape[0])
        if "mix" in batch:
            mix_Bx1, second = batch["mix"][:, None], multi_hot(batch["label_2"], bias.shape[0])
            targets = mix_Bx1 * targets + (1 - mix_Bx1) * second
        return losses.nested_binary(z, kernel, bias, targets, nesting, chunk=chunk or None)

    return objective


def multi_hot(label: jax.Array, num_classes: int) -> jax.Array:
    """Booleans (B, C): does `label` (B,) or (B, L) hold the class? Made on the device, split as the classes are."""
    label_BxL = label[:, None] if label.ndim == 1 else label
    return jnp.any(label_BxL[:, :, None] == jnp.arange(num_classes)[None, None, :], axis=1)


OBJECTIVES: dict[str, Callable[..., Any]] = {"binary": binary, "softmax": softmax}
MULTI_LABEL = ("binary",)  # those that take several labels an example


def _as(dtype: Any, kernel: jax.Array) -> jax.Array:
    return kernel.astype(dtype)
