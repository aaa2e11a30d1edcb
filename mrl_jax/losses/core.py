"""The nested linear head in one pass: prefix-accumulated logits, classes in chunks, its own backward pass.

Let m_1 < ... < m_G be the nested dims, block g the features between m_{g-1} and m_g. With a tied head the logits of
dim m_g are those of dim m_{g-1} plus z_block_g @ W_block_g, so one full product passes through every level.
In the backward pass every level h >= g reads block g: with P_h - Y the residual of level h and w_h its weight,
    R_g = sum over h >= g of w_h / B x (P_h - Y),   dz_block_g = R_g @ W_block_g^T,   dW_block_g = z_block_g^T @ R_g,
a suffix sum over levels. An untied head shares nothing: level g reads features 0..m_g and neither sum accumulates.

The forward pass saves its inputs and O(G B) statistics; the backward pass computes the logits of each chunk again.
Sums and statistics are float32; products take the dtype of z and kernel, to which R is rounded, and sum in float32.

Where the mesh in use has a `model` axis that divides the classes, each of its devices visits its own share of them and
the statistics and dz are summed over the axis once, at the end; were the sharded axis itself cut into chunks, every
device would gather the whole kernel. All other axes are left to the compiler.
"""

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from mrl_jax.losses.chunks import Tile, choose_chunk, fold
from mrl_jax.losses.types import NestedLoss
from mrl_jax.nesting import Nesting

CLASS_AXIS = "model"


class Head(NamedTuple):
    """A linear head: one (D, C) kernel and (C,) bias for every dim (tied), or one (m_g, C) kernel and bias per dim."""

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]


# How a head lies on the shards of the classes.
SPLIT = Head(P(None, CLASS_AXIS), P(CLASS_AXIS))


class Criterion(Protocol):
    """What a loss does with the logits of one level in one chunk, (B, c) float32; hashable."""

    def start(self, shape: tuple[int, int]):
        """The statistics of every level before any class is seen, each (G, B)."""

    def update(self, stats, logits_Bxc: jax.Array, targets: jax.Array, tile: Tile):
        """One level's statistics, each (B,), after a chunk."""

    def finish(self, stats, plan: "Plan", z_BxD: jax.Array, head: Head):
        """Per-example losses (G, B), `correct` (G, B) or None, and what `residual` needs: (G, ...) or None."""

    def residual(self, logits_Bxc: jax.Array, saved, targets: jax.Array, tile: Tile) -> jax.Array:
        """P - Y: the derivative of one level's per-example loss by its logits."""


class Run(NamedTuple):
    """Consecutive levels whose blocks have one width: a scan visits them, however many. Untied levels run alone."""

    kernel: int
    first: int
    count: int
    low: int
    width: int

    def columns(self, z_BxD: jax.Array) -> jax.Array:
        """The blocks of z, (count, B, width)."""
        z = z_BxD[:, self.low : self.low + self.count * self.width]
        return z.reshape(z.shape[0], self.count, self.width).swapaxes(0, 1)

    def rows(self, kernel_DxC: jax.Array, tile: Tile) -> jax.Array:
        """The blocks of the kernel in one chunk, (count, width, c)."""
        rows = tile.cut(kernel_DxC, self.low, self.low + self.count * self.width)
        return rows.reshape(self.count, self.width, tile.size)

    def levels(self, x):
        """The part of a (G, ...) tree that belongs to this run."""
        return jax.tree.map(lambda leaf: leaf[self.first : self.first + self.count], x)

    def scan(self, f, carry, xs, reverse: bool = False):
        """`lax.scan` over the levels of the run; a single level is not worth a loop."""
        if self.count > 1:
            return lax.scan(f, carry, xs, reverse=reverse)
        carry, ys = f(carry, jax.tree.map(lambda x: x[0], xs))
        return carry, jax.tree.map(lambda y: y[None], ys)


class Plan(NamedTuple):
    """The static part of a nested loss: of n_classes classes in `shards` equal parts, `chunk` at a time of each."""

    criterion: Criterion
    nesting: Nesting
    tied: bool
    n_classes: int
    shards: int
    chunk: int

    @property
    def runs(self) -> list[Run]:
        """The levels, in order."""
        dims = self.nesting.dims
        if not self.tied:
            return [Run(g, g, 1, 0, m) for g, m in enumerate(dims)]
        runs = []
        for g, (low, high) in enumerate(zip((0, *dims), dims)):
            if runs and runs[-1].width == high - low:
                runs[-1] = runs[-1]._replace(count=runs[-1].count + 1)
            else:
                runs.append(Run(0, g, 1, low, high - low))
        return runs

    def fold(self, step, carry):
        """`step(carry, tile)` over the classes at hand."""
        width = self.n_classes // self.shards
        first = lax.axis_index(CLASS_AXIS) * width if self.shards > 1 else 0
        return fold(step, carry, width, self.chunk, first)

    def sum(self, x):
        """The sum over the shards of the classes."""
        return lax.psum(x, CLASS_AXIS) if self.shards > 1 else x

    def max(self, x):
        """The maximum over the shards of the classes."""
        return lax.pmax(x, CLASS_AXIS) if self.shards > 1 else x

    def over_shards(self, f, *args, returns):
        """f(*args) on each shard of the classes: heads and the last argument (targets) are split, the others whole.

        `returns` is the partition of what f returns: P() for what is whole, SPLIT for a head.
        """
        if self.shards == 1:
            return f(*args)
        specs = [SPLIT if isinstance(x, Head) else P() for x in args]
        specs[-1] = P(None, CLASS_AXIS) if args[-1].ndim == 2 else P()
        options = {"axis_names": {CLASS_AXIS}, "check_vma": False}
        return jax.shard_map(f, in_specs=tuple(specs), out_specs=returns, **options)(*args)


