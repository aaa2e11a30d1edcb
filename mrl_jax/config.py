"""Every config field with its default and meaning; `configs/*.py` assign what differs."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

# Fields that may differ when a run continues: they change what is reported or kept, or which device computes what,
# never what is computed (but for the order of sums).
SAFE_TO_CHANGE = (
    "checkpoint.",
    "data.dir",
    "data.eval_batch_size",
    "data.eval_split",
    "data.workers",
    "evals.",
    "log.",
    "mesh.",
    "nan_patience",
    "profile.",
    "sharding.",
)
# Groups whose fields depend on the name in them: they are assigned whole, and never completed with defaults.
CHOSEN = ("model", "loss", "optim", "schedule", "evals", "mix")


def default() -> ml_collections.ConfigDict:
    """The config that every other one starts from."""
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.total_steps = 1000  # exactly this many updates
    c.batch_size = 128  # rows of the global batch
    c.accumulate = 1  # microbatches of batch_size / accumulate rows per update, one after the other: less memory
    c.nan_policy = "stop"  # at a loss or gradient that is not finite: stop | skip, leave that update out and count it
    c.nan_patience = 10  # skip: so many in a row stop the run
    c.init = {
        "path": "",  # start from these parameters: a run's folder, one of its checkpoints, or a .safetensors file
        "rename": "",  # REGEX=NEW, for example ^backbone/=image/: of their names what is found becomes NEW
        "skip": "",  # regex of parameters to start fresh, and of those of the file (renamed) to leave out
    }
    c.dtype = "float32"  # compute dtype, float32 or bfloat16; parameters and softmax statistics are always float32

    # mrl: one head per dim; mrl_e: one weight-tied head; ff: one head at the single dim of nesting.dims; none: of pairs
    c.head = "mrl"
    c.nesting = {
        "dims": (8, 16, 32, 64, 128),
        "weights": (),  # none: 1 for every dim
        "sample": 0,  # so many dims drawn per update, reweighted to the same expected loss; 0: all of them
        "keep_full": True,  # the full dim is always among those drawn
    }
    c.loss = {"name": "softmax", "label_smoothing": 0.0, "chunk": 0}  # chunk: classes per tile, 0 lets the loss choose
    # none | mixup | cutmix | both, of which share of the batches, and the alphas of their Beta (mrl_jax/mixing.py)
    c.mix = {"name": "none", "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "probability": 1.0}

    c.model = resnet()
    c.switch = {  # of a model of several widths, see mrl_jax/widths.py
        "sample": 0,  # widths per update: the smallest, the full one, the rest drawn; 0: all
        "full_loss": "",  # name of the loss of the full width; none: that of all
        "priority": "none",  # of the losses: none | uncertain | certain (by an evidential loss) | kendall | gradnorm
        "priority_rate": 0.025,  # step size of kendall and gradnorm
        "gradnorm_alpha": 1.5,
        "projection": "none",  # of conflicting gradients: none | all | anchor_full
        "scope": "whole",  # of the projection: whole | overlap | layer
        "reduction": "mean",  # of the gradients of all widths: mean | sum | owner_mean
        "classifier": "all",  # which widths train the head: all | full
        "distill": 0.0,  # share of the narrower widths' loss that the full width's softmax is the target of
        "regress": 0.0,  # weight of their embeddings' squared distance to the full width's
        "triplet": 0.0,  # weight of the hardest triplets of the batch, their embeddings against the full width's
    }
    c.data = {
        "name": "icons",  # icons[:identities | names] | synthetic[:options] | array_record:DIR | tfds:NAME
        "kind": "image",  # image | masked_text | image_text | text_pair: what is read of a record
        "dir": "data",  # where prepared data lies, and where icons are rendered to
        "mixture": (),  # (name, split, weight) of each part of a mixture to train on; none: train_split of name
        "balance": 0.0,  # sampling of classes: 0 as they are, 1 equally often, 0.5 by the square root of their size
        "train_split": "train",
        "eval_split": "test",  # of embed, and of every evaluator that names no split of its own
        "train_ops": "decode",  # see mrl_jax/data/images.py; {size} in it stands for the size of `resolution`
        "eval_ops": "decode",
        # (fraction of the run, size) points of a line, rounded to a multiple; none: the sizes of train_ops
        "resolution": {"points": (), "multiple": 32},
        # ids of a text, 0: as prepared; the share of its pieces to be guessed, whole words or single pieces; hard
        # negatives of each pair of texts in training
        "text": {"context": 0, "mask": 0.15, "whole_word": False, "negatives": 0},
        "eval_batch_size": 256,
        "mean": (0.5,),  # per channel, of images in 0..1
        "std": (0.5,),
        "workers": 0,  # input processes; 0: threads
    }

    c.optim = adamw(1e-3)
    # warmup_steps: at most total_steps, to which it is cut; the other schedules: mrl_jax/optim.py
    c.schedule = {"name": "cosine", "warmup_steps": 0, "final": 0.0}

    c.mesh = {"data": -1, "fsdp": 1, "model": 1}  # devices per axis; -1: all that are left
    c.sharding = {
        "rules": (
            ("head/kernel", (None, "model")),
            ("head/bias", ("model",)),
        ),  # first match wins: regex, axis per dimension
        "fsdp_min_size": 2**14,  # smaller parameters are replicated
    }

    c.evals = {
        "classification": {
            "name": "classification",
            "every": 0,  # at the end only
            "split": "",  # data.eval_split
            "dims": (),
        },
        "knn": {"name": "knn", "every": 0, "split": "", "gallery": "train", "k": 1, "dims": ()},
    }
    c.checkpoint = {"every": 1000, "keep": 2, "keep_period": 0}
    c.log = {"every": 50, "tensorboard": False, "wandb": ""}  # wandb: the project's name
    c.profile = {"first_step": -1, "steps": 5}  # a trace of these steps below workdir/profile; -1: none
    return c.lock()


# Of every optimizer.
REGULARISATION = {
    "weight_decay": 1e-4,  # multiplied by the learning rate
    "no_decay": "bias|scale",  # regex of parameters left out of weight decay
    "clip_norm": 0.0,  # of the gradient; 0: no clipping
    "ema": 0.0,  # decay of a moving average of the parameters, which is what evaluation sees; 0: none
    "ema_warmup": False,  # the average starts short: decay (1 + t) / (10 + t), up to ema
    "layer_decay": 1.0,  # the learning rate shrinks by this factor per layer, from the head down
    "multipliers": (),  # (regex, factor) pairs: multiples of the learning rate, first match wins
    "freeze": "",  # regex of parameters left as they are; a BatchNorm frozen whole keeps its statistics
}


def adamw(lr: float, b2: float = 0.999) -> dict[str, Any]:
    """Options of AdamW, for `config.optim`."""
    return {"name": "adamw", "lr": lr, "b1": 0.9, "b2": b2, "eps": 1e-8} | REGULARISATION


def lamb(lr: float) -> dict[str, Any]:
    """Options of LAMB, for `config.optim`."""
    return {"name": "lamb", "lr": lr, "b1": 0.9, "b2": 0.999, "eps": 1e-6} | REGULARISATION


def sgd(lr: float, momentum: float = 0.9, nesterov: bool = False) -> dict[str, Any]:
    """Options of SGD with momentum, for `config.optim`."""
    return {"name": "sgd", "lr": lr, "momentum": momentum, "nesterov": nesterov} | REGULARISATION


def adafactor(lr: float, momentum: float = 0.9) -> dict[str, Any]:
    """Options of Adafactor, for `config.optim`."""
    own = {"decay_rate": 0.8, "clip_threshold": 1.0, "momentum": momentum}
    return {"name": "adafactor", "lr": lr} | own | REGULARISATION


# Of every backbone that has several widths.
WIDTHS = {
    "widths": (),  # of one network of several, rising to 1.0; none: the full one
    "width": 1.0,  # share of the channels, for a narrow network alone
    "embedding": "equal",  # as many features at every width; scaled: the width's share of them, its own nested dim
}


# Fields of config.model that older versions did not write, by its name.
LATER = {
    "resnet": {**WIDTHS, "projection": 0},
    "vit": {**WIDTHS, "private_norm": False, "elastic_depth": False},
    "bert": {"scale_per_dim": False},
    "dual_encoder": {"scale_per_dim": False},
}


# The cosines of a pair are multiplied by a learned scale, 1 / temperature, at most `max_scale`, and a bias is added;
# with `scale_per_dim` every nested dim learns its own two.
TEMPERATURE = {"scale": 14.3, "max_scale": 100.0, "bias": 0.0, "scale_per_dim": False}


def resnet(variant: str = "50") -> dict[str, Any]:
    """Options of a ResNet, for `config.model`."""
    own = {"stem": "imagenet", "blurpool": False, "zero_init_residual": False, "base_width": 64, "drop_path": 0.0}
    own["projection"] = 0  # features of a linear layer and a BatchNorm at the end; 0: none
    return {"name": "resnet", "variant": variant} | own | WIDTHS


def vit(variant: str = "B/16") -> dict[str, Any]:
    """Options of a ViT, for `config.model`."""
    own = {"posemb": "learn", "pool": "gap", "dropout": 0.0, "drop_path": 0.0, "remat": False, "scan": False}
    own |= {"private_norm": False, "elastic_depth": False}
    return {"name": "vit", "variant": variant, "norm_eps": 1e-6, "gelu": "exact"} | own | WIDTHS


def bert(variant: str = "Base") -> dict[str, Any]:
    """Options of a BERT, for `config.model`; those of `TEMPERATURE` are for pairs of texts."""
    own = {"norm": "post", "pool": "cls", "positions": 512, "dropout": 0.1, "norm_eps": 1e-12, "gelu": "exact"}
    return {"name": "bert", "variant": variant} | own | {"remat": False} | TEMPERATURE


def dual_encoder(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Options of two towers, for `config.model`: those of an image backbone, and those of `bert`."""
    tower = {name: value for name, value in text.items() if name not in TEMPERATURE}
    return {"name": "dual_encoder", "image": image, "text": tower} | TEMPERATURE


