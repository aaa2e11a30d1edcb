"""Every row of u against every row of v at every nested dim, in one pass over tiles with its own backward pass.

The dot products of dim m_g are those of dim m_{g-1} plus u_block_g @ v_block_g^T, so one full product passes through
every level; divided by the norms of both prefixes they are the cosines C_g, and the logits are
S_g = scale_g C_g + bias_g. In the backward pass, with d_g the derivative of the loss by S_g, iu_g and iv_g the inverse
norms of the prefixes, and
    R_g = sum over h >= g of scale_h d_h iu_h iv_h^T,    y_g = sum over the columns of d_g C_g,
    du_block_g = R_g @ v_block_g - (sum over h >= g of scale_h y_h iu_h^2) u_block_g,
and alike for v by columns. Tiles are computed again: the memory holds a few of them, never a matrix of all pairs.

Sums and statistics are float32; products take the dtype of u and v, to which R is rounded, and sum in float32.
"""

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from mrl_jax.losses.plan import product
from mrl_jax.losses.tiles import (
    Layout,
    Side,
    every_pair,
    inverse_norms,
    make_layout,
    power_of_two,
    replace,
    starts,
    times,
)
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting


class Criterion(Protocol):
    """What a loss does with the logits of all pairs; hashable."""

    biased: bool  # whether the loss depends on the bias

    def statistics(self, layout: Layout, u: Side, v: Side, scale_G: jax.Array, bias_G: jax.Array, others):
        """Per-example losses (G, B), `correct` (G, B) among all rows of v, and what `residuals` needs.

        `others` (G, B) is the log-sum-exp of rivals that a row of u has besides the rows of v, or None.
        """

    def residuals(self, layout: Layout, saved, weights_GxB: jax.Array, run, bias_G: jax.Array):
        """`run(residual, row_extra, column_extra, matching_GxB)`, with the derivatives by the logits.

        `residual(g, cosine_scaled, row, column)` is that of one level of a tile of pairs that do not match, and
        matching_GxB the one of the pairs that do. weights_GxB are the derivatives by the per-example losses.
        """

    def by_others(self, saved, weights_GxB: jax.Array, others_GxB: jax.Array) -> jax.Array:
        """The derivative by `others`, (G, B); only of losses that are given any."""


# A scale nearer to 0 counts as this one.
_LEAST = 1e-20
Ids = tuple[jax.Array | None, jax.Array | None]  # of the rows of u, and of those of v


def check_pairs(u: jax.Array, v: jax.Array, nesting: Nesting, ids: jax.Array | None, v_ids: jax.Array | None) -> Ids:
    """The ids of both sides, which are `ids` where v has none of its own.

    Raises:
      ValueError: unless u and v are of one shape, (B, D), and of one dtype, and ids, if any, integers (B,) or (B, I).
    """
    if ids is not None and (ids.ndim > 2 or ids.shape[:1] != u.shape[:1] or not jnp.issubdtype(ids.dtype, jnp.integer)):
        raise ValueError(
            f"ids are {ids.dtype}{ids.shape}; they must be integers of shape {u.shape[:1]} or (B, I), as the rows of u"
        )
    if v_ids is not None and (ids is None or (v_ids.shape, v_ids.dtype) != (ids.shape, ids.dtype)):
        as_ids = "and there are no ids_B" if ids is None else f"they must be as ids_B, {ids.dtype}{ids.shape}"
        raise ValueError(f"v_ids are {v_ids.dtype}{v_ids.shape}; {as_ids}")
    if u.ndim != 2 or u.shape[1] != nesting.full or not u.shape[0]:
        raise ValueError(f"u has shape {u.shape}; it must be (B, {nesting.full}) with B > 0, as in {nesting.dims=}")
    if v.shape != u.shape or v.dtype != u.dtype:
        raise ValueError(f"v is {v.dtype}{v.shape}; it must be as u, {u.dtype}{u.shape}: row i of v matches that of u")
    return ids, ids if v_ids is None else v_ids


