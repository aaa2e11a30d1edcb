"""Icons of six fonts, tested on a font never seen: the whole of MRL in about two minutes on two CPU cores.

    python -m mrl_jax.train --config=configs/quickstart.py --workdir=runs/q
    python -m mrl_jax.train --config=configs/quickstart.py:ff=8 --workdir=runs/q_ff8

1,431 training and 1,120 test images of 227 concepts. A ResNet-10 of half the usual width, SGD with momentum as in the
paper; the smallest dim counts twice (the paper's "8boost", appendix K). Expected: experiments/results/quickstart.json.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.total_steps, c.batch_size = 1000, 64
    c.nesting.dims = Nesting.halving(256, 8).dims
    c.nesting.weights = (2.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    c.model = {**defaults.resnet("10"), "base_width": 32}
    c.data.train_ops = "decode|random_shift(4)"

    c.optim = {**defaults.sgd(0.05), "weight_decay": 5e-3, "no_decay": "bn"}
    c.schedule.warmup_steps = 50
    c.checkpoint.every = 200
    return defaults.apply_mode(c, mode, size=32, channels=1)
