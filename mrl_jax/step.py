"""The mathematics of training: the state, its first value, and one pure update."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrl_jax import trees
from mrl_jax.losses import NestedLoss
from mrl_jax.nesting import Nesting

Batch = Mapping[str, jax.Array]
_AUGMENT = 0x617567  # the stream of the run's key that `augment` draws from


class State(NamedTuple):
    """All that an update changes, and the run's key, which it only folds the step into."""

    step: jax.Array  # (), int32: the number of updates done
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array  # raw key data, so that a checkpoint holds plain arrays


def init_state(init: Callable, tx: optax.GradientTransformation, seed: int, batch: Batch) -> State:
    """The state before the first update; a pure function of the seed. Only the shapes of `batch` matter."""
    params_key, run_key = jax.random.split(jax.random.key(seed))
    variables = init(params_key, batch)
    params = variables["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        key=jax.random.key_data(run_key),
    )


def variables_of(state: State) -> dict[str, Any]:
    """What a model's `apply` takes."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def make_train_step(
    apply: Callable,
    objective: Callable[..., NestedLoss],
    tx: optax.GradientTransformation,
    nesting: Nesting,
    augment: Callable[[Batch, jax.Array], Batch] | None = None,
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """`(state, batch) -> (state, measurements)`: one update on the total of the nested loss.

    The measurements are scalars by `train/name@dim`; loss and accuracy of every dim come out of the loss's own pass.
    `augment(batch, key)`, where given, changes the batch first, on the device.
    """

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        if augment is not None:
            batch = augment(batch, jax.random.fold_in(key, _AUGMENT))

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            z, out = apply(variables, batch, train=True, rngs={"dropout": key})
            nested = objective(z, out, batch)
            return nested.total, (nested, trees.unflatten(out, "batch_stats"))

        (_, (nested, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = State(state.step + 1, params, batch_stats, opt_state, state.key)
        return new_state, {**measure(nested, nesting), "train/grad_norm": optax.global_norm(grads)}

    return train_step


def measure(nested: NestedLoss, nesting: Nesting) -> dict[str, jax.Array]:
    """The named scalars of a nested loss."""
    values = {"train/loss": nested.total}
    for g, m in enumerate(nesting.dims):
        values[f"train/loss@{m}"] = nested.per_dim[g]
        if nested.correct is not None:
            values[f"train/accuracy@{m}"] = jnp.mean(nested.correct[g], dtype=jnp.float32)
    return values