def for_each_dim(name: str, value, nesting: Nesting) -> jax.Array:
    """The value (G,) in float32. Raises ValueError unless it is one number, or one for each dim."""
    shape = jnp.shape(value)
    if shape not in ((), (len(nesting),)):
        raise ValueError(f"{name} has shape {shape}; it must be one number, or one for each of {nesting.dims=}")
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (len(nesting),))


def nested_pairs(
    criterion: Criterion, u, v, scale_G, bias_G, nesting: Nesting, chunk, axis_name, ids: Ids, others=None
) -> NestedLoss:
    """The nested loss of u and v; under `axis_name`, of the rows of all devices."""
    arguments = (u, v, scale_G, bias_G, others)
    varying = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(arguments)))
    if axis_name is not None and varying:
        varying |= set(axis_name if isinstance(axis_name, tuple) else (axis_name,))
    layout = make_layout(nesting, u.shape[0], chunk, axis_name, sorted(varying))
    loss_GxB, correct_GxB = _pairs(criterion, layout, *layout.vary((*arguments, ids)))
    per_dim = loss_GxB.sum(axis=1)
    if axis_name is not None:
        per_dim = lax.psum(per_dim, axis_name)
    per_dim = per_dim / (u.shape[0] * layout.devices)
    return NestedLoss(jnp.sum(jnp.asarray(nesting.weights, per_dim.dtype) * per_dim), per_dim, correct_GxB)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pairs(criterion: Criterion, layout: Layout, u, v, scale, bias, others, ids: Ids):
    """Per-example losses and `correct`, (G, B) each."""
    return _forward(criterion, layout, u, v, scale, bias, others, ids)[0]


def _forward(criterion: Criterion, layout: Layout, u, v, scale, bias, others, ids: Ids):
    sides = _sides(layout, u, v, scale, ids)
    loss, correct, saved = criterion.statistics(layout, *sides, scale, bias, others)
    return (loss, correct), (u, v, scale, bias, others, ids, saved)


def _backward(criterion: Criterion, layout: Layout, residuals, cotangents):
    u, v, scale, bias, others, ids, saved = residuals
    rows, columns = _sides(layout, u, v, scale, ids)

    def run(residual, row_extra, column_extra, matching_GxB):
        tile = partial(_gradient_tile, criterion, residual, layout.nesting)
        extended = rows._replace(extra=(layout.cut(matching_GxB), row_extra)), columns._replace(extra=column_extra)
        return every_pair(layout, tile, *extended, *layout.vary((_gradients(layout), _gradients(layout, turned=True))))

    du, dv = criterion.residuals(layout, saved, cotangents[0], run, bias)
    d_scale, d_bias = layout.join(du.cosine).sum(axis=1) / _beyond_zero(scale), layout.join(du.sum).sum(axis=1)
    dv = dv._replace(features=tuple(block.swapaxes(1, 2) for block in dv.features))
    d_others = None if others is None else criterion.by_others(saved, cotangents[0], others)
    return _through_norms(layout, u, du), _through_norms(layout, v, dv), d_scale, d_bias, d_others, None


_pairs.defvjp(_forward, _backward)


def _sides(layout: Layout, u: jax.Array, v: jax.Array, scale_G: jax.Array, ids: Ids) -> tuple[Side, Side]:
    """Both sides; the scale is in the inverse norms of the rows, so that no tile is multiplied by it."""
    rows, columns = layout.side(u, ids[0]), layout.side(v, ids[1])
    return rows._replace(inverse=rows.inverse * _beyond_zero(scale_G)[None, :, None]), columns


def _beyond_zero(scale_G: jax.Array) -> jax.Array:
    """The scale; in the place of 0, a number so small that its logits are 0: the derivative by it is not lost."""
    return jnp.where(jnp.abs(scale_G) < _LEAST, _LEAST, scale_G)


