"""Pairs of texts: one nested model against models of single dims, and cuts of the largest.

python -m experiments.text_pairs --pairs=pairs.jsonl --workdir=runs/text_pairs

The file has a line a pair, {"query": ..., "positive": ...}. Trains a tokenizer on both, `configs/text_pairs.py:small`,
and the same model at each of its dims alone; the largest of these is evaluated at smaller dims too, as
`experiments.image_text` does it. What is there is not done again. Prints tables of how often a text finds the other one
of its pair first, among those of the test, mean over seeds. Writes experiments/results/text_pairs_NAME.json.
"""

import hashlib
import pathlib

from absl import app, flags

from experiments import linear_maps, single_dims
from experiments.provenance import call, provenance
from experiments.seeds import by_dim, table
from mrl_jax import writers
from mrl_jax.nesting import Nesting

CONFIG = "configs/text_pairs.py"
NESTING = Nesting.halving(128, 8)  # of the config
DIMS = NESTING.dims
PRINTED = ("pairs/to_pair_r1", "pairs/from_pair_r1", "pairs/ndcg10")
KEYS = "query,positive"

PAIRS = flags.DEFINE_string("pairs", None, "A .jsonl file.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/text_pairs", "Where data and runs go.")
FF = flags.DEFINE_list(
    "ff", [str(dim) for dim in DIMS], "Dims of models to train alone; cuts are of the largest dim's."
)
SIZE = flags.DEFINE_integer("size", 8000, "Pieces of the tokenizer.")
CONTEXT = flags.DEFINE_integer("context", 32, "Pieces of a text that are read.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "One run of every model per seed.")
STEPS = flags.DEFINE_integer("steps", 800, "Updates of 128 pairs.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON goes.")


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    pairs, workdir = pathlib.Path(PAIRS.value), pathlib.Path(WORKDIR.value)
    made, prepared = workdir / "tokenizer.json", workdir / "text_pairs"
    if not made.exists():
        call("tokenizer", str(pairs), f"--text_key={KEYS}", f"--out={made}", f"--size={SIZE.value}")
    text = [f"--text_key={KEYS}", f"--tokenizer={made}", f"--context={CONTEXT.value}"]
    call("prepare", str(pairs), f"--data_dir={prepared}", *text, "--splits=train:0.9,test:0.1", "--seed=0")
    options = [f"--config.total_steps={STEPS.value}", f"--config.data.dir={WORKDIR.value}"]
    train = single_dims.trainer(CONFIG, WORKDIR.value, *options)
    maps = linear_maps.of_pairs
    found = by_dim([single_dims.measured(train, maps, NESTING, FF.value, seed) for seed in SEEDS.value], DIMS)
    options = [f"--{name}={flags.FLAGS[name].value}" for name in ("size", "context", "steps")]
    options += [f"--ff={','.join(FF.value)}", f"--seeds={','.join(SEEDS.value)}"]
    record = {
        "command": " ".join([f"python -m experiments.text_pairs --pairs={pairs.name}", *options]),
        "config": f"{CONFIG}:small",
        "pairs_sha256": hashlib.sha256(pairs.read_bytes()).hexdigest(),
        **provenance(),
        "unit": "percent of the test split",
        "rows": found,
    }
    writers.write_json(pathlib.Path(OUT.value) / f"text_pairs_{pairs.stem}.json", record)
    for metric in PRINTED:
        print(f"{metric}, {pairs.name}, {len(SEEDS.value)} seeds")
        print("\n".join(table(found[metric], DIMS)))


if __name__ == "__main__":
    app.run(main)
