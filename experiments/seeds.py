"""One number, and one table, from the runs of several seeds."""

from collections.abc import Mapping, Sequence

import numpy as np

from mrl_jax import results

Values = Mapping[str, float]  # by "evaluator/metric@dim"


def over_seeds(fractions: Sequence[float]) -> dict[str, float | None]:
    """Percent: mean over seeds, and the sample standard deviation, None of one seed."""
    percent = 100 * np.array(fractions)
    return {"mean": round(percent.mean(), 2), "std": round(percent.std(ddof=1), 2) if len(percent) > 1 else None}


def cell(found: Mapping[str, float | None]) -> str:
    """What `over_seeds` says, 14 characters wide."""
    spread = " " * 6 if found["std"] is None else f"±{found['std']:5.2f}"
    return f"{found['mean']:8.2f}{spread}"


def by_dim(
    seeds: Sequence[Mapping[str, Values]], dims: Sequence[int]
) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """By metric of the first model, by model and by dim what `over_seeds` says of each seed's values by model."""
    metrics = dict.fromkeys(results.split_name(key)[0] for key in next(iter(seeds[0].values())))
    return {
        metric: {
            model: {
                str(dim): over_seeds([one[model][f"{metric}@{dim}"] for one in seeds])
                for dim in dims
                if f"{metric}@{dim}" in seeds[0][model]
            }
            for model in seeds[0]
        }
        for metric in metrics
    }


def table(by_model: Mapping[str, Mapping[str, Mapping[str, float | None]]], dims: Sequence[int]) -> list[str]:
    """A line a model, in percent; empty where it has no such dim."""
    lines = [f"{'dims':14}" + "".join(f"{dim:>14}" for dim in dims)]
    for model, found in by_model.items():
        cells = (cell(found[str(d)]) if str(d) in found else " " * 14 for d in dims)
        lines.append(f"{model:14}{''.join(cells)}".rstrip())
    return lines
