"""BERT-Base by masked language modelling, the head tied to the token embeddings at every dim (arXiv 2205.13147).

    python -m mrl_jax.tokenizer corpus/ --out=tokenizer.json
    python -m mrl_jax.prepare corpus/ --data_dir=DIR/corpus --tokenizer=tokenizer.json --context=512 --pack --seed=0 \
        --splits=train:0.999,test:0.001
    python -m mrl_jax.train --config=configs/bert_mlm.py --workdir=runs/bert --config.data.dir=DIR

450,000 steps of 1,024 texts, AdamW, the rate a line from 1e-4 down to 0. The corpus of the paper is Wikipedia and
BookCorpus; the length of its texts is not stated. Since the head is tied, MRL is MRL-E. `:ff=48` trains 48 dims alone.

Expected, published, accuracy at 12 to 768 dims: MRL 59.92 62.05 63.40 64.15 64.58 64.81 65.00; models of each dim
60.12 62.49 63.85 64.32 64.70 65.03 65.54. Not run by us.

`:small` is BERT-Tiny with norms before the branches, for texts of 64 tokens from a corpus of some megabytes and a
vocabulary of some thousands, on two CPU cores; `python -m experiments.texts` prepares one and runs it.
7 to 11 minutes alone at 200 to 330 texts a second. Expected, % of masked pieces at 8 to 128 dims, on two English
Bibles, seed 0: 21.6 28.4 32.4 33.5 33.7 on one core (experiments/results/bert_mlm_small.json), 21.8 28.6 32.2 33.4
33.6 on two. Twice the rate after 100 updates left the frequencies of pieces in one run of two.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size, c.total_steps = 1024, 450_000
    c.dtype, c.head = "bfloat16", "mrl_e"
    c.nesting.dims = Nesting.halving(768, 12).dims
    c.loss = {"name": "masked_lm", "chunk": 0}

    c.model = {**defaults.bert("Base"), "remat": True}
    c.data.name, c.data.kind = "array_record:corpus", "masked_text"
    c.data.workers = 8

    c.optim = {**defaults.adamw(1e-4), "weight_decay": 0.01, "no_decay": "bias|scale|norm", "clip_norm": 1.0}
    c.schedule = {"name": "linear", "warmup_steps": 10_000, "final": 0.0}
    c.evals = {"masked_lm": {"name": "masked_lm", "every": 10_000, "split": "", "dims": ()}}
    c.checkpoint.every = 5000
    words = [word for word in mode.split(",") if word]
    if "small" in words or "debug" in words:
        c.dtype, c.data.workers, c.model.remat = "float32", 0, False
        c.batch_size, c.total_steps = 32, 4000
        c.model.variant, c.model.dropout, c.model.norm = "Tiny", 0.0, "pre"
        c.nesting.dims = Nesting.halving(128, 8).dims
        c.optim.lr, c.schedule.warmup_steps = 1e-3, 400
        c.evals["masked_lm"].every, c.checkpoint.every = 2000, 1000
    if "debug" in words:
        c.model.variant, c.nesting.dims = "mu", (4, 8, 32)
    defaults.apply_mode(c, ",".join(word for word in words if word != "small"), size=8)
    c.head = "ff" if c.head == "ff" else "mrl_e"
    return c
