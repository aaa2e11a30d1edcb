"""The running statistics of BatchNorm computed anew after training (US-Nets, Yu and Huang 2019, section 3.4).

During training they trail weights that move; here every width sees the same batches with the weights at rest, and the
statistics are the mean of those of the batches. Nothing else changes; what `optim.freeze` holds stays.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mrl_jax import models, trees


def recalibrate(
    model: models.Model, variables: Mapping[str, Any], batches: Iterable[Mapping[str, Any]], widths: Iterable[float]
) -> dict[str, Any]:
    """The variables with the running statistics of these widths replaced by those of the batches.

    Args:
      model: as `models.build` gives it.
      variables: nested dicts of arrays.
      batches: what the model sees of training batches, at least one; each counts as much as any other.
      widths: of the model.

    Raises:
      ValueError: where the model has no running statistics, or there is no batch.
    """
    if not variables["batch_stats"]:
        raise ValueError("the model keeps no running statistics: there is nothing to recalibrate")
    before = trees.flatten(variables["batch_stats"])

    def of_batch(batch: Mapping[str, Any], key: jax.Array) -> dict[str, jax.Array]:
        found = {}
        for width in widths:
            _, out = model.apply(variables, batch, train=True, rngs={"dropout": key}, width=width)
            found |= {n.removeprefix("batch_stats/"): x for n, x in out.items() if n.startswith("batch_stats/")}
        # The running average moves 1 - MOMENTUM of the way to the batch's own statistics; one that is frozen stays.
        return {name: before[name] + (value - before[name]) / (1 - models.MOMENTUM) for name, value in found.items()}

    widths, step, total, count = tuple(widths), jax.jit(of_batch), None, 0
    for count, batch in enumerate(batches, start=1):
        found = step(batch, jax.random.key(count))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        # One batch at a time: programs with collectives that wait for one another may starve each other on a CPU.
        jax.block_until_ready(total)
    if total is None:
        raise ValueError("no batch to recalibrate on: give at least one")
    mean = trees.unflatten({name: value / count for name, value in total.items()})
    return {**variables, "batch_stats": trees.merge(variables["batch_stats"], mean)}
