"""Numbers and regular expressions of a config that no run can have, told before anything is built."""

import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from mrl_jax import trees
from mrl_jax.choices import choose


def check_numbers(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a number that no run can have."""
    flat = trees.flatten(config.to_dict())
    # With two checkpoints kept, an intact one is left when the newest is damaged.
    least = {"total_steps": 1, "checkpoint/every": 1, "checkpoint/keep": 2, "log/every": 1, "profile/steps": 1}
    least |= {"checkpoint/keep_period": 0, "data/workers": 0, "optim/weight_decay": 0, "optim/clip_norm": 0}
    least |= {"loss/chunk": 0} if "chunk" in config.loss else {}
    least |= {"accumulate": 1, "nan_patience": 1, "nesting/sample": 0, "optim/ema": 0}
    for name, value in least.items():
        if flat[name] < value:
            raise ValueError(f"{name.replace('/', '.')}={flat[name]} must be at least {value}")
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
    if not 0 <= config.optim.get("momentum", 0) < 1:
        raise ValueError(f"optim.momentum={config.optim.momentum} must be in [0, 1), for example 0.9; 0 for none")
    least = {f"schedule.{name}": config.schedule.get(name, 0) for name in ("warmup_steps", "final", "cooldown_steps")}
    least |= {f"evals.{name}.every": own.every for name, own in config.evals.items()}
    for name, value in least.items():
        if not value >= 0:
            raise ValueError(f"{name}={value} must be at least 0")
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
    patterns["optim.multipliers"] = [pattern for pattern, _ in options["multipliers"]]
    for field, pattern in ((field, pattern) for field, found in patterns.items() for pattern in found):
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"{field}: {pattern!r} finds no parameter; some are {names[:: max(len(names) // 6, 1)]}")
    if options["freeze"] and all(re.search(options["freeze"], name) for name in names):
        raise ValueError(f"optim.freeze={options['freeze']!r} finds every parameter: nothing is left to train")
