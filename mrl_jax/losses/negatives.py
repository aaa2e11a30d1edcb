"""Hard negatives at every nested dim: rivals of the matching pair that its own row alone sees.

With B x K of them there is nothing to tile: their logits are as many as K columns more, and autodiff goes through.
"""

import jax
import jax.numpy as jnp

from mrl_jax.losses.tiles import inverse_norms, power_of_two, times
from mrl_jax.nesting import Nesting


def check_negatives(u: jax.Array, negatives: jax.Array, ids: jax.Array | None, own: jax.Array | None) -> None:
    """Raises ValueError unless negatives are (B, K, D) with K > 0, as u, and their ids, if any, integers (B, K)."""
    rows, dims = u.shape
    if negatives.ndim != 3 or negatives.shape[::2] != u.shape or not negatives.shape[1] or negatives.dtype != u.dtype:
        raise ValueError(
            f"negatives are {negatives.dtype}{negatives.shape}; they must be {u.dtype}({rows}, K, {dims}) with K > 0: "
            "K for each row of u"
        )
    if own is None:
        return
    if ids is None or own.shape != negatives.shape[:2] or not jnp.issubdtype(own.dtype, jnp.integer):
        raise ValueError(
            f"negative_ids are {own.dtype}{own.shape}; they must be integers {negatives.shape[:2]}, and ids_B be given"
        )


def rivals(
    u_BxD: jax.Array,
    v_BxD: jax.Array,
    negatives_BxKxD: jax.Array,
    scale_G: jax.Array,
    nesting: Nesting,
    masked_BxK: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The log-sum-exp of a row's negatives (G, B), and whether its match is ahead of them all (G, B).

    Negatives that are masked are none; a row left without any has minus infinity, and its match is ahead.
    """
    # The match goes the same way as the negatives: so equal ones tie, to the bit.
    match_Bx1xD = jax.lax.stop_gradient(v_BxD)[:, None]
    logits = scale_G[:, None, None] * _cosines(u_BxD, jnp.concatenate([match_Bx1xD, negatives_BxKxD], axis=1), nesting)
    match_GxB, logits_GxBxK = logits[:, :, 0], logits[:, :, 1:]
    if masked_BxK is None:
        return jax.nn.logsumexp(logits_GxBxK, axis=2), match_GxB > logits_GxBxK.max(axis=2)
    none_1xB = masked_BxK.all(axis=1)[None]
    logits_GxBxK = jnp.where(masked_BxK[None], -jnp.inf, logits_GxBxK)
    ahead_GxB = match_GxB > logits_GxBxK.max(axis=2)
    # A sum of nothing has no gradient that is a number: such rows are taken out before.
    summed_GxB = jax.nn.logsumexp(jnp.where(none_1xB[:, :, None], 0.0, logits_GxBxK), axis=2)
    return jnp.where(none_1xB, -jnp.inf, summed_GxB), ahead_GxB


def _cosines(u_BxD: jax.Array, x_BxKxD: jax.Array, nesting: Nesting) -> jax.Array:
    """Of every prefix of u with the same prefix of K others, (G, B, K), float32; 0 for a prefix of zeros."""
    (rows, k, full), lows = x_BxKxD.shape, (0, *nesting.dims[:-1])
    u, x = _scaled(u_BxD), _scaled(x_BxKxD.reshape(rows * k, full))
    inverse_u, inverse_x = inverse_norms(u, nesting), inverse_norms(x, nesting).reshape(-1, rows, k)
    x = x.reshape(x_BxKxD.shape)
    parts = [
        jnp.einsum("bd,bkd->bk", u[:, a:b], x[:, :, a:b], preferred_element_type=jnp.float32)
        for a, b in zip(lows, nesting.dims)
    ]
    return jnp.cumsum(jnp.stack(parts), axis=0) * inverse_u[:, :, None] * inverse_x


def _scaled(z_BxD: jax.Array) -> jax.Array:
    return times(z_BxD, jax.lax.stop_gradient(power_of_two(z_BxD)))
