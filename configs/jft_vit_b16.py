"""ViT-B/16 on a JFT-like collection, 18,291 classes: the paper's largest classification run (arXiv 2205.13147, App. C).

    python -m mrl_jax.prepare jft.csv --data_dir=DIR/jft --image_key=path --label_key=labels --label_separator=';' \
        --labels=classes.txt --splits=train:0.999,val:0.001 --exclude_near=DIR/imagenet:val --max_size=512
    python -m mrl_jax.train --config=configs/jft_vit_b16.py --workdir=runs/jft --config.data.dir=DIR

300,000 steps, Adafactor, the rate a line from 1e-3 down to 0; batch 8192, our reading of 128 on each of the 64 chips.
Independent heads with softmax, one label an example. Several labels an example: `:multi_label`, sigmoid cross-entropy
on one tied head (it takes MRL's place: 7 heads of 18,291 classes would be the larger part of the work).
`--config.mesh.model=N` splits the classes over N devices where N divides them, which of 18,291 = 3 x 7 x 13 x 67 no
power of two does: fill `classes.txt` up with names of nothing (18,304 = 2^7 x 11 x 13), and N may be 4, 8 or 16.
`--config.data.balance=0.5` draws rare classes more often.

Expected, published, ImageNet 1-NN at 12 to 768 dims: MRL 53.61 62.80 67.24 69.74 71.34 71.73 71.85; MRL-E 51.54 62.40
66.89 68.80 70.41 71.18 71.31; the largest model alone, cut, 27.07 48.64 63.58 68.56 71.32 71.67 72.10. JFT-300M is not
public and we have not run this. Ours to measure it: `python -m mrl_jax.embed` on ImageNet, then 1-NN of the features.
Cost before you start: add `--dry_run --classes=18291 --devices=64 --accelerator=v4`.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size, c.total_steps = 8192, 300_000
    c.dtype = "bfloat16"
    c.nesting.dims = Nesting.halving(768, 12).dims

    c.model = {**defaults.vit("B/16"), "posemb": "sincos2d", "remat": True}
    c.data.name = "array_record:jft"
    c.data.train_split, c.data.eval_split = "train", "val"
    c.data.train_ops = "decode(3)|random_resized_crop(224,scale=(0.25,1.0))|flip_lr"
    c.data.eval_ops = "decode(3)|resize_small(256)|center_crop(224)"
    c.data.eval_batch_size = 1024
    c.data.workers = 32

    c.optim = {**defaults.adafactor(1e-3), "weight_decay": 1e-4, "clip_norm": 1.0}
    c.schedule = {"name": "linear", "warmup_steps": 10_000, "final": 0.0}

    # No 1-NN here: a gallery of 300 million images is a matter for `embed`.
    c.evals = {"classification": {"name": "classification", "every": 10_000, "split": "", "dims": ()}}
    c.checkpoint.every = 5000
    words = mode.split(",")
    if "multi_label" in words:
        c.head, c.loss = "mrl_e", {"name": "binary", "chunk": 0}
    defaults.apply_mode(c, ",".join(word for word in words if word != "multi_label"), size=32)
    if "debug" in words:
        c.model.variant = "Ti/16"
        c.model.scan = True  # one block is compiled, not twelve
        if c.head != "ff":
            c.nesting.dims = Nesting.halving(192, 12).dims
    return c
