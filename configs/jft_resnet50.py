"""ResNet-50 on a JFT-like collection, 18,291 classes, several labels an example or one.

    python -m mrl_jax.prepare jft.csv --data_dir=DIR/jft --image_key=path --label_key=labels --label_separator=';' \
        --labels=classes.txt --splits=train:0.999,val:0.001 --exclude_near=DIR/imagenet:val --max_size=512
    python -m mrl_jax.train --config=configs/jft_resnet50.py --workdir=runs/jft_r50 --config.data.dir=DIR

Sigmoid cross-entropy over all classes with one tied head for dims 8 to 2048 (`:multi_label`, the default). For one
label an example, `:mrl` (independent heads) and `:mrl_e` train with softmax. 300,000 steps at batch 4096, SGD with
momentum 0.9 and a cosine from 0.4 after 5,000 steps of warm-up; rare classes are drawn more often, by the square root
of their size. The logits of 4096 x 18,291 never exist at once; `--config.mesh.model=N` splits the
classes over N devices where N divides them (see configs/jft_vit_b16.py).

Expected: not known; the paper trains no ResNet on JFT, the recipe is ours, and we have not run it. The same path at a
small size, with numbers: configs/concepts_resnet10.py.
Cost before you start: add `--dry_run --classes=18291 --devices=64 --accelerator=v4`.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "multi_label") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size, c.total_steps = 4096, 300_000
    c.dtype = "bfloat16"
    c.nesting.dims = Nesting.halving(2048, 8).dims

    c.model = {**defaults.resnet("50"), "blurpool": True, "zero_init_residual": True}
    c.data.name = "array_record:jft"
    c.data.train_split, c.data.eval_split = "train", "val"
    c.data.train_ops = "decode(3)|random_resized_crop(224,scale=(0.25,1.0))|flip_lr"
    c.data.eval_ops = "decode(3)|resize_small(256)|center_crop(224)"
    c.data.eval_batch_size = 1024
    c.data.balance = 0.5
    c.data.workers = 32

    c.optim = {**defaults.sgd(0.4), "weight_decay": 1e-4, "no_decay": "/bn"}
    c.schedule.warmup_steps = 5000

    # No 1-NN here: a gallery of 300 million images is a matter for `embed`.
    c.evals = {"classification": {"name": "classification", "every": 10_000, "split": "", "dims": ()}}
    c.checkpoint.every = 5000
    words = mode.split(",")
    if "multi_label" in words:
        c.head, c.loss = "mrl_e", {"name": "binary", "chunk": 0}
    defaults.apply_mode(c, ",".join(word for word in words if word != "multi_label"), size=32)
    return c
