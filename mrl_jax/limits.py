"""Types, numbers and regular expressions of a config that no run can have, told before anything is built."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from mrl_jax import config as defaults
from mrl_jax import trees
from mrl_jax.choices import check_like, choose, is_like


def _all(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple | list) and all(map(accepts, value))


def _of(*examples: Any) -> Callable[[Any], bool]:
    """A tuple with as many entries, each of the type of its example."""
    return lambda v: isinstance(v, tuple | list) and len(v) == len(examples) and all(map(is_like, v, examples))


# Tuples of which a default does not say all.
_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "nesting.weights": (_all(lambda v: is_like(v, 0.0)), "numbers, one for each dim, or () for 1 each"),
    "optim.multipliers": (_all(_of("", 0.0)), "(regex, factor) pairs, for example (('head/', 10.0),)"),
    "sharding.rules": (
        _all(lambda v: _of("", ())(v) and all(axis in (None, "data", "fsdp", "model") for axis in v[1])),
        "(regex, axes) pairs, an axis of the mesh or None for each dimension, for example (('bias', ('model',)),)",
    ),
    "data.mean": (lambda v: is_like(v, (0.5,)) and len(v) > 0, "one number, or one for each channel"),
    "data.std": (
        lambda v: is_like(v, (0.5,)) and len(v) > 0 and min(v) > 0,
        "one positive number, or one for each channel",
    ),
    "data.mixture": (
        _all(lambda v: _of("", "", 0.0)(v) and v[2] > 0),
        "(name, split, weight) of each part, with a positive weight",
    ),
    "data.resolution.points": (_all(_of(0.0, 0)), "(fraction of the run, size) pairs"),
}

_MOST_WORKERS = 1024  # more than any machine has cores for


def check_types(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a field of another type than its default. Of those that depend on a name, `pick` looks at
    what is not looked at here.
    """
    flat, default = trees.flatten(config.to_dict()), defaults.default().to_dict()
    optim = defaults.sgd(0.1) | defaults.adafactor(0.1) | defaults.adamw(0.1)
    optional = trees.flatten({"optim": optim, "loss": default["loss"]})
    known = {name: own for name, own in default.items() if name not in defaults.CHOSEN}
    known |= {"optim": {"lr": 0.1} | defaults.REGULARISATION, "mix": default["mix"]}
    known = {name: own for name, own in optional.items() if name in flat} | trees.flatten(known)
    for name, (accepts, meaning) in _ENTRIES.items():
        value = flat.get(name.replace(".", "/"), ())
        if not accepts(value):
            raise ValueError(f"{name}={value!r} must be {meaning}")
    for name, own in known.items():
        field = name.replace("/", ".")
        if name not in flat:
            raise ValueError(f"{field} is missing: set it, for example to {own!r}")
        check_like(field, flat[name], own)


