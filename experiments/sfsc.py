"""SFSC against its baselines: do the widths of one run find each other's images, and at what price to themselves?

python -m experiments.sfsc --workdir=runs/sfsc_icons
python -m experiments.emoji_identities --npz=emoji_64.npz --data_dir=data/emoji
python -m experiments.sfsc --workdir=runs/sfsc_emoji --data=array_record:emoji --data_dir=data --seeds=0,1,2
python -m experiments.tiny_imagenet --npz=tiny_imagenet_32.npz --workdir=runs/tiny --modes=
python -m mrl_jax.prepare runs/tiny/images --splits=train --open_set=0.5 --seed=0 --data_dir=data/tiny_open
python -m experiments.sfsc --workdir=runs/sfsc_tiny --data=array_record:tiny_open --data_dir=data --max_queries=5000 \\
  --steps=2000 --methods=independent,joint,bct,sfsc,regress_from_full,joint_from_full,sfsc_from_full
python -m experiments.sfsc --workdir=runs/sfsc_icons --methods=sfsc,joint,kendall --out=runs/sfsc_icons
python -m experiments.sfsc --workdir=runs/sfsc_icons --recalibrate=20

Trains every run by the command a user types, four widths of a ResNet-10 by each method of configs/sfsc_resnet.py, on
the identities of a set's split train (`prepare --open_set=0.5` makes such sets of any images with classes), embeds
queries and gallery, of other identities, by every width, and ranks every width's queries in every width's gallery; what
shares the identity and the camera of the query does not count. A run that is there is not done again.

Prints, for each method, the mean over seeds of the mean average precision of a width in its own gallery and across
widths, and how many of the six pairs are compatible: the wider one's queries find more in the narrower one's gallery
than the narrower one's own (BCT's criterion). Writes experiments/results/sfsc_DATA.json, and as sfsc_DATA.png the
matrix of the method that finds most across widths.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app, flags

from experiments.provenance import call, provenance
from experiments.seeds import cell, over_seeds
from mrl_jax import compatibility as command
from mrl_jax import extract, matched_sets, results, trained, writers
from mrl_jax.evals import compatibility

CONFIG = "configs/sfsc_resnet.py"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
NAMES = tuple(f"w{width:g}" for width in WIDTHS)
METRICS = ("map", "cmc@1")
ALONE = ("independent", "bct", "asymmetric")
FROM_FULL = "_from_full"  # after the name of a method: it starts from the trained full width, as BCT does
SPLITS = ("query", "gallery")

WORKDIR = flags.DEFINE_string("workdir", "runs/sfsc_icons", "Where the runs and their features go.")
DATA = flags.DEFINE_string("data", "icons:identities", "A set with the splits train, query and gallery.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where a prepared set lies.")
METHODS = flags.DEFINE_list(
    "methods",
    [
        "sfsc",
        "joint",
        "bct",
        "independent",
        "uncertainty",
        "projection",
        "sfsc_from_full",
        "joint_from_full",
        "regress_from_full",
    ],
    "Words of the config; with _from_full after it a method starts from the trained full width.",
)
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "One run of every model per seed.")
DIM = flags.DEFINE_integer("dim", 128, "Of the embedding, which is not nested; 0 nests 8, 16, ..., 128.")
MAX_QUERIES = flags.DEFINE_integer("max_queries", 0, "Ask a sample of so many queries; 0: all.")
RECALIBRATE = flags.DEFINE_integer("recalibrate", 0, "Embed with BatchNorm's statistics of so many batches.")
STEPS = flags.DEFINE_integer("steps", 1000, "Updates of 64 images.")
BASE_WIDTH = flags.DEFINE_integer("base_width", 16, "Channels of the full width's first stage.")
NAME = flags.DEFINE_string("name", "", "What the results are called, after sfsc_; by default as the data.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON and the picture go.")


def data() -> list[str]:
    """The options that choose the images, of three channels where they were prepared."""
    own = [f"--config.data.name={DATA.value}", "--config.data.eval_split=query"]
    if not DATA.value.startswith("array_record:"):
        return own
    ops = ["--config.data.train_ops=decode(3)|random_shift(4)", "--config.data.eval_ops=decode(3)"]
    return [*own, f"--config.data.dir={DATA_DIR.value}", *ops]


def train(name: str, mode: str, seed: str, *options: str) -> pathlib.Path:
    """Trains one run if it is not there, and returns its folder."""
    workdir = pathlib.Path(WORKDIR.value) / f"{name.replace('=', '')}_seed{seed}"
    if not (workdir / "report.html").exists():
        nesting = f",ff={DIM.value}" if DIM.value else ""
        own = [f"--config={CONFIG}:{mode}{nesting}", f"--workdir={workdir}", f"--config.seed={seed}"]
        parts = ("student.", "teacher.") if name.startswith("asymmetric") else ("",)
        fields = {"base_width": BASE_WIDTH.value} | ({"projection": DIM.value} if DIM.value else {})
        size = [f"--config.model.{part}{field}={value}" for part in parts for field, value in fields.items()]
        call("train", *own, "--config.evals={}", f"--config.total_steps={STEPS.value}", *size, *data(), *options)
    return workdir


def models(method: str, seed: str) -> list[tuple[pathlib.Path, float]]:
    """For each of WIDTHS the run that has it, and which of the run's widths it is."""
    if method not in ALONE:
        mode = method.removesuffix(FROM_FULL)
        start = [f"--config.init.path={full(seed)}"] if mode != method else []
        run = train(method, mode, seed, *start)
        return [(run, width) for width in WIDTHS]
    if method != "independent":
        widest = full(seed)
        modes = [f"{method}={width:g}" for width in WIDTHS[:-1]]
        narrow = [train(mode, mode, seed, f"--config.init.path={widest}") for mode in modes]
        return [(run, 1.0) for run in (*narrow, widest)]
    alone = [f"independent={width:g}" for width in WIDTHS]
    return [(train(mode, mode, seed), 1.0) for mode in alone]


