"""What a run will cost, known before it starts: `python -m mrl_jax.train --config=... --dry_run`. Makes no workdir."""

import collections
import contextlib
import math
import re
from typing import Any, NamedTuple

import jax
import ml_collections

from mrl_jax import config as configs
from mrl_jax import flops, parts, sharding, trees


class Memory(NamedTuple):
    """Bytes on one device during the update.

    Attributes:
      params: parameters and BatchNorm statistics.
      optimizer: its state.
      ema: the moving average.
      batch: this device's rows.
      work: gradients, activations and temporaries, and outputs that take no input's place, as the compiler plans them.
    """

    params: int
    optimizer: int
    ema: int
    batch: int
    work: int


class Cost(NamedTuple):
    """What a run costs.

    Attributes:
      flops: counted operations of an update over all devices, by stage (`Parts.stages`): images may grow.
      total_flops: of all updates.
      memory: of one device, in the stage of the largest images.
      platform: what the update was compiled for.
    """

    flops: tuple[int, ...]
    total_flops: int
    memory: Memory
    platform: str


def report(
    config: ml_collections.ConfigDict, count: int | None, classes: int | None, accelerator: str, mfu: float
) -> str:
    """The cost of the run of a config, as text.

    Args:
      config: of the run.
      count: devices to plan for; None: as many as the mesh names, or else all at hand.
      classes: plan for images of so many classes, where the data is not there yet.
      accelerator: what the devices will be, a name of `flops.ACCELERATORS`.
      mfu: the share of its peak to expect.

    Raises:
      ValueError: for less than one device, or what the config has wrong.
    """
    if count is not None and count < 1:
        raise ValueError(f"--devices={count} must be at least 1; leave it out for those of the mesh")
    found = devices(wanted_devices(config, count))
    if classes:
        config.data.name = f"synthetic:size=512,channels=3,classes={classes},examples={classes}"
        config.data.train_split, config.data.eval_split = "train", "test"
        config.evals = {}  # their splits are those of the data
    run = parts.assemble(config, sharding.make_mesh(**config.mesh, devices=found))
    return describe(run, cost(run), accelerator, mfu)


def devices(count: int | None) -> list[jax.Device]:
    """So many devices to plan for: of those at hand, or else CPU devices that stand for them; None: all at hand.

    To be called before anything else asks for devices: only then can they stand for more than there are.

    Raises:
      ValueError: if it comes too late for that.
    """
    if count is None:
        return jax.devices()
    # Refused where the devices are there already; those may be enough.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices() if count <= jax.device_count() else jax.devices("cpu")
    if count > len(found):
        raise ValueError(f"{count} devices cannot be planned for in a process that already has {len(found)}")
    return found[:count]


def wanted_devices(config: ml_collections.ConfigDict, asked: int | None) -> int | None:
    """How many devices the mesh of the config needs, where it says so itself; else `asked`."""
    sizes = [int(size) for size in config.mesh.values()]
    return asked or (math.prod(sizes) if min(sizes) > 0 else None)


def cost(run: parts.Parts) -> Cost:
    """Traces the update of every stage and compiles that of the largest images; runs nothing."""
    batches = [batch for _, batch in run.stages]
    largest = max(range(len(batches)), key=lambda i: sum(math.prod(x.shape) for x in batches[i].values()))
    with jax.set_mesh(run.mesh):
        traced = [parts.jit_train_step(run).trace(run.abstract_state, batch) for batch in batches]
        found = traced[largest].lower().compile().memory_analysis()
    counted = tuple(flops.of_jaxpr(update.jaxpr.jaxpr) for update in traced)
    ends = [first for first, _ in run.stages[1:]] + [run.config.total_steps]
    total = sum(each * (end - first) for each, (first, _), end in zip(counted, run.stages, ends))
    state, batch = run.abstract_state, sharding.of_batch(run.mesh)
    rows = sum(math.prod(batch.shard_shape(s.shape)) * s.dtype.itemsize for s in batches[largest].values())
    work = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    own = _bytes((state.params, state.batch_stats))
    memory = Memory(own, _bytes(state.opt_state), _bytes(state.ema), rows, work)
    return Cost(counted, total, memory, run.mesh.devices.flat[0].platform)