def check_numbers(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a number that no run can have."""
    flat = trees.flatten(config.to_dict())
    # With two checkpoints kept, an intact one is left when the newest is damaged.
    least = {"total_steps": 1, "checkpoint/every": 1, "checkpoint/keep": 2, "log/every": 1, "profile/steps": 1}
    least |= {"checkpoint/keep_period": 0, "data/workers": 0, "optim/weight_decay": 0, "optim/clip_norm": 0}
    least |= {"loss/chunk": 0} if "chunk" in config.loss else {}
    least |= {"accumulate": 1, "nan_patience": 1, "nesting/sample": 0, "optim/ema": 0}
    least |= {"data/resolution/multiple": 1, "sharding/fsdp_min_size": 0}
    for name, value in least.items():
        if flat[name] < value:
            raise ValueError(f"{name.replace('/', '.')}={flat[name]} must be at least {value}")
    if flat["data/workers"] > _MOST_WORKERS:
        raise ValueError(f"data.workers={flat['data/workers']} must be at most {_MOST_WORKERS}, each is a process")
    if not 0 <= flat.get("loss/label_smoothing", 0) <= 1:
        raise ValueError(f"loss.label_smoothing={config.loss.label_smoothing} must be in 0..1")
    if not config.optim.lr > 0:
        raise ValueError(f"optim.lr={config.optim.lr} must be positive")
    if config.optim.ema >= 1:
        raise ValueError(f"optim.ema={config.optim.ema} must be in [0, 1), for example 0.9999; 0 for no average")
    choose("nan_policy", config.nan_policy, ("stop", "skip"))


def check_training(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a number that no training can have; a trained model is used whatever it was."""
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed={config.seed} must be in 0..{2**63 - 1}")
    for name in ("momentum", "b1", "b2"):
        if not 0 <= config.optim.get(name, 0) < 1:
            raise ValueError(f"optim.{name}={config.optim[name]} must be in [0, 1), for example 0.9; 0 for none")
    least = {f"schedule.{name}": config.schedule.get(name, 0) for name in ("warmup_steps", "final", "cooldown_steps")}
    least |= {f"optim.{name}": config.optim.get(name, 0) for name in ("eps", "clip_threshold")}
    least |= {f"evals.{name}.every": own.every for name, own in config.evals.items()}
    for name, value in least.items():
        if not value >= 0:
            raise ValueError(f"{name}={value} must be at least 0")
    for name in ("rename", "skip"):
        if config.init[name] and not config.init.path:
            raise ValueError(f"init.{name}={config.init[name]!r} is of parameters to start from: give init.path too")
    if config.optim.ema_warmup and not config.optim.ema:
        raise ValueError("optim.ema_warmup=True is of an average of the parameters: set optim.ema too, such as 0.9999")
    if not config.nesting.keep_full and not config.nesting.sample:
        raise ValueError(
            "nesting.keep_full=False is of dims drawn at each step: set nesting.sample too; with 0 all are trained on"
        )
    if not -1 <= config.profile.first_step < config.total_steps:
        raise ValueError(
            f"profile.first_step={config.profile.first_step} must be below total_steps={config.total_steps}; -1 for no "
            "trace"
        )


def check_expressions(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for what should be a regular expression and is none."""
    fields = [("optim.freeze", config.optim.freeze), ("optim.no_decay", config.optim.no_decay)]
    fields += [("init.skip", config.init.skip)]
    fields += [("optim.multipliers", pattern) for pattern, _ in config.optim.multipliers]
    fields += [("sharding.rules", pattern) for pattern, _ in config.sharding.rules]
    for field, pattern in fields:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{field}: {pattern!r} is no regular expression ({error})") from error


def check_patterns(options: Mapping[str, Any], params: Any) -> None:
    """Raises ValueError for a regular expression of config.optim that finds no parameter, or leaves none to train."""
    names = list(trees.flatten(params))
    patterns = {"optim.freeze": [options["freeze"]] if options["freeze"] else []}
    patterns["optim.no_decay"] = [options["no_decay"]] if options["no_decay"] and options["weight_decay"] else []
    patterns["optim.multipliers"] = [pattern for pattern, _ in options["multipliers"]]
    for field, pattern in ((field, pattern) for field, found in patterns.items() for pattern in found):
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(_finds_none(field, pattern, names))
    if options["freeze"] and all(re.search(options["freeze"], name) for name in names):
        raise ValueError(f"optim.freeze={options['freeze']!r} finds every parameter: nothing is left to train")


def check_rules(rules: Sequence[tuple[str, Sequence]], params: Any) -> None:
    """Raises ValueError for a rule of config.sharding that shards no parameter; the default ones need find none."""
    shapes = {name: x.shape for name, x in trees.flatten(params).items()}
    usual = {(pattern, tuple(axes)) for pattern, axes in defaults.default().sharding.rules}
    for pattern, axes in rules:
        found = {name: shape for name, shape in shapes.items() if re.search(pattern, name)}
        if (pattern, tuple(axes)) in usual or any(len(shape) == len(axes) for shape in found.values()):
            continue
        if found:
            name, shape = next(iter(found.items()))
            raise ValueError(
                f"sharding.rules: {pattern!r} finds {name} {shape}, which has {len(shape)} dimensions, but gives axes "
                f"for {len(axes)}, {tuple(axes)}: one for each dimension, None where it is not split"
            )
        raise ValueError(_finds_none("sharding.rules", pattern, list(shapes)))


def _finds_none(field: str, pattern: str, names: list[str]) -> str:
    return f"{field}: {pattern!r} finds no parameter; some are {names[:: max(len(names) // 6, 1)]}"
