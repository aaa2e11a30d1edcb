"""Linear heads, one per dim, and how often they are right."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals.streams import Stream


class Heads(NamedTuple):
    """Linear classifiers of the prefixes of the features: logits of dim m are z[:, :m] @ kernel + bias."""

    kernels: list[np.ndarray]  # (m, C) float32 each
    biases: list[np.ndarray]  # (C,) float32 each


def logits(z_BxD: jax.Array, kernel_mxC: jax.Array, bias_C: jax.Array) -> jax.Array:
    """(B, C) of a head of the first m features, in float32."""
    z_Bxm = z_BxD.astype(jnp.float32)[:, : len(kernel_mxC)]
    return jnp.matmul(z_Bxm, kernel_mxC, precision="highest") + bias_C[None]


def accuracy(stream: Stream, heads: Heads) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 and top-5 accuracy of every head, (G,) each, in one pass.

    Where rows have several labels, one of them among the first classes counts; rows without a label do not.
    """
    heads = jax.tree.map(jnp.asarray, heads)
    found = [np.asarray(ranks(z, labels, heads)) for z, labels in stream]
    ranks_GxN = np.concatenate(found, axis=1)
    ranks_GxN = ranks_GxN[:, ranks_GxN[0] >= 0]
    return (ranks_GxN < 1).mean(axis=1), (ranks_GxN < 5).mean(axis=1)


@partial(jax.jit)
def ranks(z_BxD: jax.Array, labels: jax.Array, heads: Heads) -> jax.Array:
    """(G, B) int: how many classes come before the best of the row's labels (-1: it has none); ties by class order."""
    labels_BxL = labels.reshape(len(labels), -1)

    def of(kernel, bias):
        found = logits(z_BxD, kernel, bias)
        own = jnp.take_along_axis(found, jnp.maximum(labels_BxL, 0), axis=1)
        own = jnp.where(labels_BxL >= 0, own, -jnp.inf)
        best = own.max(axis=1, keepdims=True)
        first = jnp.where(own == best, labels_BxL, found.shape[1]).min(axis=1, keepdims=True)
        earlier = jnp.arange(found.shape[1])[None] < first
        return jnp.sum((found > best) | ((found == best) & earlier), axis=1)

    found = jnp.stack([of(kernel, bias) for kernel, bias in zip(*heads)])
    return jnp.where((labels_BxL >= 0).any(axis=1)[None], found, -1)
