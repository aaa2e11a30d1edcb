"""What a nested loss is made of: a head, a criterion, and the static plan of how levels and classes are visited."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from mrl_jax.losses.chunks import Tile, choose_chunk, fold
from mrl_jax.nesting import Nesting

CLASS_AXIS = "model"
# Fewer levels than this are not worth a loop.
_LOOP = 8


class Head(NamedTuple):
    """A linear head: one (D, C) kernel and (C,) bias for every dim (tied), or one (m_g, C) kernel and bias per dim.

    A plan that is `turned` has its kernels as (C, D).
    """

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]


class Criterion(Protocol):
    """What a loss does with logits; hashable. c counts the classes of a chunk, S are statistics of its choice.

    Logits are (B, c), and (c, B) in a tile that is `turned`. A criterion whose `label_apart` is set sees -inf in the
    place of the label's own logit: hidden once, in the first level's product, it stays so in the sums of all levels.
    """

    label_apart: bool

    def start(self, shape: tuple[int, int]):
        """S before any class is seen, from (G, B)."""

    def update(self, stats, logits: list[jax.Array], label: jax.Array | None, targets: jax.Array, tile: Tile):
        """S after a chunk, from its logits: G arrays (B, c), float32.

        Where the label is apart, `label` (G, B) are its own logits, 0 for a label that is not in the chunk; else None.
        """

    def finish(self, stats, plan: "Plan", z_BxD: jax.Array, head: Head, targets: jax.Array):
        """Per-example losses (G, B); `correct` and the `known` of a NestedLoss by name; what `residual` needs: (G, ...)
        or None.
        """

    def residual(self, logits_Bxc: jax.Array, saved, targets: jax.Array, tile: Tile, scale: jax.Array) -> jax.Array:
        """scale (P - Y): the derivative of one level's per-example loss by its logits, times a scalar or (B, 1).

        `saved` is the level's, of what `finish` returns.
        """


class Plan(NamedTuple):
    """The static part of a nested loss: of n_classes classes in `shards` equal parts, `chunk` at a time of each.

    Where `keeps` is set, the logits of the full dim (B x C) are not computed again for the backward pass: they wait in
    the memory of the kernel's gradient (D x C), which is not needed before. Where `cosine` is set, the logits are the
    cosines of each prefix with the columns of its kernel, and biases have no part in them. Where `turned` is set, a
    kernel lies as (C, D), as a table of embeddings does: turning it, and its gradient, would copy both. Logits lie
    as (c, B) then: residuals that lie as (B, c) would be turned for each level's product with the features. Where
    `ordered` is set, a level's product waits for that two levels before: XLA's schedule for CPUs begins all of them at
    once, and with their scratch memory all over the heap a process takes new pages at more of its first calls.
    """

    criterion: Criterion
    nesting: Nesting
    tied: bool
    n_classes: int
    shards: int
    chunk: int
    keeps: bool
    cosine: bool = False
    turned: bool = False
    ordered: bool = False

    @property
    def even(self) -> bool:
        """Whether the levels are many and add equally many features each, so that a loop can visit them."""
        width = self.nesting.dims[0]
        return (
            self.tied
            and not self.cosine
            and len(self.nesting) >= _LOOP
            and self.nesting.dims == tuple(range(width, self.nesting.full + 1, width))
        )

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Per level: the kernel that it reads, the first and the past-the-last feature that it adds."""
        dims = self.nesting.dims
        return [(0, low, high) if self.tied else (g, 0, high) for g, (low, high) in enumerate(zip((0, *dims), dims))]

    @property
    def width(self) -> int:
        """How many classes are at hand: all, or those of a shard."""
        return self.n_classes // self.shards

    @property
    def first(self) -> jax.Array | int:
        """The first class at hand."""
        return lax.axis_index(CLASS_AXIS) * self.width if self.shards > 1 else 0

    @property
    def split(self) -> Head:
        """How a head lies on the shards of the classes."""
        return Head(P(CLASS_AXIS, None) if self.turned else P(None, CLASS_AXIS), P(CLASS_AXIS))

    def hide(self, logits: jax.Array, targets: jax.Array, tile: Tile) -> jax.Array:
        """Logits as the criterion sees them: with -inf in the label's place, where the label is apart."""
        return tile.hide(logits, targets) if self.criterion.label_apart else logits

    def lay(self, x: jax.Array) -> jax.Array:
        """A matrix (or number) as it lies here; of one that does, as it is written."""
        return x.T if self.turned else x

    def axis(self, written: int) -> int:
        """Where an axis of a matrix lies."""
        return 1 - written if self.turned else written

    def product(self, x: jax.Array, y: jax.Array, contract: tuple[int, int] = (1, 0)) -> jax.Array:
        """`product` of two matrices that lie as they do here, over axes of what is written."""
        return product(y, x, (1 - contract[1], 1 - contract[0])) if self.turned else product(x, y, contract)

    def fold(self, step, carry):
        """`step(carry, tile)` over the classes at hand."""
        return fold(step, carry, self.width, self.chunk, self.first, self.turned)

    def sum(self, x):
        """The sum over the shards of the classes."""
        return lax.psum(x, CLASS_AXIS) if self.shards > 1 else x

    def max(self, x):
        """The maximum over the shards of the classes."""
        return lax.pmax(x, CLASS_AXIS) if self.shards > 1 else x

    def over_shards(self, f, *args, returns):
        """f(*args) on each shard of the classes: heads and the last argument (targets) are split, the others whole.

        `returns` is the partition of what f returns: P() for what is whole, `split` for a head.
        """
        if self.shards == 1:
            return f(*args)
        specs = [self.split if isinstance(x, Head) else P() for x in args]
        specs[-1] = P(None, CLASS_AXIS) if args[-1].ndim == 2 else P()
        options = {"axis_names": {CLASS_AXIS}, "check_vma": False}
        return jax.shard_map(f, in_specs=tuple(specs), out_specs=returns, **options)(*args)


def make_plan(
    criterion: Criterion, nesting: Nesting, rows: int, head: Head, chunk: int | None, cosine: bool = False
) -> Plan:
    """The plan for `rows` examples of these shapes on the mesh in use. Raises ValueError on a chunk below 1."""
    n_classes = head.kernels[0].shape[1]
    mesh = jax.sharding.get_abstract_mesh()
    axis = mesh.shape.get(CLASS_AXIS, 1)
    shards = axis if n_classes % axis == 0 else 1
    plan = Plan(criterion, nesting, len(head.kernels) < len(nesting), n_classes, shards, 0, False, cosine)
    alive = _LOOP if plan.even else len(nesting)
    chunk = choose_chunk(n_classes, alive, rows, shards, chunk)
    # An accelerator computes half of the logits again in the time in which its memory writes and reads them.
    keeps = jax.default_backend() == "cpu" and plan.tied and not cosine and head.kernels[0].dtype == jnp.float32
    # Rows that lie on several devices have no place in an array without them; one chunk the compiler keeps by itself.
    keeps = keeps and max(mesh.size, 1) == shards and rows <= nesting.full and chunk < plan.width
    ordered = jax.default_backend() == "cpu" and plan.tied and chunk == plan.width
    return plan._replace(chunk=chunk, keeps=keeps, ordered=ordered)


def product(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The product of two matrices over one axis of each, summed in float32."""
    return lax.dot_general(x, y, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)


def unwritten(head: Head) -> Head:
    """Arrays like those of the head that the chunks will fill."""
    return jax.tree.map(lambda x: lax.empty(x.shape, x.dtype), head)
