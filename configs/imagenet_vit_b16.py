"""ViT-B/16 on ImageNet-1K with the seven dims the paper nests in a ViT (arXiv 2205.13147, section 4.1).

    tfds build imagenet2012 --data_dir=DIR --file_format=array_record
    python -m mrl_jax.train --config=configs/imagenet_vit_b16.py --workdir=runs/vit --config.data.dir=DIR

90 epochs at batch 1024, AdamW 1e-3 with 10,000 steps of warm-up and a cosine, weight decay 0.1, gradients clipped at 1,
crops and flips only. Sharding: `--config.mesh.fsdp=8` splits parameters and optimizer state over 8 devices.

Expected: not known; the paper trains its ViTs on JFT-300M and ALIGN, and we have not run this one.
Cost: 112,602 steps of 107 TFLOP (counted): 12 EFLOP, an estimated 3 hours on 8 x A100 at 45 % of their peak.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting

TRAIN_IMAGES = 1_281_167


def get_config(mode: str = "mrl") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size = 1024
    c.total_steps = 90 * TRAIN_IMAGES // c.batch_size
    c.dtype = "bfloat16"
    c.nesting.dims = Nesting.halving(768, 12).dims

    c.model = {**defaults.vit("B/16"), "posemb": "sincos2d"}
    c.data.name = "tfds:imagenet2012"
    c.data.train_split, c.data.eval_split = "train", "validation"
    c.data.train_ops = "decode(3)|random_resized_crop(224)|flip_lr"
    c.data.eval_ops = "decode(3)|resize_small(256)|center_crop(224)"
    c.data.workers = 16

    c.optim = {**defaults.adamw(1e-3), "weight_decay": 0.1, "clip_norm": 1.0}
    c.schedule.warmup_steps = 10_000

    c.evals.classification.every = 10_000
    c.checkpoint.every = 5000
    defaults.apply_mode(c, mode, size=32)
    if "debug" in mode.split(","):
        # A width of 768 would take minutes on a CPU; the smallest ViT takes the same path.
        c.model.variant = "Ti/16"
        if c.head != "ff":
            c.nesting.dims = Nesting.halving(192, 12).dims
    return c
