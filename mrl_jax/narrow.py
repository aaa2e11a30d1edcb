"""The network of one width and dim of a run, as a run of its own: config, variables, state and description."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mrl_jax import config as configs
from mrl_jax import parts, trees
from mrl_jax.models import heads
from mrl_jax.nesting import Nesting
from mrl_jax.step import State


def check_dim(dim: int, nesting: Nesting, head: str) -> int:
    """The dim. Raises ValueError where the embedding does not have it, or no head is its own."""
    if not 1 <= dim <= nesting.full:
        raise ValueError(f"--dim={dim} is not in 1..{nesting.full}, the size of the embedding at this width")
    # Evaluation puts the mean embedding in place of the features left out, which needs data.
    if head == "mrl" and dim not in nesting.dims:
        raise ValueError(
            f"--dim={dim} was not trained, and head={head!r} has a classifier of each trained dim alone: take one of "
            f"{list(nesting.dims)}, or a run with head='mrl_e'"
        )
    return dim


def config_of(config: ml_collections.ConfigDict, width: float, dim: int) -> ml_collections.ConfigDict:
    """The config that would train this network alone: one width, one dim, a fixed-feature head."""
    config = config.copy_and_resolve_references().unlock()
    if config.model.widths:  # else the width of the whole is this one's
        config.model.widths, config.model.width = (), width
    config.head, config.nesting.dims, config.nesting.weights, config.nesting.sample = "ff", (dim,), (), 0
    config.switch, config.optim.ema, config.optim.freeze = configs.default().switch, 0.0, ""
    config.optim.multipliers = ()
    for evaluator in config.evals.values():
        evaluator.dims = (dim,)
    return config.lock()


def variables_of(run: parts.Parts, variables: Mapping[str, Any], width: float, dim: int) -> dict[str, Any]:
    """The variables of that network, from those of the run's model."""
    batch, nesting = run.abstract_batch, run.model.nestings[width]
    own = run.model.narrow(variables, batch, width) if len(run.model.widths) > 1 else dict(variables)
    head = {f"head/{name}": value for name, value in own["params"]["head"].items()}
    kernel, bias = heads.linear(head, nesting, dim)
    params = {**own["params"], "head": {"kernel": kernel, "bias": bias}}
    return {"batch_stats": {}, **own, "params": params}  # without running statistics the model has no such collection


def state_of(alone: parts.Parts, variables: Mapping[str, Any]) -> State:
    """A first state of a run of that network with these variables."""
    with jax.set_mesh(alone.mesh):
        state = parts.init_state(alone)

    def place(old: jax.Array, value: Any) -> jax.Array:
        return jax.device_put(np.asarray(value, old.dtype), old.sharding)

    found = {name: jax.tree.map(place, getattr(state, name), variables[name]) for name in ("params", "batch_stats")}
    return state._replace(**found)


def outputs(
    run: parts.Parts, variables: Mapping[str, Any], images: jax.Array, width: float, dim: int
) -> dict[str, jax.Array]:
    """The first `dim` features and their logits, float32, of uint8 images, by a width of the run's model."""
    z, out = run.model.apply(variables, {"image": images}, train=False, width=width)
    return answers(run, z, out, width, dim)


def answers(run: parts.Parts, z: jax.Array, out: Mapping[str, Any], width: float, dim: int) -> dict[str, jax.Array]:
    """The part of `outputs` that depends on the dim, from what the model gives."""
    logits = heads.logits(z, out, run.model.nestings[width], dim)
    return {"embedding": z[:, :dim].astype(jnp.float32), "logits": logits}


def largest_difference(
    run: parts.Parts, variables: Any, alone: parts.Parts, own: Any, width: float, dim: int, rows: int
) -> float:
    """How far the outputs of the network alone are from those of the whole model, as a part of the largest of them."""
    shape = (rows, *run.image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    whole = jax.jit(lambda v, x: outputs(run, v, x, width, dim))(variables, images)
    narrow = jax.jit(lambda v, x: outputs(alone, v, x, 1.0, dim))(jax.device_get(own), images)
    pairs = [(np.asarray(whole[name]), np.asarray(narrow[name])) for name in whole]
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs)


def record_of(alone: parts.Parts, record: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint of the network alone holds beside its state, as that of any run."""
    nesting = {"dims": alone.nesting.dims, "weights": alone.nesting.weights}
    own = {"config": configs.to_json(alone.config), "nesting": nesting, "widths": list(alone.model.widths)}
    return {**own, "num_classes": record["num_classes"], "evaluated": -1, "init": dict(origin)}


def about(
    alone: parts.Parts, record: Mapping[str, Any], variables: Mapping[str, Any], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """The description of its weights file, see `weights.ABOUT`."""
    config = configs.to_json(alone.config)
    positions = trees.flatten(variables["params"]).get("backbone/pos_embedding", np.empty((1, 0, 0)))
    side = math.isqrt(positions.shape[1])
    return {
        "model": config["model"],
        "head": config["head"],
        "nesting": {"dims": list(alone.nesting.dims), "weights": list(alone.nesting.weights)},
        "num_classes": record["num_classes"],
        "mean": config["data"]["mean"],
        "std": config["data"]["std"],
        "grid": [side, side] if side and side * side == positions.shape[1] else None,
        "source": dict(origin),
    }
