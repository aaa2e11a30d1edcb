"""Several widths of a ResNet in one run, their embeddings comparable: SFSC (arXiv 2206.08289), and MRL within it.

    python -m mrl_jax.train --config=configs/sfsc_resnet.py --workdir=runs/sfsc
    python -m mrl_jax.train --config=configs/sfsc_resnet.py:joint --workdir=runs/joint
    python -m mrl_jax.export --workdir=runs/sfsc --width=0.25 --dim=32 --out=exports/phone

Widths 0.25, 0.5, 0.75 and 1 of a ResNet-10 on icons of 227 concepts, a projection to 128 features of which every
prefix of 8, 16, ... is trained by one tied head shared by all widths. `:ff=128` is SFSC without nested dims. Words:

    sfsc (default)                 evidential loss, conflicting gradients projected
    joint                          softmax, gradients averaged: the slimmable network with a shared head
    uncertainty, projection        either of the two ingredients alone
    kendall, gradnorm              softmax, losses weighted as in multi-task learning
    distill, regress, triplet      softmax, narrower widths taught by the softmax of the full one of the same run, drawn
                                   to its embedding, or to its embeddings of the label by the batch's hardest triplets
    sandwich                       sfsc on the smallest, the full and one width drawn at every update
    independent=W                  the network of width W alone; unified is independent=0.25 on every device
    bct=W                          the same against the head of a trained full model, which stays as it is:
                                   --config.init.path=runs/i1 of `:independent=1`
    asymmetric=W                   Asymmetric-R: the network of width W, by nothing but regression onto the embedding of
                                   that full model, which is its teacher and stays as it is
    simplex                        joint with class vectors fixed at the corners of a simplex, at 256 dims, not nested

SGD with momentum, clipped, 1,500 updates of 64. Cost: 1.9 times the operations of the full width alone (a width costs
about its square), minutes on two CPU cores. The learning rate and the schedule are ours: no recipe of the paper is
known, nor are its numbers. Expected: experiments/results/sfsc_emoji.json, sfsc_emoji_2000_updates.json and
sfsc_tiny_open.json: more updates and `:regress` helped, and SFSC's two ingredients did not.
"""

import ml_collections

from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting

WIDTHS = (0.25, 0.5, 0.75, 1.0)
METHODS = {
    "sfsc": {"projection": "all"},
    "joint": {},
    "uncertainty": {},
    "projection": {"projection": "all"},
    "kendall": {"priority": "kendall"},
    "gradnorm": {"priority": "gradnorm"},
    "distill": {"distill": 0.5},
    "regress": {"regress": 1.0},
    "triplet": {"triplet": 1.0},
    "sandwich": {"projection": "all", "sample": 3},
    "simplex": {},
}
EVIDENTIAL = ("sfsc", "uncertainty", "sandwich")
ALONE = ("independent=", "bct=", "asymmetric=")


def get_config(mode: str = "sfsc") -> ml_collections.ConfigDict:
    words = mode.split(",")
    own = [word for word in words if word in METHODS or word.startswith(ALONE)] or ["sfsc"]
    if len(own) > 1:
        raise ValueError(f"config mode {mode!r} names several of {[*METHODS, *ALONE]}: give one")
    c = defaults.default()
    c.total_steps, c.batch_size = 1500, 64
    c.head = "mrl_e"
    c.nesting.dims = Nesting.halving(128, 8).dims
    c.model = {**defaults.resnet("10"), "base_width": 32, "projection": 128, "widths": WIDTHS}
    c.data.train_ops = "decode|random_shift(4)"
    c.optim = {**defaults.sgd(0.05), "weight_decay": 1e-3, "no_decay": "bn|downsample_1", "clip_norm": 5.0}
    c.schedule.warmup_steps = 100
    c.checkpoint.every = 300
    if "debug" in words:
        c.model.base_width, c.model.widths = 8, WIDTHS[-3:]
    if own[0].startswith(ALONE):
        _alone(c, *own[0].split("="))
    else:
        c.switch.update(METHODS[own[0]])
        if own[0] in EVIDENTIAL:
            c.loss = defaults.evidential()
    if own[0] == "simplex":
        c.head, c.nesting.dims, c.model.projection = "ff", (256,), 256
        with c.unlocked():
            c.model.head_init = "simplex"
        c.optim.freeze = "^head/"
    return defaults.apply_mode(c, ",".join(word for word in words if word != own[0]), size=32, channels=1)


def _alone(c: ml_collections.ConfigDict, method: str, width: str) -> None:
    """One width by itself."""
    if not width.replace(".", "", 1).isdigit():
        raise ValueError(f"config mode {method}={width!r} needs a width, as in {method}=0.25")
    c.model.widths, c.model.width = (), float(width)
    if method == "bct":
        c.init.path, c.init.skip = "runs/i1", "^backbone/"
        c.optim.freeze = "^head/"
    if method == "asymmetric":
        full = dict(c.model)
        c.model = defaults.taught(full, {**full, "width": 1.0})
        c.init = {"path": "runs/i1", "rename": "^backbone/=teacher/", "skip": "^head/|^student/"}
        c.optim.freeze, c.head = "^teacher/", "none"
        c.loss, c.evals = {"name": "regression"}, {"knn": c.evals.knn}
