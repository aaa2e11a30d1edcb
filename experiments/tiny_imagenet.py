"""The largest Tiny ImageNet run that two CPU cores afford: configs/tiny_imagenet_resnet18.py:small.

python -m experiments.tiny_imagenet --npz=tiny_imagenet_32.npz --workdir=runs/tiny

The .npz file holds JPEG files end to end in buf, where each begins (and the end) in off, y, split (0 train, 1 val),
wnid. They become a folder, WORKDIR/images, which `prepare` reads as it would any other. What is done already is not
done again. Writes experiments/results/tiny_imagenet_cpu.json; with `--modes=` only the images are made.
"""

import pathlib

import numpy as np
from absl import app, flags

from experiments.provenance import call, provenance
from mrl_jax import results, writers

SPLITS = ("train", "val")

NPZ = flags.DEFINE_string("npz", None, "The pictures.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/tiny", "Where data and runs go.")
MODES = flags.DEFINE_list("modes", ["mrl"], "Words for the config, beside `small`: one run each.")
SEED = flags.DEFINE_integer("seed", 0, "Of the runs.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON goes.")


def unpack(source: str, folder: pathlib.Path) -> None:
    """Writes SPLIT/CLASS/NUMBER.jpg."""
    with np.load(source) as file:
        data, offsets, labels, splits, names = (file[key] for key in ("buf", "off", "y", "split", "wnid"))
    data = data.tobytes()
    for i, (label, split) in enumerate(zip(labels, splits)):
        path = folder / SPLITS[split] / str(names[label]) / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[offsets[i] : offsets[i + 1]])


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    workdir = pathlib.Path(WORKDIR.value)
    images, data = workdir / "images", workdir / "data"
    if not (data / "tiny").exists():
        unpack(NPZ.value, images)
    if not MODES.value:
        return
    call("prepare", str(images), f"--data_dir={data / 'tiny'}", "--seed=0")
    runs = {}
    for mode in MODES.value:
        path = workdir / f"{mode.replace('=', '')}_seed{SEED.value}"
        config = [f"--config=configs/tiny_imagenet_resnet18.py:small,{mode}", f"--config.seed={SEED.value}"]
        call("train", *config, f"--config.data.dir={data}", f"--workdir={path}")
        lines = writers.read_lines(path / "metrics.jsonl")
        rates = [line["train/examples_per_second"] for line in lines if "train/examples_per_second" in line]
        values = {name: found["values"] for name, found in results.read(path).items()}
        runs[mode] = {"values": values, "images_per_second": round(float(np.median(rates)), 1)}
    record = {
        "command": f"python -m experiments.tiny_imagenet --npz={pathlib.Path(NPZ.value).name} "
        f"--modes={','.join(MODES.value)} --seed={SEED.value}",
        "config": "configs/tiny_imagenet_resnet18.py:small",
        **provenance(),
        "unit": "fraction of the 10,000 val images",
        "runs": runs,
    }
    writers.write_json(pathlib.Path(OUT.value) / "tiny_imagenet_cpu.json", record)


if __name__ == "__main__":
    app.run(main)
