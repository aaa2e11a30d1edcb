"""Learning-rate schedules and the optimizer chain, every part of it from optax."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mrl_jax import trees
from mrl_jax.choices import pick

Schedule = Callable[[Any], Any]


def piecewise_linear(
    lr: float, total_steps: int, *, points: Sequence[tuple[float, float]] = ((0.0, 1e-4), (0.05, 1.0), (1.0, 0.0))
) -> Schedule:
    """Linear between (fraction of total_steps, multiple of lr) points: ffcv's "cyclic" (MRL's recipe for ImageNet)."""
    at, multiple = zip(*points) if points and all(len(point) == 2 for point in points) else ((), ())
    if list(at) != sorted(at) or not at or at[0] != 0 or at[-1] != 1:
        raise ValueError(
            f"schedule.points={tuple(points)}: give (fraction, multiple of lr) pairs; fractions must rise from 0 to 1"
        )
    return lambda step: lr * jnp.interp(step / total_steps, jnp.asarray(at), jnp.asarray(multiple))


def cosine(lr: float, total_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Linear warm-up from 0, then half a cosine down to `final` x lr."""
    return _warmed_up(
        lr, warmup_steps, optax.cosine_decay_schedule(lr, max(total_steps - warmup_steps, 1), alpha=final)
    )


