"""Gradient projection for several losses on the same parameters (PCGrad, Yu et al. 2020), in Gram-matrix form.

Gradients i and j are in conflict where their inner product is negative; then what points along g_j is taken from g_i,
one j after the other. Every result stays a combination of the original gradients, p_i = sum over k of A[i, k] g_k, so
that A follows from their Gram matrix alone: p_i . g_j = A[i] . M[:, j], and a projection is A[i, j] -= that / M[j, j].
The trees are read twice, once for M and once for the merged gradient, and never flattened into one vector.

A parameter that one sub-model owns alone, as its own normalisation, is left out of M and keeps its owner's gradient as
it is. In data parallel training the gradients given are those already averaged over the devices, as `jax.grad` of a
global batch's mean gives them under jit; within shard_map average them first.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.choices import choose

MODES = ("all", "anchor_full", "none")
SCOPES = ("whole", "overlap", "layer")
REDUCTIONS = ("mean", "sum", "owner_mean")


def project(
    grads: Sequence[Any],
    key: jax.Array | None = None,
    *,
    order: Any = None,
    mode: str = "all",
    scope: str = "whole",
    reduction: str = "mean",
    owners: Sequence[Any] | None = None,
) -> tuple[Any, dict[str, jax.Array]]:
    """The merged gradient of m sub-models or tasks, with the conflicts between them projected out.

    Without `owners` a sub-model owns the leaves that it has and that are not all zero; entry by entry, for "overlap"
    and "owner_mean", those that are not zero.

    Args:
      grads: m pytrees of one structure; or nested dicts, of which a sub-model may lack some keys. A leaf may be None.
      key: draws for each gradient the order in which it meets the others; None without `order` is ascending.
        With "anchor_full" and "none" nothing is drawn.
      order: instead of a key: a permutation (m,) for all, or (m, m), row i for gradient i.
      mode: "all" projects each gradient against every other; "anchor_full" against the last, the full model's, alone;
        "none" against none, for the merging and the statistics alone.
      scope: of products, norms and projections: all shared parameters as one vector ("whole"), only the entries that
        both gradients own ("overlap"), or the parameters of one module at a time ("layer").
      reduction: of the projected gradients: their mean, their sum, or the sum divided by how many own the entry.
      owners: m pytrees like `grads`, of anything with a shape, as `jax.eval_shape` of the narrow network alone gives:
        sub-model i owns the leading entries along each axis; of a leaf that is None or absent, none.

    Returns:
      The merged gradient, of the dtypes given; and, of the shared parameters before projection, `conflicts` (the number
      of pairs; in scope "layer" summed over layers), `cosines` (m, m), `norms` (m,); and `kept` (m,), the norm after
      projection as a part of it. All float32, conflicts int32.

    Raises:
      ValueError: for an unknown option, trees that do not fit together or an order that is no permutation.
    """
    check(mode=mode, scope=scope, reduction=reduction)
    paths, leaves, rebuild = _align(grads)
    owned = _owned(paths, leaves, owners)
    turns_mxm = _turns(len(grads), key, order, mode)
    shared, grams = [], {}
    for path, leaf, mine in zip(paths, leaves, owned):
        gram, is_shared = _leaf_gram(leaf, mine, scope == "overlap")
        layer = (path[:-1] or path) if scope == "layer" else ()
        grams[layer] = grams.get(layer, 0) + jnp.where(is_shared, gram, 0.0)
        shared.append((layer, is_shared))
    stacked = jnp.stack(list(grams.values()))
    coefficients = jax.vmap(_coefficients, (0, None))(stacked, turns_mxm)
    at = dict(zip(grams, coefficients))
    merged = [
        _merge_leaf(leaf, mine, at[layer], is_shared, scope == "overlap", reduction)
        for leaf, mine, (layer, is_shared) in zip(leaves, owned, shared)
    ]
    return rebuild(merged), _statistics(stacked, coefficients)


def check(*, mode: str, scope: str, reduction: str) -> None:
    """Raises ValueError for an option that `project` does not know."""
    for field, value, known in (("mode", mode, MODES), ("scope", scope, SCOPES), ("reduction", reduction, REDUCTIONS)):
        choose(field, value, known)


class Transformation(NamedTuple):
    """A pair of functions in the form of `optax.GradientTransformation`, which may stand first in an `optax.chain`."""

    init: Callable[[Any], "State"]
    update: Callable[..., tuple[Any, "State"]]


class State(NamedTuple):
    """How many updates were made, from which the order is drawn, and the statistics of the last one."""

    count: jax.Array
    statistics: dict[str, jax.Array]


def transformation(tasks: int, *, seed: int = 0, owners: Sequence[Any] | None = None, **options: str) -> Transformation:
    """`project` as the first of a chain of gradient transformations, for any training on several losses.

    `update` takes the sequence of `tasks` gradients and gives the merged one; the order of projections is drawn anew at
    every step from the seed. Options are `mode`, `scope` and `reduction`.

    Raises:
      ValueError: at `update`, as `project`, or where there are not `tasks` gradients.
    """

    def init(params):
        del params
        shapes = {"cosines": (tasks, tasks), "norms": (tasks,), "kept": (tasks,)}
        zeros = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        return State(jnp.zeros((), jnp.int32), {"conflicts": jnp.zeros((), jnp.int32), **zeros})

    def update(updates, state, params=None):
        del params
        if len(updates) != tasks:
            raise ValueError(f"{len(updates)} gradients for tasks={tasks}: give one tree per task")
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        merged, statistics = project(updates, key, owners=owners, **options)
        return merged, State(state.count + 1, statistics)

    return Transformation(init, update)


def _align(trees: Sequence[Any]) -> tuple[list[tuple], list[list], Callable[[list], Any]]:
    """The paths of all leaves, for each its m arrays (or None), and what makes a tree of one array per leaf."""
    if not len(trees) or not jax.tree.leaves(list(trees)):
        raise ValueError(f"{len(trees)} gradients without an array in them: give one tree of arrays per sub-model")
    flat = [jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None) for tree in trees]
    by_path = [dict(leaves) for leaves, _ in flat]
    paths = list(dict.fromkeys(path for leaves in by_path for path in leaves))
    columns = [[_array(leaves.get(path)) for leaves in by_path] for path in paths]
    for path, column in zip(paths, columns):
        shapes = {jnp.shape(x) for x in column if x is not None}
        if len(shapes) > 1:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"gradients of {name} have shapes {sorted(shapes)}: they must be equal")
    if all(structure == flat[0][1] for _, structure in flat):
        return paths, columns, flat[0][1].unflatten
    if not all(isinstance(k, jax.tree_util.DictKey) for path in paths for k in path):
        raise ValueError("gradients that differ in structure must be nested dicts")
    return paths, columns, lambda leaves: _nest(paths, leaves)


def _array(x: Any) -> jax.Array | None:
    return None if x is None else jnp.asarray(x)


def _nest(paths: list[tuple], leaves: list) -> dict:
    tree: dict = {}
    for path, leaf in zip(paths, leaves):
        node = tree
        for k in path[:-1]:
            node = node.setdefault(k.key, {})
        node[path[-1].key] = leaf
    return tree


def _owned(paths: list[tuple], leaves: list[list], owners: Sequence[Any] | None) -> list[list | None]:
    """For each leaf the shape that each sub-model owns, None for none; None instead of the list: look at the values."""
    if owners is None:
        return [None] * len(paths)
    if len(owners) != len(leaves[0]):
        raise ValueError(f"{len(owners)} owners for {len(leaves[0])} gradients: give one tree per gradient")
    by_path = [dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in owners]
    if unknown := {path for known in by_path for path in known} - set(paths):
        raise ValueError(f"owners name {jax.tree_util.keystr(min(unknown, key=str))}, of which there is no gradient")
    owned = [[known[path].shape if path in known else None for known in by_path] for path in paths]
    for path, column, boxes in zip(paths, leaves, owned):
        full = next((x.shape for x in column if x is not None), None)
        wrong = [b for b in boxes if b is not None and full is not None]
        if any(len(b) != len(full) or any(n > size for n, size in zip(b, full)) for b in wrong):
            raise ValueError(f"owners of {jax.tree_util.keystr(path)} have shapes {wrong}, its gradient {full}")
    return owned


def _turns(m: int, key: jax.Array | None, order: Any, mode: str) -> jax.Array:
    """Whom each gradient meets in turn: (m, m), or (m, 1) for the anchor, and for itself, which is no conflict."""
    if mode != "all":
        if order is not None:
            raise ValueError(f"order={order} has no meaning for mode={mode!r}: leave it out")
        return jnp.full((m, 1), m - 1) if mode == "anchor_full" else jnp.arange(m)[:, None]
    if order is None:
        if key is None:
            return jnp.broadcast_to(jnp.arange(m), (m, m))
        return jax.vmap(lambda k: jax.random.permutation(k, m))(jax.random.split(key, m))
    if key is not None:
        raise ValueError("give a key or an order, not both")
    shaped = np.shape(order) in ((m,), (m, m))
    known = shaped and not isinstance(order, jax.core.Tracer)
    if not shaped or (known and (np.sort(np.asarray(order)) != np.arange(m)).any()):
        raise ValueError(f"order={order} must be a permutation of 0..{m - 1}, or {m} of them, one per gradient")
    return jnp.broadcast_to(jnp.asarray(order), (m, m))


def _leaf_gram(leaf: list, boxes: list | None, overlap: bool) -> tuple[jax.Array, jax.Array]:
    """Inner products (I, m, m) of one leaf's gradients, and whether it has more than one owner.

    I is 1; for "overlap" it is m, and entry i has the products over what i owns.
    """
    m = len(leaf)
    if all(x is None for x in leaf):
        return jnp.zeros((m if overlap else 1, m, m)), jnp.zeros((), bool)
    x = [None if g is None else g.astype(jnp.float32) for g in leaf]
    within = [[None if g is None else g * _mask(leaf, boxes, i) for g in x] for i in range(m)] if overlap else [x]
    gram = jnp.stack([_products(part, x, boxes) for part in within])
    if boxes is not None:
        return gram, jnp.asarray(sum(b is not None for b in boxes) > 1)
    # A gradient that is not a number is there all the same.
    squares = jnp.diagonal(gram, axis1=1, axis2=2).max(axis=0)
    return gram, (squares != 0).sum() > 1


def _products(x: list, y: list, boxes: list | None) -> jax.Array:
    """Inner products (m, m) of two lists of which each pair is symmetric; 0 with None.

    Pair by pair: the compiler fuses product and sum, where a matrix product would need the arrays copied into one. Of
    a pair only what both own is read.
    """
    pairs = {
        (i, j): 0.0
        if x[i] is None or y[j] is None
        else jnp.sum(_common(x[i], boxes, i, j) * _common(y[j], boxes, i, j))
        for i in range(len(x))
        for j in range(i + 1)
    }
    return jnp.stack(
        [jnp.stack([jnp.asarray(pairs[max(i, j), min(i, j)]) for j in range(len(x))]) for i in range(len(x))]
    )


def _common(x: jax.Array, boxes: list | None, i: int, j: int) -> jax.Array:
    """The part of a leaf that the sub-models i and j both own; all of it where that is not known."""
    if boxes is None or boxes[i] is None or boxes[j] is None:
        return x
    return x[tuple(slice(n) for n in map(min, boxes[i], boxes[j]))]


def _mask(leaf: list, boxes: list | None, i: int) -> jax.Array:
    """1 where sub-model i owns the entry of a leaf, else 0."""
    shape = next(x.shape for x in leaf if x is not None)
    if boxes is None:
        return jnp.zeros(shape) if leaf[i] is None else (leaf[i] != 0).astype(jnp.float32)
    if boxes[i] is None:
        return jnp.zeros(shape)
    mask = jnp.ones(shape, bool)
    for axis, (n, size) in enumerate(zip(boxes[i], shape)):
        if n < size:
            mask &= jax.lax.broadcasted_iota(jnp.int32, shape, axis) < n
    return mask.astype(jnp.float32)


def _coefficients(gram_Ixmxm: jax.Array, turns_mxT: jax.Array) -> jax.Array:
    """A (m, m): gradient i after its projections is the sum over k of A[i, k] times the original k."""
    m = gram_Ixmxm.shape[-1]
    gram = jnp.broadcast_to(gram_Ixmxm, (m, m, m))
    row = jnp.arange(m)

    def turn(t, a_mxm):
        j_m = turns_mxT[:, t]
        dots_m = jnp.einsum("ik,ik->i", a_mxm, gram[row, :, j_m], precision="highest")
        conflict_m = (dots_m < 0) & (j_m != row)
        squares_m = jnp.where(conflict_m, gram[row, j_m, j_m], 1.0)
        return a_mxm.at[row, j_m].add(-jnp.where(conflict_m, dots_m, 0.0) / squares_m)

    return jax.lax.fori_loop(0, turns_mxT.shape[1], turn, jnp.eye(m))


def _merge_leaf(leaf, boxes, a_mxm, is_shared, overlap: bool, reduction: str):
    m = len(leaf)
    if all(x is None for x in leaf):
        return None
    masks = [_mask(leaf, boxes, i) for i in range(m)] if overlap or reduction == "owner_mean" else None
    weight_m = jnp.where(is_shared, a_mxm.sum(axis=0) / (m if reduction == "mean" else 1), 1.0)
    scale = jnp.where(is_shared, 1 / m if reduction == "mean" else 1.0, 1.0)
    total = 0.0
    for k, x in enumerate(leaf):
        if x is None:
            continue
        weight = weight_m[k]
        if overlap:
            within = sum(a_mxm[i, k] * masks[i] for i in range(m))
            weight = jnp.where(is_shared, scale * within, 1.0)
        total += weight * x.astype(jnp.float32)
    if reduction == "owner_mean":
        total /= jnp.maximum(sum(masks), 1.0)
    return total.astype(next(x.dtype for x in leaf if x is not None))


def _statistics(grams_LxIxmxm: jax.Array, coefficients_Lxmxm: jax.Array) -> dict[str, jax.Array]:
    m = grams_LxIxmxm.shape[-1]
    own = jnp.arange(m)
    gram_Lxmxm = grams_LxIxmxm[:, 0]
    if grams_LxIxmxm.shape[1] > 1:  # the products over what both own, which the other's zeros do not change
        gram_Lxmxm = grams_LxIxmxm[:, own, own, :]
    total = gram_Lxmxm.sum(axis=0)
    norms = jnp.sqrt(jnp.diagonal(total))
    scale = norms[:, None] * norms[None, :]
    within = jnp.broadcast_to(grams_LxIxmxm, (len(grams_LxIxmxm), m, m, m))
    after = jnp.einsum("lij,lijk,lik->i", coefficients_Lxmxm, within, coefficients_Lxmxm, precision="highest")
    return {
        "conflicts": jnp.sum(jnp.triu(gram_Lxmxm < 0, 1)).astype(jnp.int32),
        "cosines": jnp.where(scale > 0, total / jnp.where(scale > 0, scale, 1.0), 0.0),
        "norms": norms,
        "kept": jnp.where(norms > 0, jnp.sqrt(jnp.maximum(after, 0.0)) / jnp.where(norms > 0, norms, 1.0), 1.0),
    }
