"""Time of the linear probes at 2048 features, 9 dims and 1000 classes, measured in parts and put together for
1.28 million rows.

python -m experiments.benchmarks.linear_probe --out=experiments/results/benchmark_linear_probe_cpu.json

What depends on the rows is timed on a few blocks of a memory-mapped float16 file and scales with their number; what
does not (factorisations, substitutions) is timed whole. Floors count multiply-adds at the rate of a plain float32
product of the same size timed in between: the Gram matrix N D (D + 1) / 2, one factorisation D^3 / 3, one pass of the
logistic loss 3 N sum(dims) C (logits twice, as the backward pass computes them again, and the gradient), one step of
SGD 2 B sum(dims) C (a minibatch of B rows is small enough to keep its logits).
"""

import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from mrl_jax import writers
from mrl_jax.evals import logistic, ridge, sgd_probe, streams
from mrl_jax.evals.linear_heads import accuracy
from mrl_jax.evals.moments import accumulate
from mrl_jax.evals.streams import Stream
from mrl_jax.nesting import Nesting

OUT = flags.DEFINE_string("out", None, "JSON file to write.")
BLOCKS = flags.DEFINE_integer("blocks", 2, "Blocks of rows to measure on.")
DIM = flags.DEFINE_integer("dim", 2048, "Features.")
CLASSES = flags.DEFINE_integer("classes", 1000, "Classes.")
FULL_ROWS, TEST_ROWS = 1_281_167, 50_000
PASSES = 300  # of the logistic probe, four penalties and the last fit; what it takes depends on the data


def seconds(function, repeats: int = 3) -> float:
    """The median time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def multiply_adds_per_second(rows: int, dim: int) -> float:
    """Of one float32 product (D, N) x (N, D) at the precision that the probes ask for."""
    x = jnp.ones((rows, dim))
    product = jax.jit(partial(jnp.matmul, precision="highest"))
    return rows * dim**2 / seconds(lambda: jax.block_until_ready(product(x.T, x)))


def measure(directory: pathlib.Path) -> dict[str, float]:
    """Seconds of every part, for `rows` rows where it depends on them."""
    dim, classes, rows = DIM.value, CLASSES.value, BLOCKS.value * streams.BLOCK_ROWS
    dims = Nesting.halving(dim, 8).dims
    rng = np.random.default_rng(0)
    np.save(directory / "z.npy", rng.standard_normal((rows, dim), np.float32).astype(np.float16))
    z, labels = np.load(directory / "z.npy", mmap_mode="r"), rng.integers(0, classes, rows).astype(np.int32)
    moments = accumulate(Stream(z, labels), classes)
    unit = ridge.scale(moments)
    heads = ridge.solve(moments, dims, unit)
    weights = [np.zeros((m + 1, classes)) for m in dims]
    mean = jnp.zeros(dim)
    shared, independent = (
        seconds(lambda: ridge.solve(moments, dims, unit), 2),
        seconds(lambda: [ridge.solve(moments, (m,), unit) for m in dims], 2),
    )
    rates, stream = 0.5 / sgd_probe.curvatures(moments, dims), Stream(z, labels, np.arange(2048))
    sgd_probe.LEAST_STEPS = 1  # of ten epochs over so few rows, the part that is timed
    steps = sgd_probe.schedule(2048).steps
    return {
        "rows": rows,
        "sgd_step": seconds(lambda: sgd_probe.train(stream, moments, dims, rates, 0), 1) / steps,
        "plain_multiply_adds_per_second": multiply_adds_per_second(rows, dim),
        "moments": seconds(lambda: accumulate(Stream(z, labels), classes)),
        "accuracy": seconds(lambda: accuracy(Stream(z, labels), heads), 2),
        "logistic_pass": seconds(lambda: logistic._pass(Stream(z, labels), mean, dims, weights), 1),
        "ridge_solve_all_dims": shared,
        "ridge_solve_each_dim_alone": independent,
    }


def extrapolate(found: dict[str, float]) -> dict[str, dict[str, float]]:
    """Seconds for FULL_ROWS training and TEST_ROWS test rows, with the floor of each by multiply-adds."""
    dim, classes, rate = DIM.value, CLASSES.value, found["plain_multiply_adds_per_second"]
    width = sum(Nesting.halving(dim, 8).dims)
    held = min(streams.HELD_OUT_MOST, FULL_ROWS // 10)
    per_row = {name: found[name] / found["rows"] for name in ("moments", "accuracy", "logistic_pass")}
    parts = {
        "moments": (FULL_ROWS * per_row["moments"], FULL_ROWS * dim * (dim + 1) / 2 / rate),
        # One factorisation per penalty, then at most one per penalty chosen by some dim.
        "ridge solves": (2 * len(ridge.GRID) * found["ridge_solve_all_dims"], 2 * len(ridge.GRID) * dim**3 / 3 / rate),
        "choice and test": (
            (len(ridge.GRID) * held + TEST_ROWS) * per_row["accuracy"],
            (len(ridge.GRID) * held + TEST_ROWS) * width * classes / rate,
        ),
    }
    total = tuple(sum(p[i] for p in parts.values()) for i in range(2))
    one_pass = (FULL_ROWS * per_row["logistic_pass"], 3 * FULL_ROWS * width * classes / rate)
    parts |= {"ridge probe, total": total, "one logistic pass": one_pass}
    plan, fits = sgd_probe.schedule(FULL_ROWS), len(sgd_probe.GRID) + 1
    step = found["sgd_step"], 2 * plan.batch_rows * width * classes / rate
    parts[f"SGD probe, {fits} x {plan.steps} steps of {plan.batch_rows}"] = tuple(fits * plan.steps * t for t in step)
    parts[f"logistic probe, {PASSES} passes"] = tuple(PASSES * t for t in one_pass)
    return {name: {"seconds": round(t, 1), "floor_seconds": round(floor, 1)} for name, (t, floor) in parts.items()}


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    with tempfile.TemporaryDirectory() as directory:
        found = measure(pathlib.Path(directory))
    device = jax.devices()[0].device_kind
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "command": " ".join(["python", "-m", "experiments.benchmarks.linear_probe", *sys.argv[1:]]),
        "commit": commit,
        "hardware": f"{os.cpu_count()} cores ({platform.machine()})" if device == "cpu" else device,
        "jax": jax.__version__,
        "dims": Nesting.halving(DIM.value, 8).dims,
        "classes": CLASSES.value,
        "measured_seconds": {name: round(value, 4) for name, value in found.items()},
        "solves_each_alone_to_shared": round(found["ridge_solve_each_dim_alone"] / found["ridge_solve_all_dims"], 2),
        f"extrapolated_to_{FULL_ROWS}_rows": extrapolate(found),
    }
    for name, value in record.items():
        print(f"{name}: {value}", flush=True)
    if OUT.value:
        writers.write_json(OUT.value, record)


if __name__ == "__main__":
    app.run(main)