def linear(lr: float, total_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Linear warm-up from 0, then a line down to `final` x lr."""
    return _warmed_up(lr, warmup_steps, optax.linear_schedule(lr, final * lr, max(total_steps - warmup_steps, 1)))


def step(
    lr: float, total_steps: int, *, warmup_steps: int = 0, factor: float = 0.1, at: Sequence[float] = (1 / 3, 2 / 3)
) -> Schedule:
    """Multiplied by `factor` at each fraction of total_steps in `at`, twice where two round to one step."""
    steps = [round(fraction * total_steps) - warmup_steps for fraction in at]
    drops = {at_step: factor ** steps.count(at_step) for at_step in steps}
    return _warmed_up(lr, warmup_steps, optax.piecewise_constant_schedule(lr, drops))


def rsqrt(lr: float, total_steps: int, *, warmup_steps: int = 1000, cooldown_steps: int = 0) -> Schedule:
    """lr x sqrt(warmup_steps / step) after a linear warm-up, then a linear cool-down to 0 (Zhai et al., 2106.04560)."""
    if warmup_steps < 1:
        raise ValueError(f"schedule.warmup_steps={warmup_steps}: rsqrt needs at least 1, its time scale")

    def schedule(count):
        value = lr * jnp.minimum(count / warmup_steps, jnp.sqrt(warmup_steps / jnp.maximum(count, warmup_steps)))
        left = (total_steps - count) / cooldown_steps if cooldown_steps else 1.0
        return value * jnp.clip(left, 0.0, 1.0)

    return schedule


def constant(lr: float, total_steps: int, *, warmup_steps: int = 0) -> Schedule:
    """lr throughout, after a linear warm-up."""
    del total_steps
    return _warmed_up(lr, warmup_steps, optax.constant_schedule(lr))


def _warmed_up(lr: float, steps: int, schedule: Schedule) -> Schedule:
    return optax.join_schedules([optax.linear_schedule(0.0, lr, steps), schedule], [steps]) if steps else schedule


def _sgd(*, momentum: float = 0.9, nesterov: bool = False) -> optax.GradientTransformation:
    return optax.trace(decay=momentum, nesterov=nesterov)


def _adamw(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


def _lamb(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


def _adafactor(*, decay_rate: float = 0.8, clip_threshold: float = 1.0, momentum: float = 0.9) -> Any:
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=decay_rate),
        optax.clip_by_block_rms(clip_threshold) if clip_threshold else optax.identity(),
        optax.trace(decay=momentum) if momentum else optax.identity(),
    )


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "piecewise_linear": piecewise_linear,
    "rsqrt": rsqrt,
    "step": step,
}
OPTIMIZERS = {"adafactor": _adafactor, "adamw": _adamw, "lamb": _lamb, "sgd": _sgd}


def make_schedule(lr: float, total_steps: int, options: Mapping[str, Any]) -> Schedule:
    """The learning rate as a function of the number of updates done; see `too_long` for a run of few updates."""
    schedule, arguments = pick("schedule", SCHEDULES, options)
    return schedule(lr, total_steps, **arguments | dict.fromkeys(too_long(options, total_steps), total_steps))


def too_long(options: Mapping[str, Any], total_steps: int) -> dict[str, int]:
    """The parts of a schedule that would outlast the run, by field; they are cut to total_steps: a recipe can be tried
    for a few updates with no other change.
    """
    return {n: options[n] for n in ("warmup_steps", "cooldown_steps") if options.get(n, 0) > total_steps}


def make_optimizer(
    schedule: Schedule,
    options: Mapping[str, Any],
    *,
    weight_decay: float,
    no_decay: str,
    clip_norm: float,
    multiplier: Callable[[str], Any] = lambda name: 1.0,
) -> optax.GradientTransformation:
    """clip -> precondition or momentum -> weight decay -> learning rate -> its multiple for each parameter.

    SGD adds the weight decay to the gradient before the momentum, as every published SGD recipe does; the others are
    decoupled from it (AdamW).

    Args:
      schedule: learning rate by number of updates done.
      options: `name` (sgd, adamw, adafactor, lamb) and that optimizer's own arguments.
      weight_decay: its coefficient; multiplied by the learning rate.
      no_decay: a regular expression; parameters whose name it finds are not decayed.
      clip_norm: the largest global gradient norm; 0 for no clipping.
      multiplier: of the learning rate, by the parameter's name: one number, or one for each entry of the parameter's
        first axis.
    """
    make, arguments = pick("optim", OPTIMIZERS, options)
    decay = optax.add_decayed_weights(
        weight_decay, mask=lambda params: trees.map_named(lambda _, found: not found, trees.mask(params, no_decay))
    )
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    body = {"sgd": (decay, make(**arguments)), "lamb": (make(**arguments), decay, optax.scale_by_trust_ratio())}
    return optax.chain(
        clip,
        *body.get(options["name"], (make(**arguments), decay)),
        optax.scale_by_learning_rate(schedule),
        optax.stateless(lambda updates, _: trees.map_named(lambda n, u: _scaled(u, multiplier(n)), updates)),
    )


def _scaled(update: jax.Array, factor: Any) -> jax.Array:
    factor = np.asarray(factor, np.float32)
    if factor.ndim == 0:
        return update if factor == 1 else update * factor.item()
    return update * factor.reshape(-1, *[1] * (update.ndim - 1))


def make_multiplier(
    distance: Callable[[str], Any], layer_decay: float, multipliers: Sequence[tuple[str, float]]
) -> Callable[[str], Any]:
    """The multiple of the learning rate by the name of a parameter: layer_decay ** distance, times that of the first
    regular expression of `multipliers` that finds the name.

    Args:
      distance: from the name of a parameter to its distance from the output in layers: an int, or an array of them
        along the parameter's first axis.
      layer_decay: in (0, 1]; 1 for the same rate everywhere (2106.08254, section A).
      multipliers: (regular expression, factor) pairs.

    Raises:
      ValueError: for a decay or a factor out of range.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"optim.layer_decay={layer_decay} must be in (0, 1]; 1 for the same rate in every layer")
    for pattern, factor in multipliers:
        if not 0 <= factor < np.inf:
            raise ValueError(f"optim.multipliers: the factor {factor} of {pattern!r} must be finite and not negative")

    def multiplier(name: str) -> Any:
        own = next((factor for pattern, factor in multipliers if re.search(pattern, name)), 1.0)
        return own * layer_decay ** np.asarray(distance(name))

    return multiplier
