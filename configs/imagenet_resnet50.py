"""ResNet-50 on ImageNet-1K: the published MRL recipe (arXiv 2205.13147, appendix C; the authors' training script).

    tfds build imagenet2012 --data_dir=DIR --file_format=array_record
    python -m mrl_jax.train --config=configs/imagenet_resnet50.py --workdir=runs/mrl --config.data.dir=DIR
    ... :mrl_e for the weight-tied head, :ff=64 for the fixed-feature baseline at 64 dims, :debug for a few seconds of
    it

40 epochs at batch 1024, SGD with momentum 0.9, peak rate 0.425 at epoch 2, then a line to 0; weight decay 1e-4 on all
but the parameters with "bn" in their names; label smoothing 0.1 at every dim; BlurPool; images of 160 px, and from
epoch 32 on of 192 px (the published line from 160 at epoch 29 to 192 at 34, rounded to multiples of 32 at whole
epochs). A choice of ours: evaluation at 224 px (resize 256, centre crop) without flips, the convention of Table 1.

Expected, published (Table 1, top-1 %, dims 8 to 2048): MRL 66.63 73.53 75.03 75.82 76.30 76.47 76.65 76.76 76.80;
MRL-E 56.66 71.94 74.48 75.35 75.80 76.22 76.36 76.48 76.51; FF 65.29 72.85 74.60 75.27 75.29 75.71 76.18 76.63 76.87.
We have not run it. Cost: 50,045 steps of 12.7 and, from epoch 32 on, 18.3 TFLOP (counted): 0.7 EFLOP, an estimated 13
minutes on 8 x A100 at 35 % of their peak.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting

TRAIN_IMAGES = 1_281_167


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size = 1024
    c.total_steps = 40 * TRAIN_IMAGES // c.batch_size
    c.dtype = "bfloat16"
    c.nesting.dims = Nesting.halving(2048, 8).dims
    c.loss.label_smoothing = 0.1

    c.model = {**defaults.resnet("50"), "blurpool": True}
    c.data.name = "tfds:imagenet2012"
    c.data.train_split, c.data.eval_split = "train", "validation"
    c.data.train_ops = "decode(3)|random_resized_crop({size})|flip_lr"
    c.data.resolution.points = ((29 / 40, 160), (35 / 40, 192))  # halfway, and so over 176, at epoch 32
    c.data.eval_ops = "decode(3)|resize_small(256)|center_crop(224)"
    c.data.mean, c.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    c.data.workers = 16

    # As the paper's code has it: the norms of shortcuts (downsample_1) and the biases of heads are decayed.
    c.optim = {**defaults.sgd(0.425), "weight_decay": 1e-4, "no_decay": "/bn"}
    c.schedule = {"name": "piecewise_linear", "points": ((0.0, 1e-4), (2 / 40, 1.0), (1.0, 0.0))}

    c.evals.classification.every = 5000
    c.checkpoint.every = 2500
    return defaults.apply_mode(c, mode, size=64)
