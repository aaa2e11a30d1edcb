"""The paper's ablations of MRL on ImageNet, one word each (arXiv 2205.13147, appendix K).

    python -m mrl_jax.train --config=configs/imagenet_resnet50_ablations.py:8boost --workdir=runs/8boost \
        --config.data.dir=DIR

The recipe and the cost are those of imagenet_resnet50.py; only the nesting differs:
    8boost          weight 2 for 8 dims. Published: 69.53 % top-1 at 8 dims, against 66.63 without
    8+16boost       weight 2 for 8 dims, 1.5 for 16. Published: 16 to 256 dims gain, 512 to 2048 lose at most 0.1
    uniform         8, 212, 416, ..., 2048. Published 1-NN: 58.44 % at 8 and 61.11 at 16 dims, against 62.19 and 67.91
    smallest=4      4, 8, ..., 2048. Published: 27.25 % top-1 at 4 dims
    smallest=6      6, 8, 16, ..., 2048 (where 6 belongs is our reading). No number is known
    dense=32        every 32 dims (8 and 16 also work), one tied head: 64 levels at a few times the cost of one
    sample=3        of the nine dims the full one and two others are drawn per update
Join with other words by commas: `:8boost,mrl_e`, `:uniform,debug`. New heads on a trained model, the last of the
ablations, are imagenet_resnet50_finetune.py. We have run none of these.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting

TRAIN_IMAGES = 1_281_167
DIMS = Nesting.halving(2048, 8).dims
REST = (1.0,) * (len(DIMS) - 2)


def ablate(c: ml_collections.ConfigDict, word: str) -> bool:
    """Changes the nesting as `word` says; False where it says nothing about it."""
    name, _, number = word.partition("=")
    if word == "8boost":
        c.nesting.weights = (2.0, 1.0, *REST)
    elif word == "8+16boost":
        c.nesting.weights = (2.0, 1.5, *REST)
    elif word == "uniform":
        c.nesting.dims = tuple(range(8, 2049, 204))
    elif name == "smallest" and number in ("4", "6"):
        c.nesting.dims = (int(number), *DIMS)
    elif name == "dense" and number in ("8", "16", "32"):
        c.head, c.nesting.dims = "mrl_e", Nesting.uniform(2048, int(number)).dims
    elif name == "sample" and number.isdigit():
        c.nesting.sample = int(number)
    else:
        return False
    return True


def get_config(mode: str = "8boost") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size = 1024
    c.total_steps = 40 * TRAIN_IMAGES // c.batch_size
    c.dtype = "bfloat16"
    c.nesting.dims = DIMS
    c.loss.label_smoothing = 0.1

    c.model = {**defaults.resnet("50"), "blurpool": True}
    c.data.name = "tfds:imagenet2012"
    c.data.train_split, c.data.eval_split = "train", "validation"
    c.data.train_ops = "decode(3)|random_resized_crop({size})|flip_lr"
    c.data.resolution.points = ((29 / 40, 160), (35 / 40, 192))
    c.data.eval_ops = "decode(3)|resize_small(256)|center_crop(224)"
    c.data.mean, c.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    c.data.workers = 16

    c.optim = {**defaults.sgd(0.425), "weight_decay": 1e-4, "no_decay": "/bn"}
    c.schedule = {"name": "piecewise_linear", "points": ((0.0, 1e-4), (2 / 40, 1.0), (1.0, 0.0))}

    c.evals.classification.every = 5000
    c.checkpoint.every = 2500
    rest = [word for word in mode.split(",") if not ablate(c, word)]
    return defaults.apply_mode(c, ",".join(rest), size=64)
