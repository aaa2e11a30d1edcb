"""The device mesh, and where each array of the batch and of the state lives on it.

Three axes, sizes from the config: `data` (replicated parameters), `fsdp` (parameters and optimizer state sharded,
gathered when used) and `model` (the classes of the heads). A batch is split over data x fsdp.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mrl_jax import trees

BATCH_AXES = ("data", "fsdp")


def make_mesh(data: int, fsdp: int, model: int, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, model) mesh over every device, or over those given; one of the sizes may be -1, for all that is
    left.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices.
    """
    sizes, devices = {"data": data, "fsdp": fsdp, "model": model}, devices or jax.devices()
    count = len(devices)
    free = [name for name, size in sizes.items() if size == -1]
    rest = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(free) == 1 and rest > 0 and count % rest == 0:
        sizes[free[0]] = count // rest
    if any(size < 1 for size in sizes.values()) or int(np.prod(list(sizes.values()))) != count:
        raise ValueError(
            f"mesh={sizes} does not cover the {count} devices at hand: the sizes must multiply to {count}; "
            "give at most one of them as -1 to take what is left"
        )
    axes = {"axis_types": (AxisType.Auto,) * len(sizes)}
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) == 1:  # JAX knows how they are wired
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), **axes, devices=devices)
    return Mesh(_outermost_slices(devices).reshape(tuple(sizes.values())), tuple(sizes), **axes)


def _outermost_slices(devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices in an order in which those of a slice, and then those of a host, are neighbours.

    `jax.make_mesh` refuses several slices, and every host of GPUs is a slice of its own.
    """
    return np.array(sorted(devices, key=lambda device: (device.slice_index, device.process_index, device.id)))


def check_batch(batch_size: int, mesh: Mesh, field: str = "batch_size", microbatches: int = 1) -> None:
    """Raises ValueError unless every device of the batch axes gets the same number of rows of every microbatch."""
    shards = _shards(mesh)
    if batch_size < 1 or batch_size % shards:
        raise ValueError(
            f"{field}={batch_size} is not divisible by the {shards} devices of mesh axes data x fsdp "
            f"({mesh.shape['data']} x {mesh.shape['fsdp']}): use a multiple of {shards}"
        )
    if batch_size % (shards * microbatches):
        raise ValueError(
            f"accumulate={microbatches}: {field}={batch_size} is not divisible by {microbatches} microbatches x "
            f"{shards} devices: use a multiple of {microbatches * shards}"
        )


def _shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def of_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over data x fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def of_tree(tree: Any, mesh: Mesh, rules: Sequence[tuple[str, tuple]], fsdp_min_size: int) -> Any:
    """A sharding for each leaf of a (possibly abstract) tree; for optimizer state too, whose names end in the
    parameter's.

    The first rule whose regular expression finds the leaf's name decides: (regex, spec), spec one mesh axis or None per
    dimension. A leaf that no rule finds and that has at least `fsdp_min_size` elements is split over `fsdp` along its
    largest divisible dimension; the others are replicated.

    Raises:
      ValueError: if a rule splits a dimension that its mesh axis does not divide.
    """

    def of_leaf(name: str, leaf: Any) -> NamedSharding:
        for pattern, spec in rules:
            # An optimizer may have a single number in the place of a parameter, as Adafactor does.
            if re.search(pattern, name) and len(spec) == leaf.ndim and leaf.size > 1:
                _check_divisible(name, leaf.shape, spec, mesh, pattern)
                return NamedSharding(mesh, PartitionSpec(*spec))
        spec = [None] * leaf.ndim
        size = mesh.shape["fsdp"]
        divisible = [(n, axis) for axis, n in enumerate(leaf.shape) if n % size == 0]
        if size > 1 and leaf.size >= fsdp_min_size and divisible:
            spec[max(divisible)[1]] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return trees.map_named(of_leaf, tree)


def _check_divisible(name: str, shape: tuple, spec: Sequence, mesh: Mesh, pattern: str) -> None:
    for size, axis in zip(shape, spec):
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(
                f"sharding rule {pattern!r} splits {name} {shape} over mesh axis {axis}={mesh.shape[axis]}, which does "
                f"not divide {size}: choose a mesh.{axis} that divides it, or leave the rule out"
            )


@functools.lru_cache
def rows_of_process(batch_size: int, mesh: Mesh) -> np.ndarray:
    """The rows of a batch that this process's devices hold, increasing.

    Neighbours on a mesh need not be of one process, and a `model` axis over several processes has each of them hold the
    same rows.
    """
    held = of_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The rows of a batch that `rows_of_process` names, put on this process's devices as its part of the batch."""
    shards = _shards(mesh)
    held, sharding = len(rows_of_process(shards, mesh)), of_batch(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        batch_size = len(rows) * shards // held
        own = rows_of_process(batch_size, mesh)

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            first, last, _ = index[0].indices(batch_size)
            at = int(np.searchsorted(own, first))
            return rows[at : at + last - first]

        return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, shard)

    return {name: put(rows) for name, rows in batch.items()}
