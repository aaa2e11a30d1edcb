"""The learned temperature and bias of the similarity of pairs."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class Temperature(nn.Module):
    """The scale (1 / temperature) of cosines, and what is added to them.

    Attributes:
      scale: at first.
      max_scale: it is never above; CLIP's 100.
      bias: at first; the sigmoid loss begins at -10 (SigLIP), the softmax loss does not see it.
    """

    scale: float
    max_scale: float
    bias: float

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        """`pair/scale` and `pair/bias`, scalars, and `log/temperature`, for people."""
        start = math.log(self.scale)
        log_scale = self.param("log_scale", lambda key: jnp.asarray(start, jnp.float32))
        bias = self.param("bias", lambda key: jnp.asarray(self.bias, jnp.float32))
        scale = jnp.exp(_at_most(log_scale, math.log(self.max_scale)))
        return {"pair/scale": scale, "pair/bias": bias, "log/temperature": 1 / scale}


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _at_most(x: jax.Array, limit: float) -> jax.Array:
    """min(x, limit), with the gradient beyond the limit of what leads back: momentum may have carried x there."""
    return jnp.minimum(x, limit)


def _at_most_fwd(x, limit):
    return jnp.minimum(x, limit), x > limit


def _at_most_bwd(limit, beyond, gradient):
    del limit
    return (jnp.where(beyond & (gradient < 0), 0.0, gradient),)


_at_most.defvjp(_at_most_fwd, _at_most_bwd)
