"""The weights of a run's checkpoint, which needs neither its data nor its devices."""

import math
import pathlib

import numpy as np

from mrl_jax import checkpoints
from mrl_jax.conversion.request import Converted


def read(path: pathlib.Path, step: int) -> Converted:
    """The variables of the checkpoint of `step` below the run's folder `path`."""
    directory = path / "checkpoints"
    run = checkpoints.read_run(directory, step)
    variables = checkpoints.load_on_host(directory, step, ("params", "batch_stats"))
    config, nesting = run["config"], run["nesting"]
    positions = variables["params"]["backbone"].get("pos_embedding", np.empty((1, 0, 0)))
    side = math.isqrt(positions.shape[1])
    about = {
        "model": config["model"],
        "head": config["head"],
        "nesting": {"dims": list(nesting["dims"]), "weights": list(nesting["weights"])},
        "num_classes": run["num_classes"],
        "mean": config["data"]["mean"],
        "std": config["data"]["std"],
        "grid": [side, side] if side and side * side == positions.shape[1] else None,
    }
    return Converted(variables, about)
