"""Pictures and their names in one space: one nested model against models of single dims, and cuts of the largest.

python -m experiments.image_text --workdir=runs/icon_names
python -m experiments.emoji_captions --npz=emoji_64.npz --data_dir=data/emoji_captions
python -m experiments.image_text --workdir=runs/emoji --data=array_record:emoji_captions --data_dir=data

The first set comes with a dependency. Trains `configs/align_b16_bert.py:small`, and the same model at each of its dims
alone; the largest of these is evaluated at smaller dims too: cut as it is, in a random order of its features, and by
its principal components. What is there is not done again. Prints tables of recall at 1, zero-shot classification and
1-NN of the image tower, mean over seeds. Writes experiments/results/image_text_DATA.json, and as image_text_DATA.png
what texts find at three dims.
"""

import pathlib

import jax
from absl import app, flags

from experiments import found_pictures, linear_maps, single_dims
from experiments.provenance import provenance
from experiments.seeds import by_dim, table
from mrl_jax import parts, writers
from mrl_jax.nesting import Nesting

CONFIG = "configs/align_b16_bert.py"
NESTING = Nesting.halving(128, 8)  # of the config
DIMS = NESTING.dims
SHOWN_DIMS, SHOWN = (8, 32, 128), 10
PRINTED = ("pairs/from_pair_r1", "pairs/to_pair_r1", "zero_shot/top1", "knn/top1")

WORKDIR = flags.DEFINE_string("workdir", "runs/icon_names", "Where the runs go.")
DATA = flags.DEFINE_string("data", "icons:names", "A set of pictures with captions, its splits train and test.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where a prepared set lies.")
FF = flags.DEFINE_list(
    "ff", [str(dim) for dim in DIMS], "Dims of models to train alone; cuts are of the largest dim's."
)
SEEDS = flags.DEFINE_list("seeds", ["0"], "One run of every model per seed.")
STEPS = flags.DEFINE_integer("steps", 800, "Updates of 128 pairs.")
QUERIES = flags.DEFINE_list("queries", ["camera", "shopping cart", "arrow left"], "Texts for the picture.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON and the picture go.")


def options() -> list[str]:
    """Of the config, for every run."""
    own = [f"--config.total_steps={STEPS.value}"]
    if not DATA.value.startswith("array_record:"):
        return own
    ops = ["--config.data.train_ops=decode(3)|random_shift(4)", "--config.data.eval_ops=decode(3)"]
    return [*own, f"--config.data.name={DATA.value}", f"--config.data.dir={DATA_DIR.value}", *ops]


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    name = pathlib.Path(DATA.value.removeprefix("array_record:")).name.replace(":", "_")
    train, maps = single_dims.trainer(CONFIG, WORKDIR.value, *options()), linear_maps.of_pairs
    found = by_dim([single_dims.measured(train, maps, NESTING, FF.value, seed) for seed in SEEDS.value], DIMS)
    own = [f"--data={DATA.value}", f"--ff={','.join(FF.value)}", f"--seeds={','.join(SEEDS.value)}"]
    own += ["--data_dir=DIR"] if DATA_DIR.value else []
    record = {
        "command": " ".join(["python -m experiments.image_text", *own, f"--steps={STEPS.value}"]),
        "config": f"{CONFIG}:small",
        **provenance(),
        "unit": "percent of the test split",
        "rows": found,
    }
    out = pathlib.Path(OUT.value)
    writers.write_json(out / f"image_text_{name}.json", record)
    for metric in PRINTED:
        print(f"{metric}, {name}, {len(SEEDS.value)} seeds")
        print("\n".join(table(found[metric], DIMS)))
    run, variables = single_dims.assembled(train(f"mrl_seed{SEEDS.value[0]}", "small"))
    with jax.set_mesh(run.mesh):
        store = parts.feature_store(run, parts.make_embed(run), variables)
        shown = found_pictures.search(store, QUERIES.value, SHOWN_DIMS, SHOWN)
    found_pictures.draw(out / f"image_text_{name}.png", run.config, shown, QUERIES.value, SHOWN_DIMS)


if __name__ == "__main__":
    app.run(main)
