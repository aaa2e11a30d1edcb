"""New nested heads on a ResNet-50 trained without them: what fine-tuning makes up for (arXiv 2205.13147, appendix K).

    python -m mrl_jax.train --config=configs/imagenet_resnet50.py:ff=2048 --workdir=runs/ff2048 --config.data.dir=DIR
    python -m mrl_jax.train --config=configs/imagenet_resnet50_finetune.py:fc --workdir=runs/fc --config.data.dir=DIR \
        --config.init.path=runs/ff2048

What is trained: the heads alone (`:fc`, the default); with them the last convolution (`:conv3`), the last two
(`:conv2`), or the whole last block with its BatchNorm (`:block`). `--config.init.path` also takes a .safetensors file
that `python -m mrl_jax.convert` made. Further words: `:fc,mrl_e`, `:block,debug` (seconds,
synthetic images, from random parameters).

10 epochs at rate 0.1, else the recipe of imagenet_resnet50.py: SGD with momentum 0.9, batch 1024, warm-up over the
first twentieth, then a line to 0. The batch size and the schedule are our reading of "otherwise the same recipe".

Expected, published (top-1 %, dims 8 to 2048): `:fc` 5.15 13.79 32.52 52.66 64.60 69.29 70.51 70.19 69.72 (arXiv
2503.01776); at 8 dims `:conv2` 54.78 and `:block` 60.02; for comparison 66.63 at 8 dims trained from the start. For
`:conv3` no number is known. We have not run it. Cost: 12,511 steps; `:fc` needs no backward pass of the network.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting

TRAIN_IMAGES = 1_281_167
# Parameters left as they are, by what is trained.
FREEZE = {
    "fc": r"^backbone/",
    "conv3": r"^backbone/(?!layer4_2/conv3/)",
    "conv2": r"^backbone/(?!layer4_2/conv[23]/)",
    "block": r"^backbone/(?!layer4_2/)",
}


def get_config(mode: str = "fc") -> ml_collections.ConfigDict:
    words = mode.split(",")
    trained = [word for word in words if word in FREEZE] or ["fc"]
    if len(trained) > 1:
        raise ValueError(f"config mode {mode!r} names several of {list(FREEZE)}: give one")
    c = defaults.default()
    c.batch_size = 1024
    c.total_steps = 10 * TRAIN_IMAGES // c.batch_size
    c.dtype = "bfloat16"
    c.nesting.dims = Nesting.halving(2048, 8).dims
    c.loss.label_smoothing = 0.1
    c.init.path, c.init.skip = "runs/ff2048", "^head/"

    c.model = {**defaults.resnet("50"), "blurpool": True}
    c.data.name = "tfds:imagenet2012"
    c.data.train_split, c.data.eval_split = "train", "validation"
    c.data.train_ops = "decode(3)|random_resized_crop(176)|flip_lr"
    c.data.eval_ops = "decode(3)|resize_small(256)|center_crop(224)"
    c.data.mean, c.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    c.data.workers = 16

    c.optim = {**defaults.sgd(0.1), "weight_decay": 1e-4, "no_decay": "/bn", "freeze": FREEZE[trained[0]]}
    c.schedule = {"name": "piecewise_linear", "points": ((0.0, 1e-4), (2 / 40, 1.0), (1.0, 0.0))}

    c.evals.classification.every = 2500
    c.checkpoint.every = 1250
    if "debug" in words:
        c.init.path = ""
    return defaults.apply_mode(c, ",".join(word for word in words if word not in FREEZE), size=64)
