"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382): residual branches left out, example by example."""

import jax
import jax.numpy as jnp


def drop_path(x: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    """x (B, ...) with each row zeroed with probability `rate`, the others scaled to the same expectation."""
    keep = 1.0 - rate
    kept_Bx1 = jax.random.bernoulli(key, keep, (x.shape[0], *[1] * (x.ndim - 1)))
    return jnp.where(kept_Bx1, x / jnp.asarray(keep, x.dtype), jnp.zeros((), x.dtype))


def rates(last: float, depth: int) -> list[float]:
    """The rate of each of `depth` layers: linear, from 0 at the first to `last`; a single layer has the last."""
    return [last * i / (depth - 1) for i in range(depth)] if depth > 1 else [last] * depth


def check_rate(field: str, rate: float) -> None:
    """Raises ValueError unless the rate is a probability below 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"{field}={rate} must be in [0, 1)")
