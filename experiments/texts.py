"""Masked language modelling on a small corpus: one nested model against models of single dims, and cuts of the largest.

python -m experiments.texts --corpus=corpus.txt --workdir=runs/texts

The corpus is a .txt file with a text a line. Trains a tokenizer on it, packs it, and trains `configs/bert_mlm.py:small`
and for each dim of --ff the same model with a head at that dim alone; the largest is evaluated at smaller dims too: its
features and head cut as they are, in a random order, and by principal components of the features. What is there is not
done again. Prints a table, mean over seeds, and writes experiments/results/bert_mlm_small.json.
"""

import hashlib
import pathlib

from absl import app, flags

from experiments import linear_maps, single_dims
from experiments.provenance import call, provenance
from experiments.seeds import by_dim, table
from mrl_jax import writers
from mrl_jax.data.text import vocabulary
from mrl_jax.nesting import Nesting

CONFIG = "configs/bert_mlm.py"
NESTING = Nesting.halving(128, 8)  # of the config
DIMS = NESTING.dims
PRINTED = "masked_lm/top1"

CORPUS = flags.DEFINE_string("corpus", None, "A .txt file with a text a line.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/texts", "Where data and runs go.")
FF = flags.DEFINE_list(
    "ff", [str(dim) for dim in DIMS], "Dims of models to train alone; cuts are of the largest dim's."
)
SIZE = flags.DEFINE_integer("size", 4000, "Pieces of the tokenizer.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "One run of every model per seed.")
STEPS = flags.DEFINE_integer("steps", 4000, "Updates of 32 texts.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON goes.")


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    corpus, workdir = pathlib.Path(CORPUS.value), pathlib.Path(WORKDIR.value)
    made = workdir / "tokenizer.json"
    if not made.exists():
        call("tokenizer", str(corpus), f"--out={made}", f"--size={SIZE.value}")
    text = [f"--tokenizer={made}", "--context=64", "--pack"]
    call("prepare", str(corpus), f"--data_dir={workdir / 'corpus'}", "--splits=train:0.9,test:0.1", "--seed=0", *text)
    options = [f"--config.total_steps={STEPS.value}", f"--config.data.dir={WORKDIR.value}"]
    train = single_dims.trainer(CONFIG, WORKDIR.value, *options)
    maps = linear_maps.of_gaps
    found = by_dim([single_dims.measured(train, maps, NESTING, FF.value, seed) for seed in SEEDS.value], DIMS)
    options = [f"--size={SIZE.value}", f"--ff={','.join(FF.value)}", f"--seeds={','.join(SEEDS.value)}"]
    record = {
        "command": " ".join(
            [f"python -m experiments.texts --corpus={corpus.name}", *options, f"--steps={STEPS.value}"]
        ),
        "config": f"{CONFIG}:small",
        "corpus_sha256": hashlib.sha256(corpus.read_bytes()).hexdigest(),
        "tokenizer_sha256": vocabulary.read(made).sha256,
        **provenance(),
        "unit": "percent of the masked pieces of texts not seen in training",
        "rows": found,
    }
    writers.write_json(pathlib.Path(OUT.value) / "bert_mlm_small.json", record)
    print(f"{PRINTED}, {corpus.name}, {len(SEEDS.value)} seeds")
    print("\n".join(table(found[PRINTED], DIMS)))


if __name__ == "__main__":
    app.run(main)
