"""Sentence embeddings: one BERT for both texts of a pair, trained so that each finds the other at every dim.

    python -m mrl_jax.prepare pairs.jsonl --data_dir=DIR/text_pairs --text_key=query,positive \
        --tokenizer=tokenizer.json --context=128 --seed=0 --splits=train:0.99,test:0.01
    python -m mrl_jax.train --config=configs/text_pairs.py --workdir=runs/pairs --config.data.dir=DIR \
        --config.init.path=runs/bert --config.init.skip='^head_|^temperature/'

BERT-Base, from a masked language model (`configs/bert_mlm.py`) or a BERT of Hugging Face (`mrl_jax.convert`, and texts
prepared with its own tokenizer.json), pooled by the mean; both texts are cut and then normalised at each of seven dims.
10,000 steps of 1,024 pairs, AdamW, the rate a line from 2e-5 down to 0: ours, as no recipe of a paper is followed, and
not run by us. With hard negatives: `--config.data.text.negatives=K`.

`:small` is a BERT-Tiny from scratch, for two CPU cores; `python -m experiments.text_pairs` runs and measures it, at 300
steps about 3 minutes a run. Expected: experiments/results/text_pairs_wiki.json, 25.2 to 45.9 % of the texts find the
other one of their pair first among 986, at 8 to 128 dims; models of single dims 26.5 to 51.3.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size, c.total_steps = 1024, 10_000
    c.dtype, c.head = "bfloat16", "none"
    c.nesting.dims = Nesting.halving(768, 12).dims
    c.loss = {"name": "contrastive", "chunk": 0, "duplicates": "masked"}

    c.model = {**defaults.bert("Base"), "pool": "mean", "remat": True}
    c.data.name, c.data.kind = "array_record:text_pairs", "text_pair"
    c.data.workers, c.data.eval_batch_size = 8, 1024

    c.optim = {**defaults.adamw(2e-5), "weight_decay": 0.01, "no_decay": "bias|scale|norm", "clip_norm": 1.0}
    c.schedule = {"name": "linear", "warmup_steps": 500, "final": 0.0}
    c.evals = {"pairs": {"name": "pair_retrieval", "every": 1000, "split": "", "dims": ()}}
    c.checkpoint.every = 1000
    words = [word for word in mode.split(",") if word]
    if "small" in words or "debug" in words:
        c.dtype, c.data.workers, c.model.remat = "float32", 0, False
        c.batch_size, c.total_steps = 128, 800
        c.model.variant, c.model.dropout, c.model.norm = "Tiny", 0.0, "pre"
        c.nesting.dims = Nesting.halving(128, 8).dims
        c.optim.lr, c.schedule.warmup_steps, c.checkpoint.every = 1e-3, 50, 200
        c.evals.pairs.every = 0
    if "debug" in words:
        c.model.variant, c.nesting.dims = "mu", (4, 8, 32)
    defaults.apply_mode(c, ",".join(word for word in words if word != "small"), size=8)
    c.head = "ff" if c.head == "ff" else "none"  # the embedding is the output
    return c
