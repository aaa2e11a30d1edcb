"""The gradient of a loss in which all examples of a batch meet, in microbatches (GradCache, Gao et al. 2021).

The embeddings of the whole batch are small, the activations behind them are not. So the microbatches are embedded one
after the other, nothing else being kept; the loss of all embeddings gives the derivative by each; and with it every
microbatch is embedded again and goes backward. The gradient is that of the whole batch at once, for one forward pass
more and the activations of one microbatch. BatchNorm sees microbatches, as in `accumulate`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mrl_jax import accumulate


def value_and_grad(
    embed: Callable[[Any, Any, jax.Array], tuple[Any, Any, Any]],
    loss: Callable[[Any, Any], tuple[jax.Array, Any]],
    params: Any,
    batch: Any,
    key: jax.Array,
    n: int,
) -> tuple[Any, Any, Any]:
    """The gradient by `params`, the loss's second result, and the mean of the models' third over n microbatches.

    Args:
      embed: `(params, rows, key) -> (embeddings, shared, statistics)`, pytrees: arrays with an axis of rows, arrays
        that depend on `params` alone, and floats of which the mean is returned.
      loss: `(embeddings, shared) -> (scalar, anything)`, of the whole batch.
      params: what to differentiate by.
      batch: arrays with an axis of rows; microbatch i has the rows i, i + n, ...
      key: folded with the number of the microbatch.
      n: how many microbatches.
    """
    parts = accumulate.split(batch, n)
    numbers = jnp.arange(n)

    def forward(_, numbered):
        i, rows = numbered
        return None, embed(params, rows, jax.random.fold_in(key, i))

    _, (embeddings, shared, statistics) = jax.lax.scan(forward, None, (numbers, parts))
    shared = jax.tree.map(lambda x: x[0], shared)
    found, (d_rows, d_shared) = _grad(loss, accumulate.join(embeddings), shared)
    # What depends on the parameters alone comes out of every microbatch.
    d_shared = jax.tree.map(lambda x: x / n, d_shared)

    def backward(total, numbered):
        i, rows, d_own = numbered
        _, vjp = jax.vjp(lambda p: embed(p, rows, jax.random.fold_in(key, i))[:2], params)
        return jax.tree.map(jnp.add, total, vjp((d_own, d_shared))[0]), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, _ = jax.lax.scan(backward, zeros, (numbers, parts, accumulate.split(d_rows, n)))
    return grads, found, jax.tree.map(lambda x: x.mean(axis=0), statistics)


def _grad(loss, embeddings, shared):
    (_, found), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(embeddings, shared)
    return found, grads
