"""ResNet-18 with the small-image stem on CIFAR-100: the smallest nested run on photographs.

    tfds build cifar100 --data_dir=DIR --file_format=array_record
    python -m mrl_jax.train --config=configs/cifar_resnet18.py --workdir=runs/cifar --config.data.dir=DIR

200 epochs at batch 128: SGD with Nesterov momentum 0.9, rate 0.1 with a cosine, weight decay 5e-4, random crops and
flips.

Expected: not known; the paper has no CIFAR run, and we have not run this one. Cost: 78,000 steps of 0.43 TFLOP
(counted): 33 PFLOP, an estimated 15 minutes on one A100 at 12 % of its peak.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting

TRAIN_IMAGES = 50_000


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size = 128
    c.total_steps = 200 * (TRAIN_IMAGES // c.batch_size)
    c.nesting.dims = Nesting.halving(512, 8).dims

    c.model = {**defaults.resnet("18"), "stem": "small"}
    c.data.name = "tfds:cifar100"
    c.data.train_split, c.data.eval_split = "train", "test"
    c.data.train_ops = "decode(3)|random_crop(32,4)|flip_lr"
    c.data.eval_ops = "decode(3)"
    c.data.mean, c.data.std = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)

    c.optim = {**defaults.sgd(0.1, nesterov=True), "weight_decay": 5e-4}
    c.evals.classification.every = 7800
    c.checkpoint.every = 7800
    return defaults.apply_mode(c, mode, size=32)