def _bytes(tree: Any) -> int:
    """What one device holds of a tree of abstract arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def describe(run: parts.Parts, found: Cost, accelerator: str, mfu: float) -> str:
    """The estimate as text.

    Raises:
      ValueError: unless 0 < mfu <= 1.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"--mfu={mfu} must be in (0, 1]: the share of the accelerator's peak that you expect")
    config, mesh = run.config, run.mesh
    _, trained = trees.partition(run.abstract_state.params, config.optim.freeze)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    lines = [
        f"{configs.name_of(config.model)}, head {config.head}, dims {run.nesting.dims}, "
        f"{run.train_source.num_classes} classes; {mesh.size} devices: {axes}",
        "",
        *_table(run),
        f"parameters           {trees.count(run.abstract_state.params):,}, of them trained {trees.count(trained):,}",
        f"operations per step  {', then '.join(f'{each:.4g}' for each in found.flops)} FLOP on {mesh.size} devices "
        f"together, batch {config.batch_size}; {found.total_flops:.4g} in all",
        *_memory_lines(found, accelerator),
        *_time_lines(run, found, accelerator, mfu),
    ]
    return "\n".join(lines)


def _table(run: parts.Parts) -> list[str]:
    """A line per group of parameters: names that differ only in a number, of the same shape and sharding."""
    groups: dict[tuple, int] = collections.Counter()
    for name, leaf in trees.flatten(run.abstract_state.params).items():
        frozen = run.config.optim.freeze and re.search(run.config.optim.freeze, name)
        spec = ", ".join(str(axis) for axis in leaf.sharding.spec) if any(leaf.sharding.spec) else "whole"
        groups[re.sub(r"_\d+\b", "_*", name), leaf.shape, spec + (", frozen" if frozen else "")] += 1
    width = max(len(name) for name, _, _ in groups)
    rows = [f"{name:{width}}  {n:3} x {shape!s:22} {spec}" for (name, shape, spec), n in groups.items()]
    return [f"{'parameter':{width}}  how many, shape               on each device", *rows, ""]


def _memory_lines(found: Cost, accelerator: str) -> list[str]:
    total, room = sum(found.memory), flops.ACCELERATORS[accelerator].memory
    shown = ", ".join(f"{name} {_size(value)}" for name, value in found.memory._asdict().items())
    verdict = "fits" if total < 0.95 * room else "does not fit: more devices, mesh.fsdp, accumulate or model.remat"
    lines = [
        f"memory per device    {_size(total)}: {shown}",
        f"  of the {_size(room)} of one {accelerator}: {verdict}",
        "  Not counted: batches drawn ahead, evaluation, what the driver keeps",
    ]
    if found.platform == "cpu":
        lines.append(
            "  work is what XLA plans for CPU devices that stand in for it, which keep bfloat16 as float32: an upper "
            "estimate there"
        )
    return lines


def _time_lines(run: parts.Parts, found: Cost, accelerator: str, mfu: float) -> list[str]:
    peak, steps = flops.ACCELERATORS[accelerator].peak, run.config.total_steps
    seconds = found.total_flops / (peak * mfu * run.mesh.size)
    note = "" if run.config.dtype == "bfloat16" else "; float32 is far from that peak: set dtype='bfloat16'"
    return [
        f"time to finish       {_duration(seconds)}: {steps:,} steps of {1000 * seconds / steps:.4g} ms on "
        f"{run.mesh.size} x {accelerator} at {100 * mfu:g} % of {peak / 1e12:g} TFLOP/s (bf16)",
        f"  Not counted: compilation, evaluation, checkpoints, waiting for data{note}",
    ]


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.2g} seconds"
