"""The quickstart against fixed-feature models of the same budget, one per dim, over several seeds.

python -m experiments.quickstart --workdir=runs/quickstart --seeds=0,1,2

Trains every run by the command a user types (a finished or interrupted one is continued), writes
experiments/results/quickstart.json and quickstart.png, and prints the table.
"""

import pathlib
import subprocess
import sys

from absl import app, flags

from experiments.provenance import provenance
from experiments.seeds import cell, over_seeds
from mrl_jax import results, writers
from mrl_jax.nesting import Nesting

CONFIG = "configs/quickstart.py"
DIMS = Nesting.halving(256, 8).dims
METRICS = ("classification top1", "knn top1")

WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where the runs go.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "One run of every model per seed.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON and the picture go.")


def run(mode: str, seed: str) -> dict[str, dict[int, float]]:
    """Trains one model and returns its curves."""
    workdir = pathlib.Path(WORKDIR.value) / f"{mode.replace('=', '')}_seed{seed}"
    command = ["mrl_jax.train", f"--config={CONFIG}:{mode}", f"--config.seed={seed}", f"--workdir={workdir}"]
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)
    return results.curves({name: found["values"] for name, found in results.read(workdir).items()})


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    mrl = [run("mrl", seed) for seed in SEEDS.value]
    ff = {dim: [run(f"ff={dim}", seed) for seed in SEEDS.value] for dim in DIMS}
    rows = []
    for metric in METRICS:
        for dim in DIMS:
            ours, theirs = over_seeds([c[metric][dim] for c in mrl]), over_seeds([c[metric][dim] for c in ff[dim]])
            rows.append({"metric": metric, "dim": dim, "mrl": ours, "ff": theirs})
            print(f"{metric:20s} {dim:4d}  MRL {cell(ours)}  FF {cell(theirs)}")
    record = {
        "command": f"python -m experiments.quickstart --seeds={','.join(SEEDS.value)}",
        "config": CONFIG,
        **provenance(),
        "unit": "percent of the 1,120 test images",
        "rows": rows,
    }
    out = pathlib.Path(OUT.value)
    writers.write_json(out / "quickstart.json", record)
    first = {name: {f"{m}@{d}": v for d, v in mrl[0][f"{name} {m}"].items()} for name, m in map(str.split, METRICS)}
    beside = [("", metric, dim, ff[dim][0][metric][dim]) for metric in METRICS for dim in DIMS]
    results.plot(out / "quickstart.png", first, Nesting(DIMS), beside)


if __name__ == "__main__":
    app.run(main)