def full(seed: str) -> pathlib.Path:
    """The run of the full width alone."""
    return train("independent=1", "independent=1", seed)


def own_name() -> str:
    """What the names of all that is recalibrated end in, so that it lies beside what is not."""
    return f"_recalibrated{RECALIBRATE.value}" if RECALIBRATE.value else ""


def embed(run: pathlib.Path, width: float) -> dict[str, str]:
    """The features of queries and gallery by one width: their folders by split."""
    step = trained.choose_step(run, None)
    base = trained.config_of(run, step)
    found = {}
    for split in SPLITS:
        out = run / "features" / f"w{width:g}{own_name()}" / split
        own = {"width": width, "recalibrate": RECALIBRATE.value}
        extract.extract(run, step, trained.over(base, None, split, None, None), out, **own)
        found[split] = str(out)
    return found


def matrices(method: str, seed: str) -> dict[str, dict[str, list]]:
    """By metric and dim the fractions (4, 4): a row per width of the queries, a column per width of the gallery."""
    file = pathlib.Path(WORKDIR.value) / f"{method}_seed{seed}{own_name()}.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    folders = {name: embed(*model) for name, model in zip(NAMES, models(method, seed))}
    sides = ({name: found[split] for name, found in folders.items()} for split in SPLITS)
    sets = matched_sets.open_sets(*sides, max_queries=MAX_QUERIES.value)
    found = command.matrices(sets, METRICS, sets.dims)
    plain = {metric: {str(dim): matrix.tolist() for dim, matrix in by_dim.items()} for metric, by_dim in found.items()}
    writers.write_json(file, plain)
    return plain


def summary(matrix_Sxmxm: Sequence[Sequence]) -> dict:
    """What the fractions of several seeds say, in percent: means and sample standard deviations over seeds.

    `self` by width, queries and gallery of one model; `mean_self`; `cross`, the mean of all pairs of different widths;
    `upgraded`, of each seed, how many of the pairs hold BCT's criterion, of `pairs`.
    """
    found = [np.asarray(matrix) for matrix in matrix_Sxmxm]
    others = ~np.eye(len(found[0]), dtype=bool)
    judged = [compatibility.compatible_pairs(matrix) for matrix in found]
    return {
        "self": {name: over_seeds([m[i, i] for m in found]) for i, name in enumerate(NAMES)},
        "mean_self": over_seeds([np.diag(m).mean() for m in found]),
        "cross": over_seeds([m[others].mean() for m in found]),
        "upgraded": [len(pairs.upgraded) for pairs in judged],
        "served": [len(pairs.served) for pairs in judged],
        "pairs": judged[0].pairs,
        "matrix": (100 * np.mean(found, axis=0)).round(2).tolist(),
        "seeds": [(100 * m).round(2).tolist() for m in found],
    }


def table(rows: Mapping[str, Mapping]) -> list[str]:
    """One line a method, in percent."""
    header = "".join(f"{name:>14}" for name in (*(f"{name} self" for name in NAMES), "cross"))
    lines = [f"{'mAP, %':18}{header}   compatible"]
    for method, row in rows.items():
        cells = "".join(cell(x) for x in (*row["self"].values(), row["cross"]))
        lines.append(f"{method:18}{cells}   {row['upgraded']} of {row['pairs']}")
    return lines


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    found = {method: [] for method in METHODS.value}
    # Seeds outside: what is there after the first is whole.
    for seed in SEEDS.value:
        for method in METHODS.value:
            found[method].append(matrices(method, seed))
    dims = list(found[METHODS.value[0]][0]["map"])
    rows = {
        metric: {
            dim: {name: summary([one[metric][dim] for one in runs]) for name, runs in found.items()} for dim in dims
        }
        for metric in METRICS
    }
    name = NAME.value or pathlib.Path(DATA.value.removeprefix("array_record:")).name.partition(":")[0]
    name += ("" if DIM.value else "_nested") + own_name()
    own = [f"--data={DATA.value}", f"--methods={','.join(METHODS.value)}", f"--seeds={','.join(SEEDS.value)}"]
    own += [f"--dim={DIM.value}", f"--steps={STEPS.value}", f"--base_width={BASE_WIDTH.value}"]
    own += [f"--max_queries={MAX_QUERIES.value}"] if MAX_QUERIES.value else []
    own += [f"--recalibrate={RECALIBRATE.value}"] if RECALIBRATE.value else []
    own += ["--data_dir=DIR"] if DATA_DIR.value else []
    own += [f"--name={NAME.value}"] if NAME.value else []
    record = {
        "command": " ".join(["python -m experiments.sfsc", *own]),
        "config": CONFIG,
        **provenance(),
        "unit": "percent; rows of a matrix are widths of the queries, columns of the gallery",
        "rows": rows,
    }
    out = pathlib.Path(OUT.value)
    writers.write_json(out / f"sfsc_{name}.json", record)
    for dim in dims:
        print(f"{dim} dims, identities of {name} not seen in training, {len(SEEDS.value)} seeds")
        print("\n".join(table(rows["map"][dim])))
    last = rows["map"][dims[-1]]
    best = max(last, key=lambda method: last[method]["cross"]["mean"])
    title = f"{best}: mAP, %, {dims[-1]} dims"
    sides = ("width of the gallery", "width of the queries")
    results.draw(out, results.HeatMap(f"sfsc_{name}", title, NAMES, NAMES, last[best]["matrix"], *sides))


if __name__ == "__main__":
    app.run(main)
