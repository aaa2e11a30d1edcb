"""What every (width, dim) of a run costs and what it is worth: operations, parameters, latency, accuracy."""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mrl_jax import flops, narrow, parts, results, timing, trees

_REPEATS = 10


class Cost(NamedTuple):
    """Of one image, by the width's network alone with a head of this dim alone.

    Attributes:
      width: of the network.
      dim: of its embedding.
      mflops: millions of operations, a multiply-add as two.
      parameters: how many.
      ms: of a batch from uint8 images to the embedding and its logits; medians of ten.
      accuracy: by "evaluator metric", where the run's results have it.
    """

    width: float
    dim: int
    mflops: float
    parameters: int
    ms: float
    accuracy: Mapping[str, float]


def measure(
    run: parts.Parts, variables: Any, rows: int, accuracy: Mapping[tuple[str, int], Mapping[str, float]]
) -> list[Cost]:
    """Every trained width and dim, the smallest first; the latency is that of the width's features, measured once, and
    that of the dim's cut and head, measured by itself.

    Args:
      run: of the model.
      variables: its variables.
      rows: images at once.
      accuracy: as `accuracies` gives it.
    """
    images = np.zeros((rows, *run.image_shape), np.uint8)
    found = []
    for width, nesting in run.model.nestings.items():
        own = {m: narrow.variables_of(run, variables, width, m)["params"] for m in nesting.dims}
        features_ms, (z, out) = _latency(
            lambda v, x, w=width: run.model.apply(v, {"image": x}, train=False, width=w), variables, images
        )
        for m in nesting.dims:
            ms = features_ms + _latency(lambda z, o, w=width, m=m: narrow.answers(run, z, o, w, m), z, out)[0]
            work = flops.count(lambda x, w=width, m=m: narrow.outputs(run, variables, x, w, m), images[:1])
            found.append(Cost(width, m, work / 1e6, trees.count(own[m]), ms, accuracy.get((f"{width:g}", m), {})))
    return found


def _latency(fn: Callable, *arguments: Any) -> tuple[float, Any]:
    """Milliseconds, and what the function returns."""
    compiled = jax.jit(fn).lower(*arguments).compile()
    return timing.median_ms(lambda: jax.block_until_ready(compiled(*arguments)), _REPEATS)


def accuracies(path: pathlib.Path, step: int, recalibrated: int = 0) -> dict[tuple[str, int], dict[str, float]]:
    """What the run's results say of this step: (width as written, dim) -> "evaluator metric" -> value; {} for none.

    Those of BatchNorm's statistics from so many training batches, 0: of the checkpoint's own.
    """
    found: dict[tuple[str, int], dict[str, float]] = {}
    for file in sorted((path / "results").glob("*.json")):
        result = results.read_one(file)
        of_model = (result["step"], result.get("recalibrated", 0)) == (step, recalibrated)
        for name, value in result["values"].items() if of_model else ():
            metric, dim = results.split_name(name)
            width, plain = re.fullmatch(r"(?:w([\d.e-]+)/)?(.*)", metric).groups()
            found.setdefault((width or "1", dim), {})[f"{result['evaluator']} {plain}"] = value
    return found


def record(costs: Sequence[Cost], rows: int) -> dict[str, Any]:
    """The table as JSON, with the device that the latency is of."""
    named = [{"setting": name(cost), **cost._asdict()} for cost in costs]
    return {"device": jax.devices()[0].device_kind, "batch": rows, "costs": named}


def name(cost: Cost) -> str:
    """`w0.5/d64`."""
    return f"w{cost.width:g}/d{cost.dim}"


def show(costs: Sequence[Cost], rows: int, chosen: tuple[float, int]) -> str:
    """The table in words, the exported setting marked."""
    metrics = sorted({metric for cost in costs for metric in cost.accuracy if metric.endswith("top1")})
    device = jax.devices()[0].device_kind
    lines = [f"Of one image; ms of a batch of {rows} on {device}; accuracy in percent (* exported):"]
    lines.append("  setting         MFLOP   parameters        ms  " + "  ".join(metrics))
    for cost in costs:
        mark = "*" if (cost.width, cost.dim) == chosen else " "
        cells = [f"{100 * cost.accuracy[m]:{len(m)}.2f}" if m in cost.accuracy else " " * len(m) for m in metrics]
        line = f"{mark} {name(cost):12} {cost.mflops:8.2f} {cost.parameters:12,} {cost.ms:9.3f}  {'  '.join(cells)}"
        lines.append(line.rstrip())
    return "\n".join(lines)
