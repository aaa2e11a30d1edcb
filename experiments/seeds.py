"""One number from the runs of several seeds."""

from collections.abc import Sequence

import numpy as np


def over_seeds(fractions: Sequence[float]) -> dict[str, float]:
    """Percent: mean over seeds, and the sample standard deviation, 0 of one seed."""
    percent = 100 * np.array(fractions)
    return {"mean": round(percent.mean(), 2), "std": round(percent.std(ddof=1) if len(percent) > 1 else 0.0, 2)}
