"""Time and temporary memory of the nested losses, value and gradient, against one plain head and against the naive
loop.

python experiments/benchmarks/losses.py --out=experiments/results/benchmark_losses_cpu.json

Calls are interleaved in one run; ratios are medians over rounds. The floor counts multiply-adds: where one plain head
needs 6 B C D, a tied one needs 2 B C for every feature whose logits the backward pass computes again besides: for none
where one chunk holds all classes, for those below the full dim where its logits are kept, else for all; untied heads
the sum of dims.
"""

import argparse
import os
import platform
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax import losses
from mrl_jax.losses import reference
from mrl_jax.losses.plan import Head, make_plan
from mrl_jax.losses.softmax import Softmax
from mrl_jax.nesting import Nesting
from mrl_jax.writers import write_json

CASES = {
    "G7 tied": (512, 18000, Nesting.halving(768, 12), True),
    "G9 tied": (256, 1000, Nesting.halving(2048, 8), True),
    "G9 untied": (256, 1000, Nesting.halving(2048, 8), False),
    "G32 tied": (512, 18000, Nesting.uniform(1024, 32), True),
}


def plain(z_BxD, kernel_DxC, bias_C, labels_B):
    """Softmax cross-entropy of one head at full dim."""
    logits = (z_BxD @ kernel_DxC + bias_C[None]).astype(jnp.float32)
    own = jnp.take_along_axis(logits, labels_B[:, None], axis=1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=1) - own).mean()


def compiled(loss, *arguments):
    """The compiled value and gradient, and its temporary bytes."""
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile()
    return step, step.memory_analysis().temp_size_in_bytes


def measure(rows, classes, nesting, tied, dtype, repeats):
    """Times and bytes of ours, the plain head and the loop, by name."""
    key = jax.random.key(0)
    z = jax.random.normal(key, (rows, nesting.full), dtype)
    kernel = (jax.random.normal(key, (nesting.full, classes)) * 0.02).astype(dtype)
    bias, labels = jnp.zeros(classes), jax.random.randint(key, (rows,), 0, classes)
    heads = (kernel, bias) if tied else ([kernel[:m] for m in nesting.dims], [bias] * len(nesting))
    name = "nested_softmax" if tied else "nested_softmax_untied"
    steps = {"plain": (compiled(plain, z, kernel, bias, labels), (z, kernel, bias, labels))}
    for label, module in (("ours", losses), ("loop", reference)):
        loss = getattr(module, name)
        arguments = (z, *heads, labels)
        steps[label] = (compiled(lambda z, k, b, y, f=loss: f(z, k, b, y, nesting).total, *arguments), arguments)
    seconds = {label: [] for label in steps}
    for round_ in range(repeats + 1):
        for label, ((step, _), arguments) in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(*arguments))
            if round_:
                seconds[label].append(time.perf_counter() - began)
    return seconds, {label: memory for label, ((_, memory), _) in steps.items()}


def floor(rows, classes, nesting, dtype):
    """Multiply-adds of a tied head to those of a plain one."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((nesting.full, classes), (classes,))]
    plan = make_plan(Softmax(0.0, classes), nesting, rows, Head(*((shape,) for shape in shapes)), None)
    again = nesting.dims[-2] if plan.keeps and not plan.even else nesting.full
    return 1 if plan.chunk == plan.width else 1 + again / nesting.full / 3


def row(case, rows, classes, nesting, tied, dtype, repeats):
    """One line of the table, JSON-able."""
    seconds, memory = measure(rows, classes, nesting, tied, dtype, repeats)
    ratio = {k: float(np.median(np.array(seconds["ours"]) / np.array(seconds[k]))) for k in ("plain", "loop")}
    work = floor(rows, classes, nesting, dtype) if tied else sum(nesting.dims) / nesting.full
    return {
        "case": case,
        "rows": rows,
        "classes": classes,
        "dims": nesting.dims,
        "milliseconds": {k: round(1e3 * float(np.median(v)), 2) for k, v in seconds.items()},
        "temporary_mib": {k: round(v / 2**20, 2) for k, v in memory.items()},
        "time_to_plain": round(ratio["plain"], 2),
        "time_to_loop": round(ratio["loop"], 2),
        "memory_to_plain": round(memory["ours"] / memory["plain"], 2),
        "memory_to_loop": round(memory["ours"] / memory["loop"], 2),
        "floor_multiply_adds_to_plain": round(work, 2),
        "time_to_floor": round(ratio["plain"] / work, 2),
        "exponentials": 2 * len(nesting) * rows * classes,
    }


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    table = []
    for case, arguments in CASES.items():
        table.append(row(case, *arguments, options.dtype, options.repeats))
        shown = {k: table[-1][k] for k in ("time_to_plain", "time_to_loop", "memory_to_plain", "memory_to_loop")}
        print(f"{case:10s}", "  ".join(f"{k} {v:.2f}" for k, v in shown.items()), flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    device = jax.devices()[0].device_kind
    record = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "hardware": f"{os.cpu_count()} cores ({platform.machine()})" if device == "cpu" else device,
        "jax": jax.__version__,
        "dtype": options.dtype,
        "repeats": options.repeats,
        "cases": table,
    }
    if options.out:
        write_json(options.out, record)


if __name__ == "__main__":
    main()
