"""The answers of linear heads at every dim to rows of features, block by block: no logits of all rows are kept."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.evals import adaptive
from mrl_jax.evals.linear_heads import Heads, logits

_BLOCK_VALUES = 1 << 23  # logits at a time


def decide(z_NxD: np.ndarray, heads: Heads, confidence: str = "max_softmax") -> adaptive.Decisions:
    """What every head answers, and how sure it is, as `adaptive.decide` of the softmax."""
    found = []
    for _, z_BxD in _blocks(z_NxD, heads):
        each = [adaptive.decide(np.asarray(_softmax(z_BxD, *h))[None], confidence) for h in zip(*heads)]
        found.append([np.concatenate(parts) for parts in zip(*each)])
    return adaptive.Decisions(*(np.concatenate(parts, axis=1) for parts in zip(*found)))


def within(z_NxD: np.ndarray, heads: Heads, group_C: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """(G, N) the answers when only the classes of a row's own group are asked for.

    Args:
      z_NxD: features.
      heads: of G dims.
      group_C: the group of every class.
      group_N: the group of every row, which some class has.
    """
    group_C, found = jnp.asarray(group_C), []
    for rows, z_BxD in _blocks(z_NxD, heads):
        own = jnp.asarray(group_N[rows])
        found.append(np.stack([np.asarray(_within(z_BxD, *h, group_C, own)) for h in zip(*heads)]))
    return np.concatenate(found, axis=1)


def _blocks(z_NxD: np.ndarray, heads: Heads) -> Iterator[tuple[slice, jax.Array]]:
    size = max(_BLOCK_VALUES // len(heads.biases[0]), 1)
    for start in range(0, len(z_NxD), size):
        rows = slice(start, start + size)
        yield rows, jnp.asarray(np.asarray(z_NxD[rows], np.float32))


@jax.jit
def _softmax(z_BxD, kernel, bias):
    return jax.nn.softmax(logits(z_BxD, kernel, bias), axis=1)


@jax.jit
def _within(z_BxD, kernel, bias, group_C, group_B):
    mine = group_C[None, :] == group_B[:, None]
    return jnp.argmax(jnp.where(mine, logits(z_BxD, kernel, bias), -jnp.inf), axis=1)
