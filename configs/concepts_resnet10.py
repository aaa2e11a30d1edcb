"""ResNet-10 on 1,643 concepts drawn by many icon sets: JFT-like pretraining, long tail and all, at a size for CPUs.

    python -m experiments.concepts --npz=icons_64.npz --workdir=runs/concepts      # all of it, and the table
    python -m mrl_jax.train --config=configs/concepts_resnet10.py --workdir=runs/c --config.data.dir=runs/concepts/data

The first command divides the pictures by icon set, so that the styles of the test are never seen in training, prepares
them, trains and measures; see experiments/concepts.py for what the file must hold. Classes have 10 to 364 pictures and
are drawn by the square root of their size. `:mrl` is softmax with one head per dim, `:multi_label` sigmoid
cross-entropy on one tied head, as for images of several labels.

Expected: experiments/results/concepts.json.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.total_steps, c.batch_size = 1500, 128
    c.nesting.dims = Nesting.halving(256, 8).dims

    c.model = {**defaults.resnet("10"), "base_width": 32}
    c.data.name = "array_record:concepts"
    c.data.train_ops = "decode(1)|resize_small(32)|random_shift(4)"
    c.data.eval_ops = "decode(1)|resize_small(32)"
    c.data.balance = 0.5

    c.optim = {**defaults.sgd(0.05), "weight_decay": 5e-4, "no_decay": "bn"}
    c.schedule.warmup_steps = 100
    c.checkpoint.every = 500
    words = mode.split(",")
    if "multi_label" in words:
        c.head, c.loss = "mrl_e", {"name": "binary", "chunk": 0}
        c.optim = {**defaults.adamw(2e-3), "weight_decay": 5e-2}
    return defaults.apply_mode(c, ",".join(word for word in words if word != "multi_label"), size=32, channels=1)
