"""JFT-like pretraining at a small size: icon concepts with a long tail, evaluated on drawing styles never seen.

python -m experiments.concepts --npz=icons_64.npz --workdir=runs/concepts

The .npz file holds x, uint8 (N, H, W); concept, the name of the class of each; set, who drew it. Every tenth set is
the test. What is prepared or trained already is not done again. Writes experiments/results/concepts.json.
"""

import pathlib

import numpy as np
from absl import app, flags

from experiments.provenance import call, provenance
from mrl_jax import results, writers

NPZ = flags.DEFINE_string("npz", None, "The pictures.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/concepts", "Where data and runs go.")
MODES = flags.DEFINE_list("modes", ["mrl", "multi_label"], "Words for the config: one run each.")
SEED = flags.DEFINE_integer("seed", 0, "Of the runs.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON goes.")


def divide(source: str, target: pathlib.Path) -> None:
    """Writes the file that `prepare` reads: {train,test}_{images,labels}, divided by set."""
    with np.load(source) as file:
        images, concepts, sets = file["x"], file["concept"], file["set"]
    test = np.isin(sets, np.unique(sets)[::10])
    parts = {"train": ~test, "test": test}
    arrays = {f"{split}_images": images[rows] for split, rows in parts.items()}
    arrays |= {f"{split}_labels": concepts[rows] for split, rows in parts.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(target)


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    workdir = pathlib.Path(WORKDIR.value)
    divided, data = workdir / "divided.npz", workdir / "data"
    if not divided.exists():
        divide(NPZ.value, divided)
    keys = ("--image_key={split}_images", "--label_key={split}_labels")
    call("prepare", str(divided), f"--data_dir={data / 'concepts'}", "--seed=0", *keys)
    runs = {}
    for mode in MODES.value:
        path = workdir / f"{mode}_seed{SEED.value}"
        config = [f"--config=configs/concepts_resnet10.py:{mode}", f"--config.seed={SEED.value}"]
        call("train", *config, f"--config.data.dir={data}", f"--workdir={path}")
        runs[mode] = {name: found["values"] for name, found in results.read(path).items()}
    record = {
        "command": f"python -m experiments.concepts --npz={pathlib.Path(NPZ.value).name} "
        f"--modes={','.join(MODES.value)} --seed={SEED.value}",
        "config": "configs/concepts_resnet10.py",
        **provenance(),
        "unit": "fraction of the test images, of icon sets not seen in training",
        "runs": runs,
    }
    writers.write_json(pathlib.Path(OUT.value) / "concepts.json", record)


if __name__ == "__main__":
    app.run(main)
