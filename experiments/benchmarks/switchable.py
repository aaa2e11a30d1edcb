"""One update of several widths against its parts: each width by itself, the projection by itself, the same without it.

python -m experiments.benchmarks.switchable --out=experiments/results/benchmark_switchable_cpu.json

A ResNet-18 with the small stem on random images of 32 pixels, widths 0.25, 0.5, 0.75 and 1, one tied softmax head. The
parts are compiled apart: value and gradient of each width, with nothing after it. An update without projection has
its Gram matrix all the same, for the log. All are timed in turn in one process, round after round; the ratios are of
medians. Set JAX_COMPILATION_CACHE_DIR to compile once for several runs.
"""

import functools
import os
import platform
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags

from mrl_jax import config as defaults
from mrl_jax import parts, sharding, surgery, trees, writers

OUT = flags.DEFINE_string("out", None, "JSON file to write.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each, alternating.")
BATCH = flags.DEFINE_integer("batch", 64, "Images.")
VARIANT = flags.DEFINE_string("variant", "18", "Of the ResNet.")
WIDTHS = (0.25, 0.5, 0.75, 1.0)


def config(projection: str):
    """A run on random images."""
    c = defaults.default()
    c.batch_size = c.data.eval_batch_size = BATCH.value
    c.model = {**defaults.resnet(VARIANT.value), "stem": "small", "widths": WIDTHS, "projection": 128}
    c.head, c.nesting.dims = "mrl_e", (8, 32, 128)
    c.data.name = f"synthetic:size=32,channels=3,classes=100,examples={BATCH.value}"
    c.optim = defaults.sgd(0.1)
    c.switch.projection = projection
    return c


def gradient_of(run, sub):
    """The jitted value and gradient of one width."""

    def loss(params, batch_stats, batch):
        variables = {"params": params, "batch_stats": batch_stats}
        z, out = run.model.apply(variables, batch, train=True, rngs={}, width=sub.width)
        statistics = {name: value for name, value in out.items() if name.startswith("batch_stats/")}
        return sub.objective(z, out, batch).total, statistics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def measure() -> dict:
    """Median seconds of every part, and the ratios."""
    runs = {projection: parts.assemble(config(projection)) for projection in ("none", "all")}
    run = runs["all"]
    with jax.set_mesh(run.mesh):
        state = parts.init_state(run)
        batch = sharding.to_devices(next(parts.train_batches(run, 0)), run.mesh)
        own = (state.params, state.batch_stats, batch)
        timed = {f"width {s.width:g}": (gradient_of(run, s), own) for s in run.subs}
        for name, other in runs.items():  # the state is not donated, so that the update can be called again
            timed[f"update, projection {name}"] = (jax.jit(parts.make_update(other)), (state, batch))
        grads = [fn(*own)[1] for fn, own in timed.values() if len(own) == 3]
        owners = [trees.unflatten(_shapes(sub)) for sub in run.subs]
        project = jax.jit(functools.partial(surgery.project, mode="all", owners=owners))
        timed["projection alone"] = (project, (grads, jax.random.key(0)))
        seconds = {name: [] for name in timed}
        for round_ in range(ROUNDS.value + 1):
            for name, (fn, arguments) in timed.items():
                began = time.perf_counter()
                jax.block_until_ready(fn(*arguments))
                if round_:
                    seconds[name].append(time.perf_counter() - began)
            print(f"round {round_} of {ROUNDS.value}", file=sys.stderr, flush=True)
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    parts_sum = sum(value for name, value in median.items() if name.startswith("width"))
    none, projected = median["update, projection none"], median["update, projection all"]
    return {
        "seconds": {name: [round(t, 4) for t in times] for name, times in seconds.items()},
        "median": {name: round(value, 4) for name, value in median.items()},
        "update_to_sum_of_widths": round(projected / parts_sum, 3),
        "projection_share": round(median["projection alone"] / projected, 4),
        "projected_to_merged_without": round(projected / none, 3),
    }


def _shapes(sub):
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in sub.owned.items()}


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    found = measure()
    print(found["median"])
    print(
        f"update / sum of widths {found['update_to_sum_of_widths']}, projection {found['projection_share']:.1%} of it"
    )
    device = jax.devices()[0].device_kind
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "command": " ".join(["python", "-m", "experiments.benchmarks.switchable", *sys.argv[1:]]),
        "commit": commit,
        "hardware": f"{os.cpu_count()} cores ({platform.machine()})" if device == "cpu" else device,
        "jax": jax.__version__,
        "model": f"ResNet-{VARIANT.value}, batch {BATCH.value} of 32x32",
        "widths": list(WIDTHS),
        **found,
    }
    if OUT.value:
        writers.write_json(OUT.value, record)


if __name__ == "__main__":
    app.run(main)
