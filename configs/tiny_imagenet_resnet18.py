"""ResNet-18 with the small-image stem on Tiny ImageNet at 32 px: 100,000 photographs of 200 classes.

    python -m mrl_jax.prepare tiny-imagenet-200 --data_dir=DIR/tiny --max_size=32 --seed=0
    python -m mrl_jax.train --config=configs/tiny_imagenet_resnet18.py --workdir=runs/tiny --config.data.dir=DIR

`prepare` takes a folder train/CLASS/x.jpg, val/CLASS/x.jpg (the published archive has its val images in one folder:
sort them by val_annotations.txt first). 60 epochs at batch 256, SGD with Nesterov momentum 0.9, rate 0.2 with a cosine
after two epochs of warm-up, weight decay 5e-4, label smoothing 0.1, random crops and flips. Dims 8 to 512; `:mrl_e`,
`:ff=64`, `:slimmable` (a width of the network for every dim). `:small` is what a CPU affords: ResNet-10 of half the
width with the strided stem, dims 8 to 256, 3 epochs at batch 128 and rate 0.1.

Expected: of `:small`, top-1 by the heads 10.5 % at 8 dims, 16.6 % at 256 (seed 0, 2 CPU cores at 640 images/s,
experiments/results/tiny_imagenet_cpu.json, made by `python -m experiments.tiny_imagenet` from one .npz file). Of the
whole recipe: not known, we have not run it.
Cost: 23,400 steps of 0.87 TFLOP (counted): 20 PFLOP, an estimated 9 minutes on one A100 at 12 % of its peak.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting

TRAIN_IMAGES = 100_000


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    words = mode.split(",")
    c.loss.label_smoothing = 0.1
    if "small" in words:
        c.batch_size, epochs, lr = 128, 3, 0.1
        c.model = {**defaults.resnet("10"), "base_width": 32}
    else:
        c.batch_size, epochs, lr = 256, 60, 0.2
        c.dtype = "bfloat16"
        c.model = {**defaults.resnet("18"), "stem": "small"}
    c.total_steps = epochs * TRAIN_IMAGES // c.batch_size
    c.nesting.dims = Nesting.halving(256 if "small" in words else 512, 8).dims

    c.data.name = "array_record:tiny"
    c.data.train_split, c.data.eval_split = "train", "val"
    c.data.train_ops = "decode(3)|random_crop(32,4)|flip_lr"
    c.data.eval_ops = "decode(3)"
    c.data.mean, c.data.std = (0.480, 0.448, 0.398), (0.277, 0.269, 0.282)

    c.optim = {**defaults.sgd(lr, nesterov=True), "weight_decay": 5e-4, "no_decay": "bn"}
    c.schedule.warmup_steps = c.total_steps // 30
    c.checkpoint.every = 400
    return defaults.apply_mode(c, ",".join(word for word in words if word != "small"), size=32)
