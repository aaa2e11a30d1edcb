"""Nested dicts of arrays seen as flat `path/to/leaf` names."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A flat dict whose keys are the paths joined by '/', each below `prefix` where one is given."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}/{key}" if prefix else key
        flat.update(flatten(value, name) if isinstance(value, Mapping) else {name: value})
    return flat


def unflatten(flat: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `flatten`; names that do not lie below `prefix` are left out."""
    tree: dict[str, Any] = {}
    start = f"{prefix}/" if prefix else ""
    for name, value in flat.items():
        if name.startswith(start):
            *parents, leaf = name[len(start) :].split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def partition(tree: Mapping[str, Any], pattern: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The nested dicts of the leaves whose name the regular expression finds, and of the others; "" finds none."""
    flat = flatten(tree)
    found = {name for name in flat if pattern and re.search(pattern, name)}
    parts = ({n: v for n, v in flat.items() if (n in found) == side} for side in (True, False))
    return tuple(unflatten(part) for part in parts)


def merge(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict with the leaves of both; where both have one, that of `over`."""
    return unflatten(flatten(tree) | flatten(over))


def name_of(path: tuple) -> str:
    """The '/'-joined name of a key path of `jax.tree_util`."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def map_named(fn: Callable[[str, Any], Any], tree: Any) -> Any:
    """Maps `fn(name, leaf)` over any pytree."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(name_of(path), leaf), tree)


def mask(tree: Any, pattern: str) -> Any:
    """True at each leaf whose name the regular expression `pattern` finds; an empty pattern finds none."""
    return map_named(lambda name, _: bool(pattern) and re.search(pattern, name) is not None, tree)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every float in every leaf is finite; one boolean, the same on every device."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.asarray([jnp.isfinite(leaf).all() for leaf in floats]).all()


def count(tree: Any) -> int:
    """The number of elements in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
