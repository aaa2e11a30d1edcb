"""How long a call takes on this machine."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def median_ms(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Milliseconds of a call that returns when it is done, the median of `repeats` after one that warms up, and what
    that one returns.
    """
    found, times = call(), []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times)), found