class _Gradient(NamedTuple):
    """Sums over the other side, with a leading axis of tiles: R @ its features by what each level adds of them,
    (T, m_g - m_{g-1}) or transposed; of scale d C (G, T), and of d (G, T).
    """

    features: tuple[jax.Array, ...]
    cosine: jax.Array
    sum: jax.Array


def _gradients(layout: Layout, turned: bool = False) -> _Gradient:
    count, size, dims = layout.count, layout.size, layout.nesting.dims
    widths = [high - low for low, high in zip((0, *dims), dims)]
    features = tuple(jnp.zeros((count, m, size) if turned else (count, size, m)) for m in widths)
    zeros = jnp.zeros((count, len(dims), size))
    return _Gradient(features, zeros, zeros)


def dot_products(row: Side, column: Side, nesting: Nesting) -> list[jax.Array]:
    """Of a tile, at every level: (T, T) each."""
    found = [product(a, b, (1, 1)) for a, b in zip(row.parts, column.parts)]
    for g, start in enumerate(starts(nesting)):
        if start:
            found[g] = found[g - 1] + found[g]
    return found


def scaled_cosine(dots: jax.Array, row: Side, column: Side, g: int) -> jax.Array:
    """scale x the cosines of a tile at level g."""
    return dots * row.inverse[g][:, None] * column.inverse[g][None]


def _gradient_tile(criterion, residual, nesting, row: Side, column: Side, du: _Gradient, dv: _Gradient, diagonal: bool):
    matching, row = row.extra[0], row._replace(extra=row.extra[1])
    dots, r, rows, columns, sums = dot_products(row, column, nesting), None, [], [], []
    for g in reversed(range(len(dots))):
        d = residual(g, scaled_cosine(dots[g], row, column, g), row, column)
        d = replace(d, row, column, diagonal, 0.0, False)
        if diagonal:
            d = jnp.where(jnp.eye(len(d), dtype=bool), matching[g][:, None], d)
        if criterion.biased:
            sums.append(d.sum(axis=1))
        d = d * row.inverse[g][:, None] * column.inverse[g][None]
        by_cosine = d * dots[g]
        r = d if r is None else r + d
        rounded = r.astype(row.parts[g].dtype)
        rows.append((product(rounded, column.block(g, nesting), (1, 0)), by_cosine.sum(axis=1)))
        columns.append((product(row.turned[g], rounded, (1, 0)), by_cosine.sum(axis=0)))
    return _add(du, rows, sums), _add(dv, columns, [])


def _add(gradient: _Gradient, parts: list, sums: list) -> _Gradient:
    """The gradient and the parts of every level, the last one first."""
    features, cosine = zip(*parts[::-1])
    features = tuple(before + more for before, more in zip(gradient.features, features))
    total = gradient.sum + jnp.stack(sums[::-1]) if sums else gradient.sum
    return _Gradient(features, gradient.cosine + jnp.stack(cosine), total)


def _through_norms(layout: Layout, z_BxD: jax.Array, gradient: _Gradient) -> jax.Array:
    """The gradient of one side by its features."""
    dims, factor_B = layout.nesting.dims, power_of_two(z_BxD)
    scaled_BxD = times(z_BxD, factor_B)
    pull = layout.join(gradient.cosine) * jnp.square(inverse_norms(scaled_BxD, layout.nesting))
    pull = jnp.cumsum(pull[::-1], axis=0)[::-1]
    widths = [high - low for low, high in zip((0, *dims[:-1]), dims)]
    pull_BxD = jnp.repeat(pull.T, jnp.asarray(widths), axis=1, total_repeat_length=dims[-1])
    features = jnp.concatenate(gradient.features, axis=2).reshape(-1, dims[-1])[: layout.rows]
    return (factor_B[:, None] * (features - pull_BxD * scaled_BxD.astype(jnp.float32))).astype(z_BxD.dtype)
