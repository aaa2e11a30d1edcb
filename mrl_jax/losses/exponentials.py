"""Exponentials of whole tiles of logits: where there is no unit for them, they are a large part of a nested loss."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Coefficients of the polynomial that is 2^f for f in -1/2..1/2, of least relative error (8e-8), lowest first.
_POWERS = (1.0000001, 0.693146944, 0.240221202, 0.0555071309, 0.00967554096, 0.00132764725)
# 2^x is a normal float32 from the lowest x on; added to an integer, the last one leaves it in the lowest bits.
_LOWEST, _HIGHEST, _INTEGER = -126.0, 127.0, 1.5 * 2**23


@jax.custom_jvp
def exp(x: jax.Array) -> jax.Array:
    """e^x of float32 logits: on a CPU in a third of the time of `jax.numpy.exp`, elsewhere that function itself.

    On a CPU the relative error is below 3e-7 + 1e-7 |x|, about that of rounding x itself; the result is 0 below -87
    and grows no more above 88. NaN stays NaN.
    """
    if jax.default_backend() != "cpu" or x.dtype != jnp.float32:
        return jnp.exp(x)
    log2 = jnp.minimum(x * np.float32(np.log2(np.e)), np.float32(_HIGHEST))
    whole = jnp.round(log2)
    f, power = log2 - whole, jnp.float32(_POWERS[-1])
    for coefficient in _POWERS[-2::-1]:
        power = power * f + np.float32(coefficient)
    exponent = lax.bitcast_convert_type(whole + np.float32(_INTEGER), jnp.int32) << 23
    power = lax.bitcast_convert_type(lax.bitcast_convert_type(power, jnp.int32) + exponent, jnp.float32)
    return jnp.where(log2 < _LOWEST, 0.0, power)


@exp.defjvp
def _exp_jvp(primals, tangents):
    y = exp(*primals)
    return y, y * tangents[0]