def make_plan(criterion: Criterion, nesting: Nesting, rows: int, head: Head, chunk: int | None) -> Plan:
    """The plan for `rows` examples of these shapes on the mesh in use. Raises ValueError on a chunk below 1."""
    n_classes = head.kernels[0].shape[1]
    axis = jax.sharding.get_abstract_mesh().shape.get(CLASS_AXIS, 1)
    shards = axis if n_classes % axis == 0 else 1
    chunk = choose_chunk(n_classes, len(nesting), rows, shards, chunk)
    return Plan(criterion, nesting, len(head.kernels) < len(nesting), n_classes, shards, chunk)


def _dot(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    return lax.dot_general(x, y, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)


def _visit(plan: Plan, columns: list[jax.Array], head: Head, tile: Tile, see, xs: list) -> list:
    """`see(logits_Bxc, x)` at every level, per run stacked: the prefix sum over levels, x from the run's (count,
    ...).
    """
    seen, logits = [], None
    for run, z, x in zip(plan.runs, columns, xs):

        def level(logits, args):
            z, w, x = args
            logits = logits + _dot(z, w, (1, 0))
            return logits, see(logits, x)

        if logits is None or not plan.tied:
            bias = tile.cut(head.biases[run.kernel]).astype(jnp.float32)
            logits = jnp.broadcast_to(bias[None], (z.shape[1], tile.size))
        logits, ys = run.scan(level, logits, (z, run.rows(head.kernels[run.kernel], tile), x))
        seen.append(ys)
    return seen


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def nested(plan: Plan, z_BxD: jax.Array, head: Head, targets: jax.Array) -> NestedLoss:
    """The nested loss of a linear head. Only `total` carries a gradient, to z and head; the targets are constants."""
    return _forward(plan, z_BxD, head, targets)[0]


def _forward(plan: Plan, z: jax.Array, head: Head, targets: jax.Array):
    """The loss, and what the backward pass needs."""

    def local(z, head, targets):
        columns = [run.columns(z) for run in plan.runs]

        def step(stats, tile):
            def see(logits, stats):
                return plan.criterion.update(stats, logits, targets, tile)

            seen = _visit(plan, columns, head, tile, see, [run.levels(stats) for run in plan.runs])
            return jax.tree.map(lambda *s: jnp.concatenate(s), *seen)

        stats = plan.fold(step, plan.criterion.start((len(plan.nesting), z.shape[0])))
        return plan.criterion.finish(stats, plan, z, head), None

    (loss_GxB, correct_GxB, saved), _ = plan.over_shards(local, z, head, targets)
    per_dim = loss_GxB.mean(axis=1)
    total = sum(w * per_dim[g] for g, w in enumerate(plan.nesting.weights))
    return NestedLoss(total, per_dim, correct_GxB), (z, head, targets, saved)


def _backward(plan: Plan, residuals, cotangent: NestedLoss):
    """The gradients by z and head."""
    z, head, targets, saved = residuals
    scales = jnp.asarray(plan.nesting.weights, jnp.float32) * (cotangent.total / z.shape[0])

    def local(z, head, saved, scales, targets):
        columns = [run.columns(z) for run in plan.runs]

        def step(carry, tile):
            dz, grads = carry
            logits = _visit(plan, columns, head, tile, lambda logits, _: logits, [None] * len(plan.runs))
            return _pull(plan, columns, head, tile, logits, saved, scales, targets, dz, grads)

        dz = [jnp.zeros(c.shape, jnp.float32) for c in columns]
        dz, grads = plan.fold(step, (dz, jax.tree.map(jnp.zeros_like, head)))
        return plan.sum(_gather(plan, dz, z.shape)), grads

    dz, grads = plan.over_shards(local, z, head, saved, scales, targets)
    return dz.astype(z.dtype), grads, None


def _pull(plan, columns, head, tile, logits, saved, scales, targets, dz, grads):
    """Adds one chunk to dz (per run) and puts its columns of the kernels' and biases' gradients: the suffix sum."""
    dz, kernels, biases, r = list(dz), list(grads.kernels), list(grads.biases), None

    def level(r, args):
        logits, z, w, saved, scale = args
        r = r + scale * plan.criterion.residual(logits, saved, targets, tile)
        rounded = r.astype(w.dtype)
        return r, (_dot(rounded, w, (1, 1)), _dot(z, rounded, (0, 0)))

    for n, run in reversed(list(enumerate(plan.runs))):
        i = run.kernel
        if r is None or not plan.tied:
            r = jnp.zeros(logits[n].shape[1:], jnp.float32)
        xs = (logits[n], columns[n], run.rows(head.kernels[i], tile), run.levels(saved), run.levels(scales))
        r, (dz_blocks, rows) = run.scan(level, r, xs, reverse=True)
        dz[n] = dz[n] + dz_blocks
        kernels[i] = tile.put(kernels[i], rows.reshape(-1, tile.size), run.low)
        if n == 0 or not plan.tied:
            biases[i] = tile.put(biases[i], r.sum(axis=0))
    return dz, Head(tuple(kernels), tuple(biases))


def _gather(plan: Plan, blocks: list[jax.Array], shape: tuple[int, int]) -> jax.Array:
    """Blocks (count, B, width) of every run, summed into (B, D)."""
    whole = jnp.zeros(shape, jnp.float32)
    for run, block in zip(plan.runs, blocks):
        end = run.low + run.count * run.width
        part = block.swapaxes(0, 1).reshape(shape[0], -1)
        whole = whole + jnp.pad(part, ((0, 0), (run.low, shape[1] - end)))
    return whole


nested.defvjp(_forward, _backward)
