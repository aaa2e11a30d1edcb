"""Masked language modelling on a small corpus: one nested model against models of single dims.

python -m experiments.texts --corpus=corpus.txt --workdir=runs/texts --ff=8,128

The corpus is a .txt file with a text a line. Trains a tokenizer on it, packs it, trains `configs/bert_mlm.py:small` and
for each dim of --ff the same model with a head at that dim alone. What is there is not done again. Writes
experiments/results/bert_mlm_small.json.
"""

import hashlib
import pathlib

from absl import app, flags

from experiments.provenance import call, provenance
from mrl_jax import results, writers
from mrl_jax.data.text import vocabulary

CORPUS = flags.DEFINE_string("corpus", None, "A .txt file with a text a line.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/texts", "Where data and runs go.")
FF = flags.DEFINE_list("ff", ["128"], "Dims of models to train alone.")
SIZE = flags.DEFINE_integer("size", 8000, "Pieces of the tokenizer.")
SEED = flags.DEFINE_integer("seed", 0, "Of the runs.")
OUT = flags.DEFINE_string("out", "experiments/results", "Where the JSON goes.")


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    workdir = pathlib.Path(WORKDIR.value)
    made = workdir / "tokenizer.json"
    if not made.exists():
        call("tokenizer", CORPUS.value, f"--out={made}", f"--size={SIZE.value}")
    text = [f"--tokenizer={made}", "--context=64", "--pack"]
    call("prepare", CORPUS.value, f"--data_dir={workdir / 'corpus'}", "--splits=train:0.9,test:0.1", "--seed=0", *text)
    runs = {}
    for name, mode in ({"mrl": "small"} | {f"ff{dim}": f"small,ff={dim}" for dim in FF.value}).items():
        config = [f"--config=configs/bert_mlm.py:{mode}", f"--config.seed={SEED.value}"]
        call("train", *config, f"--config.data.dir={workdir}", f"--workdir={workdir / name}")
        runs[name] = {evaluator: found["values"] for evaluator, found in results.read(workdir / name).items()}
    record = {
        "command": f"python -m experiments.texts --corpus={pathlib.Path(CORPUS.value).name} --size={SIZE.value} "
        f"--ff={','.join(FF.value)} --seed={SEED.value}",
        "config": "configs/bert_mlm.py:small",
        "corpus_sha256": hashlib.sha256(pathlib.Path(CORPUS.value).read_bytes()).hexdigest(),
        "tokenizer_sha256": vocabulary.read(made).sha256,
        **provenance(),
        "unit": "fraction of the masked pieces of texts not seen in training",
        "runs": runs,
    }
    writers.write_json(pathlib.Path(OUT.value) / "bert_mlm_small.json", record)


if __name__ == "__main__":
    app.run(main)
