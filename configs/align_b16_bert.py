"""ALIGN-like: ViT-B/16 and BERT-Base in one space, trained on images with their captions (arXiv 2205.13147, App. C).

    python -m mrl_jax.tokenizer captions.csv --text_key=caption --out=tokenizer.json
    python -m mrl_jax.prepare 'shards/*.tar' --data_dir=DIR/pairs --text_key=txt --tokenizer=tokenizer.json \
        --context=64 --seed=0 --max_size=512 --skip_fraction=0.01 --splits=train:0.999,test:0.001
    python -m mrl_jax.train --config=configs/align_b16_bert.py --workdir=runs/align --config.data.dir=DIR

1,000,000 steps, Adafactor, the rate a line from 1e-3 down to 0; batch 4096, our reading of 64 on each of the 64 chips.
Both embeddings are cut and then normalised at each of seven dims. `:sigmoid` takes the sigmoid loss of all pairs;
`--config.accumulate=8` is the same update with the activations of an eighth of the batch. A trained classifier's
backbone becomes the image tower, and stays as it is (LiT, arXiv 2111.07991), by

    python -m mrl_jax.train --config=configs/align_b16_bert.py --workdir=runs/lit --config.data.dir=DIR \
        --config.init.path=runs/vit --config.init.rename='^backbone/=image/' \
        --config.init.skip='^(text|temperature|head)/' --config.optim.freeze='^image/'

where runs/vit is of configs/imagenet_vit_b16.py; of another classifier give the options as `--config.model.image.*`
too, and its `data.mean` and `data.std`.

ImageNet 1-NN of the image tower, by

    python -m mrl_jax.embed --workdir=runs/align --dataset=tfds:imagenet2012 --split=train,validation \
        --out=runs/align/features/imagenet --data_dir=DIR
    python -m mrl_jax.probe --train=runs/align/features/imagenet/train --test=runs/align/features/imagenet/validation \
        --out=runs/align --name=imagenet_knn --methods=knn --dims=12,24,48,96,192,384,768

Expected, published, at these dims: MRL 43.57 56.44 62.33 65.72 67.00 67.70 67.85; the largest model alone, cut, 11.90
33.35 51.32 61.82 66.71 67.65 68.00. The data are not public; not run by us.

`:small` is a ResNet-10 and a BERT-Tiny on icons and their names, each dim with a temperature of its own, for two CPU
cores, about 2 minutes a run;
`python -m experiments.image_text` runs and measures it. Expected: experiments/results/image_text_icons_names.json, a
name finds its drawing first in 1.4 to 3.2 % at 8 to 128 dims, below models of single dims (0.6 to 5.6) from 32 dims on.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    c = defaults.default()
    c.batch_size, c.total_steps = 4096, 1_000_000
    c.dtype, c.head = "bfloat16", "none"
    c.nesting.dims = Nesting.halving(768, 12).dims
    c.loss = {"name": "contrastive", "chunk": 0, "duplicates": "masked"}

    image = {**defaults.vit("B/16"), "posemb": "sincos2d", "remat": True}
    c.model = defaults.dual_encoder(image, {**defaults.bert("Base"), "remat": True, "dropout": 0.0})
    c.data.name, c.data.kind = "array_record:pairs", "image_text"
    c.data.train_ops = "decode(3)|random_resized_crop(224,scale=(0.25,1.0))|flip_lr"
    c.data.eval_ops = "decode(3)|resize_small(256)|center_crop(224)"
    c.data.workers, c.data.eval_batch_size = 32, 1024

    c.optim = {**defaults.adafactor(1e-3), "weight_decay": 1e-4, "no_decay": "bias|scale|norm", "clip_norm": 1.0}
    c.schedule = {"name": "linear", "warmup_steps": 10_000, "final": 0.0}
    c.evals = {"pairs": {"name": "pair_retrieval", "every": 10_000, "split": "", "dims": ()}}
    c.checkpoint.every = 5000
    words = [word for word in mode.split(",") if word]
    if "small" in words:
        _small(c)
    if "sigmoid" in words:
        c.loss.name, c.model.bias = "sigmoid", -10.0
    if "debug" in words:
        c.dtype = "float32"
        c.model.image, c.model.text = defaults.vit("mu/16"), {**c.model.text, "variant": "mu", "remat": False}
        c.nesting.dims = (4, 8, 32)
        c.data.train_ops = "decode(3)|random_resized_crop(32)|flip_lr"
        c.data.eval_ops = "decode(3)|resize_small(32)|center_crop(32)"
        c.evals = {"pairs": c.evals.pairs}  # the classes of synthetic images have no names
    defaults.apply_mode(c, ",".join(word for word in words if word not in ("small", "sigmoid")), size=32)
    c.head = "ff" if c.head == "ff" else "none"  # the embedding is the output
    return c


def _small(c: ml_collections.ConfigDict) -> None:
    c.dtype, c.batch_size, c.total_steps = "float32", 128, 800
    c.nesting.dims = Nesting.halving(128, 8).dims
    text = {**defaults.bert("Tiny"), "pool": "mean", "positions": 16, "dropout": 0.0}
    c.model = defaults.dual_encoder({**defaults.resnet("10"), "base_width": 16}, text)
    c.data.name, c.data.workers, c.data.eval_batch_size = "icons:names", 0, 256
    c.data.train_ops, c.data.eval_ops = "decode|random_shift(4)", "decode"
    c.model.scale_per_dim = True
    c.optim = {**defaults.adamw(3e-3), "weight_decay": 1e-2, "no_decay": "bias|scale|norm", "clip_norm": 1.0}
    c.schedule.warmup_steps, c.checkpoint.every = 50, 200
    c.evals = {
        "pairs": {"name": "pair_retrieval", "every": 0, "split": "", "dims": ()},
        "zero_shot": {"name": "zero_shot", "every": 0, "split": "", "templates": ("{}",), "dims": ()},
        "knn": {"name": "knn", "every": 0, "split": "", "gallery": "train", "k": 1, "dims": ()},
    }
