"""Floating-point operations of a function, counted from its jaxpr, and the peak of known accelerators."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Accelerator(NamedTuple):
    """A device by its usual name: dense bf16 operations per second, bytes of memory, a pattern of jax's device_kind."""

    peak: float
    memory: float
    kind: str


# One chip (v2 and v3: one core of two), as the vendors' data sheets have it. JAX calls v5e "TPU v5 lite", v5p "TPU v5".
ACCELERATORS = {
    "a100": Accelerator(312e12, 80e9, r"\bA100\b"),
    "a100-40gb": Accelerator(312e12, 40e9, r"\bA100\b"),
    "h100": Accelerator(989e12, 80e9, r"\bH100\b"),
    "h200": Accelerator(989e12, 141e9, r"\bG?H200\b"),
    "l4": Accelerator(121e12, 24e9, r"\bL4\b"),
    "v100": Accelerator(125e12, 32e9, r"\bV100\b"),
    "v2": Accelerator(22.5e12, 8 * 2**30, "TPU v2$"),
    "v3": Accelerator(61.5e12, 16 * 2**30, "TPU v3$"),
    "v4": Accelerator(275e12, 32 * 2**30, "TPU v4$"),
    "v5e": Accelerator(197e12, 16 * 2**30, "TPU v5( lite|e)$"),
    "v5p": Accelerator(459e12, 95 * 2**30, "TPU v5p?$"),
    "v6e": Accelerator(918e12, 32 * 2**30, "TPU v6( lite|e)$"),
}


def peak(device: Any) -> float | None:
    """The peak bf16 operations per second of a device; None where it is not known (a CPU, say)."""
    return next((known.peak for known in ACCELERATORS.values() if re.search(known.kind, device.device_kind)), None)


def count(fn: Callable, *args: Any) -> int:
    """The operations of all matrix products and convolutions in fn(*args), a multiply-add as two; loops at full length.

    Counted before compilation, over all devices together. Elementwise work is left out. What a rematerialised or
    chunked function computes again is counted again: in such a run `train/mfu` is the utilisation of the hardware
    (HFU), above MFU, which counts no recomputation.
    """
    return of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def of_jaxpr(jaxpr: Any) -> int:
    """The operations of a jaxpr, as `count` counts them."""
    return sum(_of_equation(eqn) for eqn in jaxpr.eqns)


def _of_equation(eqn: Any) -> int:
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        depth = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
        return 2 * depth * math.prod(eqn.outvars[0].aval.shape)
    if eqn.primitive.name == "conv_general_dilated":
        return _of_convolution(eqn)
    inner = [of_jaxpr(j) for value in eqn.params.values() for j in _jaxprs(value)]
    if eqn.primitive.name == "scan":
        return eqn.params["length"] * sum(inner)
    if eqn.primitive.name == "shard_map":  # its jaxpr is that of one device
        sizes = eqn.params["mesh"].shape
        return math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"]) * sum(inner)
    return max(inner, default=0) if eqn.primitive.name == "cond" else sum(inner)


def _of_convolution(eqn: Any) -> int:
    numbers = eqn.params["dimension_numbers"]
    right, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    # A transposed convolution inserts zeros between the inputs; products with those are not work.
    dilation = math.prod(eqn.params["lhs_dilation"])
    kernel = math.prod(right[d] for d in numbers.rhs_spec[2:]) * right[numbers.rhs_spec[1]]
    return 2 * math.prod(out) * kernel // (dilation * eqn.params["batch_group_count"])


def _jaxprs(value: Any) -> list:
    values = value if isinstance(value, list | tuple) else [value]
    return [v.jaxpr if hasattr(v, "jaxpr") else v for v in values if hasattr(v, "jaxpr") or hasattr(v, "eqns")]
