"""Throughput of `mrl_jax.embed` against the bare forward pass: reading, computing and writing must overlap.

python -m experiments.benchmarks.embed --pin --out=experiments/results/benchmark_embed_cpu.json

Both are timed in one process with the same compiled function: the bare pass on one batch that is on the device
already, again and again; the whole of `extract`, from ArrayRecord shards to synced files, over a dataset of ROWS rows.
Rounds alternate; the ratio is that of the medians. Compilation and the checkpoint's restore are left out of both.
Where the model may use every core of the host, reading takes them from it, and no overlap can hide that; with --pin
core 0 computes, as an accelerator would, and core 1 reads and writes. `reading_seconds` is the time of reading alone.
"""

import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

from configs import quickstart
from mrl_jax import config as defaults
from mrl_jax import extract, parts, sharding, trained, writers
from mrl_jax.data import array_records
from mrl_jax.features_writer import FeaturesWriter, Layout
from mrl_jax.step import variables_of

OUT = flags.DEFINE_string("out", None, "JSON file to write.")
CASES = flags.DEFINE_list("cases", ["resnet", "vit"], "Which models.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each, alternating.")
ROWS = flags.DEFINE_integer("rows", 8192, "Rows of a pass.")
PIN = flags.DEFINE_bool("pin", False, "CPU: whether core 0 computes and core 1 does the rest.")


def pin() -> None:
    """Starts the device's threads on core 0; this one, and those it starts, go on on core 1."""
    os.sched_setaffinity(0, {0})
    jax.block_until_ready(jax.numpy.ones(1) + 1)
    os.sched_setaffinity(0, {1})


def write_dataset(directory: pathlib.Path, size: int, channels: int, classes: int) -> None:
    """An ArrayRecord dataset of ROWS random images."""
    rng = np.random.default_rng(0)
    examples = (
        {"image": rng.integers(0, 256, (size, size, channels), np.uint8), "label": i % classes}
        for i in range(ROWS.value)
    )
    directory.mkdir(parents=True)
    shard = array_records.write_shard(directory / "train.array_record", examples)
    manifest = {"name": "random", "source": "", "licence": "", "num_classes": classes, "label_names": None}
    array_records.write_manifest(directory, manifest | {"splits": {"train": [shard]}})


def resnet(directory: pathlib.Path):
    """The quickstart's ResNet-10, 32x32 grey."""
    write_dataset(directory, 32, 1, 227)
    c = quickstart.get_config("mrl")
    c.data.name = f"array_record:{directory}"
    return c


def vit(directory: pathlib.Path):
    """A ViT-Ti/16, 64x64 RGB."""
    write_dataset(directory, 64, 3, 100)
    c = defaults.default()
    c.model, c.nesting.dims = defaults.vit("Ti/16"), (12, 48, 192)
    c.data.name = f"array_record:{directory}"
    c.data.mean, c.data.std = (0.5,) * 3, (0.5,) * 3
    return c


def measure(config) -> dict[str, float]:
    """Median rows per second of both."""
    run = parts.assemble(trained.over(config, None, "train", None, None))
    size, rows = config.data.eval_batch_size, len(run.train_source.records)
    bare, whole = [], []
    with jax.set_mesh(run.mesh):
        variables = variables_of(parts.init_state(run))
        embed = extract.make_embed(run, "float32")
        batch = next(extract._batches(run, 0, 1))
        on_device = sharding.to_devices({"image": batch["image"], "label": batch["label"]}, run.mesh)
        for _ in range(ROUNDS.value + 1):
            began = time.perf_counter()
            for _ in range(rows // size):
                found = embed(variables, on_device)
            jax.block_until_ready(found)
            bare.append(time.perf_counter() - began)
            whole.append(whole_pass(run, variables, embed, rows))
        began = time.perf_counter()
        for _ in extract._batches(run, 0, rows // size):
            pass
        reading = time.perf_counter() - began
    seconds = {"bare": float(np.median(bare[1:])), "embed": float(np.median(whole[1:]))}
    return {
        "batch": size,
        "rows": rows,
        "dim": run.nesting.full,
        "rows_per_second": {name: round(rows / s, 1) for name, s in seconds.items()},
        "reading_seconds": round(reading, 3),
        "time_to_bare": round(seconds["embed"] / seconds["bare"], 3),
        "rounds": {"bare": [round(s, 3) for s in bare[1:]], "embed": [round(s, 3) for s in whole[1:]]},
    }


def whole_pass(run, variables, embed, rows: int) -> float:
    """Seconds from the first record to the synced and described files."""
    out = pathlib.Path(tempfile.mkdtemp())
    try:
        layout = Layout(rows, run.nesting.full, "float32", (), run.train_source.num_classes, None, run.nesting.dims)
        began = time.perf_counter()
        writer = FeaturesWriter(out / "x", {"benchmark": 1}, layout, 512)
        extract.fill(run, variables, embed, writer, writer.missing, writer.block_rows)
        writer.close()
        return time.perf_counter() - began
    finally:
        shutil.rmtree(out)


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    cases = {"resnet": resnet, "vit": vit}
    if PIN.value:
        pin()
    table = []
    for name in CASES.value:
        with tempfile.TemporaryDirectory() as directory:
            config = cases[name](pathlib.Path(directory) / "data")
            config.data.train_split = config.data.eval_split = "train"
            table.append({"case": cases[name].__doc__, **measure(config)})
    for row in table:
        print(row["case"], row["rows_per_second"], f"time to bare {row['time_to_bare']}", flush=True)
    device = jax.devices()[0].device_kind
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "command": " ".join(["python", "-m", "experiments.benchmarks.embed", *sys.argv[1:]]),
        "commit": commit,
        "hardware": f"{os.cpu_count()} cores ({platform.machine()})" if device == "cpu" else device,
        "jax": jax.__version__,
        "pinned": PIN.value,
        "cases": table,
    }
    if OUT.value:
        writers.write_json(OUT.value, record)


if __name__ == "__main__":
    app.run(main)
