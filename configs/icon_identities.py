"""Icons for open-set retrieval: concepts never seen in training, asked for in one hand and found in another.

    python -m mrl_jax.train --config=configs/icon_identities.py --workdir=runs/old
    python -m mrl_jax.train --config=configs/icon_identities.py --workdir=runs/new --config.seed=1
    python -m mrl_jax.embed --workdir=runs/old --split=query,gallery --out=features/old

The quickstart's model, by SGD, on the set `icons:identities`. 1-NN is R@1 of the queries in the gallery; what one
model's queries find in another's gallery, with the rule of re-identification, `python -m mrl_jax.compatibility` tells.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.total_steps, c.batch_size = 1000, 64
    c.nesting.dims = Nesting.halving(256, 8).dims
    c.nesting.weights = (2.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    c.data.name, c.data.eval_split = "icons:identities", "query"
    c.evals = {"knn": {**c.evals.knn, "gallery": "gallery"}}

    c.model = {**defaults.resnet("10"), "base_width": 32}
    c.data.train_ops = "decode|random_shift(4)"

    c.optim = {**defaults.sgd(0.05), "weight_decay": 1e-3, "no_decay": "bn"}
    c.schedule.warmup_steps = 50
    c.checkpoint.every = 200
    return defaults.apply_mode(c, mode, size=32, channels=1)
