"""The mathematics of training: the state, its first value, and one pure update."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrl_jax import accumulate, gradient_cache, trees
from mrl_jax.losses import NestedLoss
from mrl_jax.nesting import Nesting, draw_weights

Batch = Mapping[str, jax.Array]
EVALUATED = ("params", "batch_stats", "ema")  # the fields of a state that evaluation needs
_DIMS, _AUGMENT = 0x64696D73, 0x617567  # streams of the run's key: of the dims drawn, and of `augment`
_SHARED = ("pair/scale", "pair/bias")  # outputs that have an axis of dims, if any, where others have one of rows


class Options(NamedTuple):
    """What an update does beside its mathematics; all of it static.

    Attributes:
      microbatches: per update, see `accumulate`.
      freeze: a regular expression; parameters whose name it finds are not trained and have no optimizer state.
      ema: decay of the moving average of parameters and BatchNorm statistics per update; 0 for none.
      ema_warmup: the decay starts at 1 / 10 and rises as (1 + t) / (10 + t) of t updates, up to `ema`.
      sample: dims drawn per update; 0 for all of them. `train/loss` is that of all dims nevertheless, with several
        widths that of the dims drawn (`switchable`).
      keep_full: the full dim is always drawn.
      skip: an update whose loss or gradient is not finite changes nothing but the counts.
      joint: all examples of a batch meet in the loss: microbatches are taken as in `gradient_cache`.
    """

    microbatches: int = 1
    freeze: str = ""
    ema: float = 0.0
    ema_warmup: bool = False
    sample: int = 0
    keep_full: bool = True
    skip: bool = False
    joint: bool = False


PLAIN = Options()


class State(NamedTuple):
    """All that an update changes, and the run's key, which it only folds the step into."""

    step: jax.Array  # (), int32: the number of batches drawn
    params: Any
    batch_stats: Any
    opt_state: Any  # of the parameters that are not frozen
    key: jax.Array  # raw key data, so that a checkpoint holds plain arrays
    ema: Any  # {} or {"params": those that are not frozen, "batch_stats": all}
    skipped: jax.Array  # (2,), int32: steps without an update, in all and in a row


def init_state(
    init: Callable, tx: optax.GradientTransformation, seed: int, batch: Batch, options: Options = PLAIN
) -> State:
    """The state before the first update; a pure function of the seed. Only the shapes of `batch` matter."""
    params_key, run_key = jax.random.split(jax.random.key(seed))
    variables = init(params_key, batch)
    _, trained = trees.partition(variables["params"], options.freeze)
    state = State(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(trained),
        key=jax.random.key_data(run_key),
        ema={},
        skipped=jnp.zeros(2, jnp.int32),
    )
    return state._replace(ema={"params": trained, "batch_stats": state.batch_stats}) if options.ema else state


def variables_of(state: State) -> dict[str, Any]:
    """What a model's `apply` takes in evaluation: the moving average where there is one."""
    return evaluated(**{name: getattr(state, name) for name in EVALUATED})


def evaluated(params: Any, batch_stats: Any, ema: Any) -> dict[str, Any]:
    """`variables_of` from the fields `EVALUATED` of a state alone."""
    if not ema:
        return {"params": params, "batch_stats": batch_stats}
    return {"params": trees.merge(params, ema["params"]), "batch_stats": ema["batch_stats"]}


