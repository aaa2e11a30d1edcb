"""Two sets of rows against each other, in square tiles: their layout, and the visit of every pair of tiles.

Where the rows are shared among devices, each keeps its own rows of one side while the other side travels round the
ring of devices together with its statistics: no device ever holds more of a side than its share (twice, in flight).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mrl_jax.nesting import Nesting

# Rows and columns of a tile. CPU: the levels of a tile stay in the last cache; else: products stay large.
_CPU_TILE, _ACCELERATOR_TILE = 512, 4096
# A prefix of at most this share of the features may have a product of its own, see `starts`.
_SHORT = 1 / 4


class Layout(NamedTuple):
    """How the rows of one device are cut: `count` tiles of `size` rows, the last one filled up with zeros."""

    nesting: Nesting
    rows: int
    count: int
    size: int
    axis_name: Any
    varying: tuple

    @property
    def devices(self) -> int:
        """The devices that share the batch."""
        return 1 if self.axis_name is None else lax.axis_size(self.axis_name)

    def vary(self, tree):
        """The arrays, of a type that differs from device to device, as those of the batch do."""

        def cast(x):
            missing = tuple(a for a in self.varying if a not in jax.typeof(x).manual_axis_type.varying)
            return lax.pcast(x, missing, to="varying") if missing else x

        return jax.tree.map(cast, tree)

    def cut(self, x: jax.Array, filler: float = 0.0) -> jax.Array:
        """(..., rows) as (count, ..., size)."""
        pad = [(0, 0)] * (x.ndim - 1) + [(0, self.count * self.size - self.rows)]
        x = jnp.pad(x, pad, constant_values=filler).reshape(*x.shape[:-1], self.count, self.size)
        return jnp.moveaxis(x, -2, 0)

    def join(self, x: jax.Array) -> jax.Array:
        """(count, ..., size) as (..., rows): the inverse of `cut`."""
        x = jnp.moveaxis(x, 0, -2)
        return x.reshape(*x.shape[:-2], -1)[..., : self.rows]

    def side(self, z_BxD: jax.Array, ids_B: jax.Array | None) -> "Side":
        """One side of the pairs, not split yet."""
        z = jnp.pad(z_BxD, ((0, self.count * self.size - self.rows), (0, 0))).reshape(self.count, self.size, -1)
        filled = self.count * self.size > self.rows
        inside = self.cut(self.vary(jnp.zeros(self.rows)), -jnp.inf) if filled else None
        factor_B = power_of_two(z_BxD)
        inverse_GxB = inverse_norms(times(z_BxD, factor_B), self.nesting)
        ids = None if ids_B is None else self.cut(ids_B.reshape(self.rows, -1).T)
        return Side((z, self.cut(factor_B)), self.cut(inverse_GxB), inside, ids, None)


class Side(NamedTuple):
    """One side of the pairs, every array with a leading axis of tiles, and then of one tile.

    Attributes:
      parts: per level the features that its product is taken of, see `starts`; before `split`, all features (T, D) as
        given and the power of two (T,) that they are to be multiplied by.
      inverse: 1 / the norm of each prefix, (G, T); of the rows, times the scale of the cosines.
      inside: (T,) 0 for a row of the batch, -inf for a filler; to be added to logits. None: there are no fillers.
      ids: (I, T) integers; rows and columns that share the i-th of theirs are duplicates. None: there are none.
      extra: what the pass at hand needs besides.
      turned: of the rows, per level the features that it adds, transposed: sums over the rows are faster with them.
    """

    parts: tuple[jax.Array, ...]
    inverse: jax.Array
    inside: jax.Array | None
    ids: jax.Array | None
    extra: Any
    turned: tuple[jax.Array, ...] | None = None

    def split(self, nesting: Nesting) -> "Side":
        """The same with its parts."""
        z = times(*self.parts)
        return self._replace(parts=tuple(z[..., low:high] for low, high in zip(starts(nesting), nesting.dims)))

    def block(self, g: int, nesting: Nesting) -> jax.Array:
        """The features (T, m_g - m_{g-1}) that a level adds, of one tile that is split."""
        return self.parts[g][:, (0, *nesting.dims)[g] - starts(nesting)[g] :]


def starts(nesting: Nesting) -> tuple[int, ...]:
    """The first feature of the product of each level, whose last one is its dim.

    That of a short prefix of which half or more is new is 0: its product costs little more than that of what it adds,
    and it is no sum of products, which the compiler takes again wherever it is read. Others add to the level before.
    """
    lows = (0, *nesting.dims[:-1])
    return tuple(0 if m <= min(_SHORT * nesting.full, 2 * (m - low)) else low for low, m in zip(lows, nesting.dims))


def without_fillers(logits: jax.Array, row: Side, column: Side) -> jax.Array:
    """The logits of a tile (T, T), -inf where a row or a column is none of the batch."""
    return logits if row.inside is None else logits + row.inside[:, None] + column.inside[None]


def replace(x: jax.Array, row: Side, column: Side, diagonal: bool, value: float, matching: bool) -> jax.Array:
    """A tile (T, T) with `value` in the place of duplicates, and of matching pairs too if `matching`."""
    own = jnp.eye(len(x), dtype=bool)
    if row.ids is not None:
        same = (row.ids[:, :, None] == column.ids[:, None]).any(axis=0)
        x = jnp.where(same & ~own if diagonal else same, value, x)
    return jnp.where(own, value, x) if diagonal and matching else x


def make_layout(nesting: Nesting, rows: int, chunk: int | None, axis_name, varying) -> Layout:
    """The layout of `rows` rows per device in tiles of about `chunk`; None chooses by backend.

    Raises:
      ValueError: if chunk is not a positive integer.
    """
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk={chunk!r} must be a positive number of rows, or None to let the loss choose")
    chunk = chunk or (_CPU_TILE if jax.default_backend() == "cpu" else _ACCELERATOR_TILE)
    count = math.ceil(rows / chunk)
    size = math.ceil(rows / count)
    return Layout(nesting, rows, math.ceil(rows / size), size, axis_name, tuple(varying))


def power_of_two(z_BxD: jax.Array) -> jax.Array:
    """For each row the power of two that brings its largest feature to 0.5..1, (B,).

    A cosine does not see it, no digit is lost, and squares neither overflow nor vanish.
    """
    _, exponent = jnp.frexp(jnp.abs(z_BxD).max(axis=1).astype(jnp.float32))
    limit = -jnp.finfo(z_BxD.dtype).minexp
    return jnp.ldexp(jnp.float32(1), -jnp.clip(exponent, -limit, limit))


def times(z: jax.Array, factor: jax.Array) -> jax.Array:
    """z (..., D) with each row multiplied by its factor (...)."""
    return z * factor[..., None].astype(z.dtype)


def inverse_norms(z_BxD: jax.Array, nesting: Nesting) -> jax.Array:
    """1 / the norm of every prefix, (G, B); 1 for a prefix of zeros: its cosines are 0, its gradient is finite."""
    lows = (0, *nesting.dims[:-1])
    blocks = [jnp.square(z_BxD[:, a:b].astype(jnp.float32)).sum(axis=1) for a, b in zip(lows, nesting.dims)]
    squared = jnp.cumsum(jnp.stack(blocks), axis=0)
    return lax.rsqrt(jnp.where(squared > 0, squared, 1.0))


def every_pair(layout: Layout, tile: Callable, rows: Side, columns: Side, row_state, column_state):
    """Both states after `tile(row, column, row_state, column_state, diagonal)` for every pair of tiles.

    A state is a pytree with a leading axis of tiles; `tile` sees and returns that of its own tiles. `diagonal` is
    static: whether row i of the tile matches column i. It is true once per row tile, for the first one visited.
    The columns are split once; the rows a tile at a time, as it does not take memory.
    """
    columns = columns.split(layout.nesting)
    row_state, column_state = _visit(layout, tile, rows, columns, row_state, column_state, True)
    if layout.devices == 1:
        return row_state, column_state
    ring = [(i, (i + 1) % layout.devices) for i in range(layout.devices)]

    def shift(tree):
        return jax.tree.map(lambda x: lax.ppermute(x, layout.axis_name, ring), tree)

    def hop(_, state):
        row_state, columns, column_state = state
        columns, column_state = shift((columns, column_state))
        return _swap(columns, _visit(layout, tile, rows, columns, row_state, column_state, False))

    state = lax.fori_loop(1, layout.devices, hop, (row_state, columns, column_state))
    return state[0], shift(state[2])


def _swap(columns, states):
    return states[0], columns, states[1]


def _visit(layout: Layout, tile: Callable, rows, columns, row_state, column_state, matching: bool):
    """`every_pair` of the tiles on this device."""

    def row(i, states):
        row_state, column_state = states
        mine = _at(rows, i).split(layout.nesting)
        mine = mine._replace(turned=tuple(mine.block(g, layout.nesting).T for g in range(len(layout.nesting))))

        def column(j, states, diagonal=False):
            own, column_state = states
            own, theirs = tile(mine, _at(columns, j), own, _at(column_state, j), diagonal)
            return own, _put(column_state, theirs, j)

        states = _at(row_state, i), column_state
        if matching:
            states = column(i, states, True)
        # The diagonal tile came first; the others follow it in a circle.
        if layout.count > matching:
            states = lax.fori_loop(
                int(matching), layout.count, lambda k, s: column(lax.rem(i + k, layout.count), s), states
            )
        return _put(row_state, states[0], i), states[1]

    if layout.count == 1:
        return row(0, (row_state, column_state))
    return lax.fori_loop(0, layout.count, row, (row_state, column_state))


def _at(tree, i):
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _put(tree, part, i):
    return jax.tree.map(lambda x, y: lax.dynamic_update_index_in_dim(x, y, i, 0), tree, part)
