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
      dims: the nested dims, each of which learns its own; empty: one scale and bias serve them all.
    """

    scale: float
    max_scale: float
    bias: float
    dims: tuple[int, ...] = ()

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        """`pair/scale` and `pair/bias`, scalars or (G,), and for people `log/temperature`, or one for each dim."""
        shape = (len(self.dims),) if self.dims else ()
        log_scale = self.param("log_scale", lambda key: jnp.full(shape, math.log(self.scale), jnp.float32))
        bias = self.param("bias", lambda key: jnp.full(shape, self.bias, jnp.float32))
        scale = jnp.exp(_at_most(log_scale, math.log(self.max_scale)))
        logged = {f"log/temperature@{dim}": 1 / scale[g] for g, dim in enumerate(self.dims)}
        return {"pair/scale": scale, "pair/bias": bias} | (logged or {"log/temperature": 1 / scale})


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
