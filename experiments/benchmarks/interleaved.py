"""Several ways to the same value and gradient, timed by turns in one run."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


def measure(losses: Mapping[str, tuple[Callable, tuple]], argnums: tuple[int, ...], repeats: int) -> dict:
    """Milliseconds and temporary bytes of value and gradient of each, and ratios of `ours` to the others.

    Args:
      losses: by name a function to a scalar and its arguments.
      argnums: the arguments that have a gradient.
      repeats: rounds; times are medians over them, and so are the ratios of each round.
    """
    steps = {
        name: (jax.jit(jax.value_and_grad(loss, argnums=argnums)).lower(*arguments).compile(), arguments)
        for name, (loss, arguments) in losses.items()
    }
    seconds = {name: [] for name in steps}
    for round_ in range(repeats + 1):
        for name, (step, arguments) in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(*arguments))
            if round_:
                seconds[name].append(time.perf_counter() - began)
    memory = {name: step.memory_analysis().temp_size_in_bytes for name, (step, _) in steps.items()}
    others = [name for name in steps if name != "ours"]
    return {
        "milliseconds": {name: round(1e3 * float(np.median(found)), 1) for name, found in seconds.items()},
        "temporary_mib": {name: round(found / 2**20, 1) for name, found in memory.items()},
        "time_to": {k: round(float(np.median(np.divide(seconds["ours"], seconds[k]))), 2) for k in others},
        "memory_to": {name: round(memory["ours"] / memory[name], 2) for name in others},
    }
