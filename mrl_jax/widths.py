"""Which widths of a network an update takes, and how much each of them counts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax import losses
from mrl_jax.choices import choose

PRIORITIES = ("none", "uncertain", "certain", "kendall", "gradnorm")
PROJECTIONS = ("none", "all", "anchor_full")
CLASSIFIERS = ("all", "full")
STATE = "switch"  # among the running statistics: what the weights of the losses have learned
_LEAST = 1e-3  # a weight that gradient norms balance stays above it


class Options(NamedTuple):
    """What an update of several widths does; all of it static.

    Attributes:
      sample: widths per update: the smallest, the full one, and others drawn to this number (the sandwich rule of
        US-Nets, Yu and Huang 2019), their gradients divided by the probability of being drawn; 0 for all.
      full_loss: name of the objective of the full width, with its defaults; "" for that of the others.
      priority: weights of the losses, from the uncertainty of an evidential loss: "none", "uncertain", "certain" (see
        `losses.priorities`); learned: "kendall" (exp(-s), s the log variance: Kendall et al. 2018), "gradnorm" (equal
        rates of training: Chen et al. 2018).
      priority_rate: step size of learned weights.
      gradnorm_alpha: how strongly the slower ones are favoured.
      projection: of conflicting gradients: "none", "all", "anchor_full" (see `surgery.project`).
      scope: of the projection.
      reduction: of the gradients to one.
      classifier: "all", every width trains the head; "full", the full width alone.
      distill: share of the loss of narrower widths that is cross-entropy with the full width's softmax (in-place
        distillation).
      regress: weight of the mean squared distance of narrower embeddings to the full width's.
      triplet: weight of `losses.nested_triplet`, narrower embeddings against the full width's.
    """

    sample: int = 0
    full_loss: str = ""
    priority: str = "none"
    priority_rate: float = 0.025
    gradnorm_alpha: float = 1.5
    projection: str = "none"
    scope: str = "whole"
    reduction: str = "mean"
    classifier: str = "all"
    distill: float = 0.0
    regress: float = 0.0
    triplet: float = 0.0


PLAIN = Options()


def check(options: Options, number: int, *, loss: str, dims_sampled: bool, mixed: bool, equal: bool) -> None:
    """Raises ValueError for options that do not fit the run.

    Args:
      options: of config.switch.
      number: of widths; 1 where the network has no others.
      loss: name of the objective.
      dims_sampled: whether nested dims are drawn as well.
      mixed: whether rows have two labels.
      equal: whether all widths have embeddings of one size.
    """
    if number == 1:
        if options != PLAIN:
            changed = {n: v for n, v in options._asdict().items() if v != getattr(PLAIN, n)}
            raise ValueError(f"switch: {changed} is for several widths: set model.widths, for example (0.25, 0.5, 1.0)")
        return
    choose("switch.priority", options.priority, PRIORITIES)
    choose("switch.projection", options.projection, PROJECTIONS)
    choose("switch.classifier", options.classifier, CLASSIFIERS)
    _check_numbers(options, number)
    if options.priority in ("uncertain", "certain") and (loss != "evidential" or options.full_loss):
        raise ValueError(
            f"switch.priority={options.priority!r} weighs by the uncertainty of every width: set "
            "loss.name='evidential' and leave switch.full_loss empty"
        )
    if options.priority != "none" and options.sample:
        raise ValueError(f"switch.priority={options.priority!r} needs all widths at every update: set switch.sample=0")
    if options.distill and loss != "softmax":
        raise ValueError(f"switch.distill={options.distill} is for logits of loss.name='softmax', not {loss!r}")
    if options.triplet and (loss == "binary" or mixed):
        raise ValueError(
            f"switch.triplet={options.triplet} needs one label a row: set loss.name to another than 'binary', and "
            "mix.name='none'"
        )
    if not equal and (options.regress or options.triplet or dims_sampled):
        raise ValueError(
            "switch.regress, switch.triplet and nesting.sample need embeddings of one size: set model.embedding='equal'"
        )


def _check_numbers(options: Options, number: int) -> None:
    if options.sample and not 2 <= options.sample <= number:
        raise ValueError(
            f"switch.sample={options.sample} must be in 2..{number} widths per update, the smallest and the full one "
            "among them, or 0 for all"
        )
    for name in ("priority_rate", "gradnorm_alpha", "regress", "triplet"):
        if not 0 <= getattr(options, name) < float("inf"):
            raise ValueError(f"switch.{name}={getattr(options, name)} must be finite and not negative")
    if not 0 <= options.distill <= 1:
        raise ValueError(f"switch.distill={options.distill} must be in 0..1, a share of the loss")


def draw(key: jax.Array, number: int, sample: int) -> jax.Array:
    """Weights (M,) of the widths of an update: 0 for those left out, an expectation of 1 for all that may be drawn."""
    weight_M = jnp.ones(number)
    middle = number - 2
    if not sample or sample == number:
        return weight_M
    chosen = jax.random.permutation(key, middle) < sample - 2
    return weight_M.at[1:-1].set(jnp.where(chosen, middle / max(sample - 2, 1), 0.0))


def with_state(init: Callable, priority: str, number: int) -> Callable:
    """The model's `init`, its running statistics with the state of learned weights, where these are."""
    if priority not in ("kendall", "gradnorm"):
        return init

    def initialise(key: jax.Array, batch: Mapping[str, Any]) -> dict[str, Any]:
        variables = init(key, batch)
        if priority == "kendall":
            own = {"log_variance": jnp.zeros(number)}
        else:
            own = {"weight": jnp.ones(number), "first_loss": jnp.zeros(number)}
        return {**variables, "batch_stats": {**variables.get("batch_stats", {}), STATE: own}}

    return initialise


def weights(priority: str, uncertainty_M: jax.Array | None, batch_stats: Mapping[str, Any]) -> jax.Array | float:
    """Of the losses at this update, (M,), or 1."""
    if priority == "kendall":
        return jnp.exp(-batch_stats[STATE]["log_variance"])
    if priority == "gradnorm":
        return batch_stats[STATE]["weight"]
    return 1.0 if priority == "none" else losses.priorities(uncertainty_M[:, None], priority)


def next_state(
    options: Options, batch_stats: Mapping[str, Any], losses_M: jax.Array, norms_M: jax.Array, weight_M: jax.Array
) -> dict[str, Any]:
    """The state of learned weights after an update, nested as in the running statistics; {} where there is none.

    Args:
      options: of the update.
      batch_stats: before it.
      losses_M: of each width, unweighted.
      norms_M: of the weighted gradients.
      weight_M: of the losses.
    """
    if options.priority == "kendall":
        s_M = batch_stats[STATE]["log_variance"]
        return {STATE: {"log_variance": s_M - options.priority_rate * (1 - jnp.exp(-s_M) * losses_M)}}
    if options.priority != "gradnorm":
        return {}
    first_M = batch_stats[STATE]["first_loss"]
    first_M = jnp.where(first_M == 0, losses_M, first_M)
    pace_M = losses_M / first_M
    target_M = norms_M.mean() * (pace_M / pace_M.mean()) ** options.gradnorm_alpha
    # The derivative of |norm - target| by the weight, of which the norm is a multiple.
    moved_M = weight_M - options.priority_rate * jnp.sign(norms_M - target_M) * norms_M / weight_M
    moved_M = jnp.maximum(moved_M, _LEAST)
    return {STATE: {"weight": moved_M * len(moved_M) / moved_M.sum(), "first_loss": first_M}}
