"""Linear classifiers over the nested prefixes of an embedding (MRL, section 3).

A head owns parameters and computes nothing while training: the nested losses take the embedding and the kernels, so
that the logits of all dims need not exist at once. `logits` is for evaluation.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from mrl_jax.choices import choose
from mrl_jax.nesting import Nesting

HEADS = ("mrl", "mrl_e", "ff")
INITS = ("uniform", "zeros", "simplex")


class Head(nn.Module):
    """The parameters of a classifier, float32.

    Attributes:
      kind: "mrl", one head per nested dim m: `kernel_{m}` (m, C) and `bias_{m}` (C,). "mrl_e", one head whose first m
        rows serve dim m, with one bias for all dims: `kernel` (D, C) and `bias` (C,). "ff", the fixed-feature baseline,
        which reads the first k = `nesting.full` features only: `kernel` (k, C) and `bias` (C,).
      nesting: the nested dims.
      num_classes: C.
      init: "uniform" in +-1/sqrt(m), the default of torch's Linear and so of the published runs; "zeros"; or "simplex",
        class vectors of unit length as far from each other as can be, without bias: for a head that is not trained.
    """

    kind: str
    nesting: Nesting
    num_classes: int
    init: str = "uniform"

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        """The parameters by name."""
        dim_of = {f"_{m}": m for m in self.nesting.dims} if self.kind == "mrl" else {"": self.nesting.full}
        parameters = {}
        for suffix, m in dim_of.items():
            bound = m**-0.5 if self.init == "uniform" else 0.0
            for name, shape in (("kernel", (m, self.num_classes)), ("bias", (self.num_classes,))):
                initial = _simplex if self.init == "simplex" and name == "kernel" else _uniform
                parameters[name + suffix] = self.param(name + suffix, initial, shape, bound)
        return parameters


def _simplex(key: jax.Array, shape: tuple[int, int], bound: float) -> jax.Array:
    """The corners of a regular simplex around 0 as columns (m, C), in the first C - 1 of m dims."""
    del key, bound
    dim, classes = shape
    if dim < classes - 1:
        raise ValueError(
            f"model.head_init='simplex' puts {classes} classes into {classes - 1} dims, and a head has {dim} only: "
            "take a larger embedding, and head='ff' or 'mrl_e'"
        )
    corners = scipy.linalg.helmert(classes) * (classes / (classes - 1)) ** 0.5
    return jnp.zeros(shape).at[: classes - 1].set(corners.astype(np.float32))


def _uniform(key: jax.Array, shape: tuple[int, ...], bound: float) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def check(head: str, nesting: Nesting, embed_dim: int) -> None:
    """Raises ValueError unless such a head fits an embedding of `embed_dim` features."""
    choose("head", head, HEADS)
    if head != "ff" and nesting.full != embed_dim:
        raise ValueError(
            f"nesting.dims={nesting.dims} ends at {nesting.full}, but the embedding has {embed_dim} features: "
            f"head={head!r} needs the last dim to be {embed_dim}; change the dims or the size of the backbone"
        )
    if head == "ff" and (len(nesting) != 1 or nesting.full > embed_dim):
        raise ValueError(
            f"nesting.dims={nesting.dims}: head='ff' needs exactly one dim, at most the embedding's {embed_dim}; "
            "use Nesting.fixed(dim), or head='mrl' or 'mrl_e' for several"
        )


def logits(
    z_BxD: jax.Array, out: Mapping[str, jax.Array], nesting: Nesting, dim: int, mean_D: jax.Array | None = None
) -> jax.Array:
    """The logits (B, C), float32, of the first `dim` features.

    A trained dim has its own head. Dims between (MRL, section 4.2) take the next larger trained head, and the mean in
    place of the features beyond `dim` that it reads: that head expects them, and zeros would shift every class. A tied
    head serves every dim by the first rows of its kernel, as it was trained to.

    Args:
      z_BxD: the embedding, not normalised.
      out: the named tensors that came with it, of which the `head/...` ones are read.
      nesting: the nesting that the head was built with.
      dim: number of features to use.
      mean_D: the mean embedding, for dims between those of independent heads; None for zeros.

    Raises:
      ValueError: if dim is not in 1..D.
    """
    if not 1 <= dim <= z_BxD.shape[-1]:
        raise ValueError(f"dim={dim} is not in 1..{z_BxD.shape[-1]}, the size of the embedding")
    kernel_dxC, bias_C = linear(out, nesting, dim, mean_D)
    product = jnp.dot(z_BxD[:, :dim], kernel_dxC.astype(z_BxD.dtype), preferred_element_type=jnp.float32)
    return product + bias_C[None, :]


def linear(
    out: Mapping[str, jax.Array], nesting: Nesting, dim: int, mean_D: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The kernel (dim, C) and bias (C,), float32, that `logits` applies to the first `dim` features.

    Raises:
      ValueError: if dim is larger than the nesting.
    """
    if dim > nesting.full:
        raise ValueError(f"dim={dim} is not in 1..{nesting.full}, the features that the head reads")
    suffix = "" if "head/kernel" in out else f"_{min(m for m in nesting.dims if m >= dim)}"
    kernel, bias_C = out[f"head/kernel{suffix}"], out[f"head/bias{suffix}"].astype(jnp.float32)
    if suffix and mean_D is not None:
        bias_C = bias_C + jnp.dot(mean_D[dim : len(kernel)], kernel[dim:], preferred_element_type=jnp.float32)
    return kernel[:dim], bias_C