def make_train_step(
    apply: Callable,
    objective: Callable[..., NestedLoss],
    tx: optax.GradientTransformation,
    nesting: Nesting,
    options: Options = PLAIN,
    augment: Callable[[Batch, jax.Array], Batch] | None = None,
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """`(state, batch) -> (state, measurements)`: one update on the total of the nested loss.

    The measurements are scalars by `train/name@dim`; loss and accuracy of every dim come out of the loss's own pass.
    `non_finite` counts the steps in a row, this one included, whose loss or gradient is not finite; every process sees
    the same count, since both are sums over the global batch.
    `augment(batch, key)`, where given, changes the batch first, on the device.
    """

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key, batch, weight_G = begin(state, batch, nesting, options, augment)
        frozen, trained = trees.partition(state.params, options.freeze)

        def outputs(trained, rows, key):
            variables = {"params": trees.merge(frozen, trained), "batch_stats": state.batch_stats}
            z, out = apply(variables, rows, train=True, rngs={"dropout": key})
            return z, out, trees.unflatten(out, "batch_stats")

        def total_of(z, out, rows):
            nested = objective(z, out, rows)
            total = nested.total if weight_G is None else jnp.vdot(weight_G, nested.per_dim)
            counted = None if nested.weight is None else nested.weight.sum()
            return total, (measure(nested, nesting) | logged(out), counted)

        def loss_fn(trained, rows, key):
            z, out, batch_stats = outputs(trained, rows, key)
            total, (measured, counted) = total_of(z, out, rows)
            return total, (measured, batch_stats, counted)

        def gradients(rows, key):
            found, grads = jax.value_and_grad(loss_fn, has_aux=True)(trained, rows, key)
            measured, batch_stats, counted = found[1]
            return (grads, measured, batch_stats), counted

        if options.joint and options.microbatches > 1:
            grads, (measured, _), batch_stats = _joint(outputs, total_of, trained, batch, key, options.microbatches)
        else:
            grads, measured, batch_stats = accumulate.mean(gradients, batch, key, options.microbatches)
        return apply_gradient(state, grads, batch_stats, measured, tx, options)

    return train_step


def apply_gradient(
    state: State,
    grads: Any,
    batch_stats: Any,
    measured: dict[str, jax.Array],
    tx: optax.GradientTransformation,
    options: Options,
) -> tuple[State, dict[str, jax.Array]]:
    """The end of every update: the optimizer, the moving average, the policy for what is not finite, the counts.

    Args:
      state: before the update.
      grads: of the parameters that are not frozen.
      batch_stats: the running statistics after it.
      measured: scalars, of which `train/loss` decides with the gradient's norm whether the update is finite.
      tx: the optimizer.
      options: of the update.
    """
    frozen, trained = trees.partition(state.params, options.freeze)
    measured = {**measured, "train/grad_norm": optax.global_norm(grads)}
    updates, opt_state = tx.update(grads, state.opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    params = trees.merge(frozen, trained)
    new = state._replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
    if options.ema:
        new = new._replace(ema=_average(state, {"params": trained, "batch_stats": batch_stats}, options))
    finite = jnp.isfinite(measured["train/loss"]) & jnp.isfinite(measured["train/grad_norm"])
    return _counted(state, new, finite, measured, options)


def begin(
    state: State, batch: Batch, nesting: Nesting, options: Options, augment: Callable | None
) -> tuple[jax.Array, Batch, jax.Array | None]:
    """The beginning of every update: its key, the batch as it is seen, the weights of the dims drawn (None: all)."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    if augment is not None:
        batch = augment(batch, jax.random.fold_in(key, _AUGMENT))
    if not options.sample:
        return key, batch, None
    return key, batch, draw_weights(jax.random.fold_in(key, _DIMS), nesting, options.sample, options.keep_full)


def _joint(outputs, total_of, trained, batch, key, n):
    """Gradient, measurements and BatchNorm statistics of a batch whose examples meet in the loss."""

    def embed(trained, rows, key):
        z, out, batch_stats = outputs(trained, rows, key)
        out = {name: x for name, x in out.items() if not name.startswith("batch_stats/")}
        shared = {name: out.pop(name) for name in list(out) if out[name].ndim == 0 or name in _SHARED}
        return (z, out), shared, batch_stats

    def loss(embeddings, shared):
        z, own = embeddings
        return total_of(z, own | shared, batch)

    return gradient_cache.value_and_grad(embed, loss, trained, batch, key, n)


def _average(state: State, new: dict[str, Any], options: Options) -> dict[str, Any]:
    done = state.step - state.skipped[0]
    rate = 1 - (jnp.minimum(options.ema, (1 + done) / (10 + done)) if options.ema_warmup else options.ema)
    # In this form an average equal to the new value stays equal to it, to the bit.
    return jax.tree.map(lambda average, value: average + rate * (value - average), state.ema, new)


def _counted(
    state: State, new: State, finite: jax.Array, measured: dict[str, jax.Array], options: Options
) -> tuple[State, dict[str, jax.Array]]:
    """The state after the step, `new` or the one before, with the counts of steps; and the measurements."""
    total, in_a_row = state.skipped
    in_a_row = jnp.where(finite, 0, in_a_row + 1)
    measured = {**measured, "non_finite": in_a_row}
    if not options.skip:
        return new._replace(step=state.step + 1), measured
    total += jnp.where(finite, 0, 1)
    kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
    skipped = jnp.stack([total, in_a_row])
    return kept._replace(step=state.step + 1, skipped=skipped), {**measured, "train/skipped": total}


def logged(out: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """What the model itself has to tell: its scalars `log/...`."""
    return {f"train/{name[4:]}": value for name, value in out.items() if name.startswith("log/")}


def measure(nested: NestedLoss, nesting: Nesting, prefix: str = "") -> dict[str, jax.Array]:
    """The named scalars of a nested loss, as `train/<prefix>name@dim`."""
    values = {f"train/{prefix}loss": nested.total}
    accuracy = nested.accuracy
    for g, m in enumerate(nesting.dims):
        values[f"train/{prefix}loss@{m}"] = nested.per_dim[g]
        if accuracy is not None:
            values[f"train/{prefix}accuracy@{m}"] = accuracy[g]
        for name, of_rows_GxB in nested.known.items():
            values[f"train/{prefix}{name}@{m}"] = jnp.mean(of_rows_GxB[g], dtype=jnp.float32)
    return values