def taught(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a backbone that learns from a trained one, for `config.model`; both as `resnet` or `vit` give them."""
    return {"name": "taught", "student": dict(student), "teacher": dict(teacher)}


def linear_probe(split: str = "", train: str = "train") -> dict[str, Any]:
    """Options of the ridge probe, for `config.evals.linear_probe`: fitted on `train`, accuracy on `split`; none given,
    on data.eval_split.
    """
    return {"name": "linear_probe", "every": 0, "split": split, "train": train, "dims": (), "seed": 0}


def evidential() -> dict[str, Any]:
    """Options of the evidential loss, for `config.loss`: evidence softplus, exp_clip, or auto by the classes."""
    return {"name": "evidential", "evidence": "auto", "kl_weight": 5e-4, "chunk": 0}


def margin(name: str = "arcface") -> dict[str, Any]:
    """Options of ArcFace or CosFace, for `config.loss`."""
    return {"name": name, "margin": {"arcface": 0.5, "cosface": 0.35}[name], "scale": 64.0}


def debug(c: ml_collections.ConfigDict, *, size: int, channels: int = 3) -> ml_collections.ConfigDict:
    """Shrinks a config to seconds of work: synthetic images, few steps, every part of the run still taken. The rate is
    in proportion to the batch, so that it is no larger than the recipe can bear.
    """
    with c.unlocked():
        text = "" if c.data.kind == "image" else ",context=16,vocabulary=64"
        text += f",negatives={c.data.text.negatives}" if c.data.text.negatives else ""
        c.data.name = f"synthetic:size={size},channels={channels},classes=8,examples=64{text}"
        c.data.train_split, c.data.eval_split, c.data.workers = "train", "test", 0
        c.data.mixture = ()
        c.data.eval_batch_size = 16
        c.optim.lr *= min(16 / c.batch_size, 1.0)
        c.total_steps, c.batch_size = 4, 16
        if "warmup_steps" in c.schedule:
            c.schedule.warmup_steps = min(c.schedule.warmup_steps, 2)
        own = c.data.resolution
        own.points = tuple((fraction, pixels // 4) for fraction, pixels in own.points)
        own.multiple = max(own.multiple // 4, 1)
        c.checkpoint.every, c.log.every = 2, 1
        for evaluator in c.evals.values():
            evaluator.every, evaluator.split = 2, ""
            if "gallery" in evaluator:
                evaluator.gallery = "train"
    return c


def apply_mode(c: ml_collections.ConfigDict, mode: str, *, size: int, channels: int = 3) -> ml_collections.ConfigDict:
    """The words after the colon of `--config=configs/x.py:WORDS`, separated by commas.

    mrl, mrl_e: the head. ff=K: the fixed-feature baseline at dim K. slimmable: its other baseline, a network whose
    width w has w times the features, a width for every dim. debug: seconds of work on synthetic images.

    Raises:
      ValueError: for any other word.
    """
    for word in filter(None, mode.split(",")):
        if word in ("mrl", "mrl_e"):
            c.head = word
        elif word.startswith("ff=") and word[3:].isdigit():
            c.head, c.nesting.dims, c.nesting.weights = "ff", (int(word[3:]),), ()
        elif word == "slimmable":
            c.head, c.model.embedding = "mrl_e", "scaled"
            c.model.widths = tuple(m / c.nesting.dims[-1] for m in c.nesting.dims)
        elif word == "debug":
            debug(c, size=size, channels=channels)
        else:
            raise ValueError(
                f"config mode {word!r} is not one of mrl, mrl_e, ff=K (K a dim), slimmable, debug; join several with "
                "commas"
            )
    return c


def name_of(model: Mapping[str, Any]) -> str:
    """A model's name and variant, for people; of a model of two towers those of both."""
    if "variant" in model:
        return f"{model['name']} {model['variant']}"
    towers = [name_of(part) for part in model.values() if isinstance(part, Mapping | ml_collections.ConfigDict)]
    return f"{model['name']} of {' and '.join(towers)}"


def to_json(c: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values (tuples become lists)."""
    return json.loads(c.to_json())


def from_json(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The inverse of `to_json`; fields that came after the run was saved have their defaults, which change nothing."""
    return ml_collections.ConfigDict(_tuples(completed(values))).lock()


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config in JSON with the defaults of the fields that came after it was saved."""
    found = _completed(values, to_json(default()))
    model = {**LATER.get(values["model"]["name"], {}), **values["model"]} if "model" in values else found["model"]
    return {**found, "model": to_json(ml_collections.ConfigDict(model))}


def _completed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found = {**defaults, **values}
    for name in defaults.keys() & values.keys() - set(CHOSEN):
        if isinstance(defaults[name], Mapping) and isinstance(values[name], Mapping):
            found[name] = _completed(values[name], defaults[name])
    return found


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tuples(v) for name, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ, as {dotted name: (old, new)}; a field that one side lacks counts as None there."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found[prefix + name] = (a, b)
    return found


def check_resumable(old: Mapping[str, Any], new: Mapping[str, Any], workdir: Any) -> None:
    """Raises ValueError, naming the fields, if a run cannot go on under `new` as it began under `old`."""
    changed = {n: v for n, v in differences(completed(old), new).items() if not n.startswith(SAFE_TO_CHANGE)}
    if changed:
        fields = ", ".join(f"{name}: {a!r} -> {b!r}" for name, (a, b) in changed.items())
        raise ValueError(
            f"{workdir} holds a run of another config ({fields}): set these fields back to continue it, or "
            "choose another --workdir"
        )
