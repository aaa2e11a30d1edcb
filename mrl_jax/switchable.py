"""The update of a network of several widths, in the form of `step.make_train_step`.

Every width has a loss and a gradient of its own: all are classified by the one head, which is what makes their
embeddings comparable (SFSC, Wu et al. 2022, arXiv 2206.08289). The gradients are weighted, freed of conflicts by
projection and merged into one. All widths are unrolled in one compiled program, each once; where only some are drawn,
those left out are skipped as the program runs.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrl_jax import accumulate, losses, objectives, step, surgery, trees, widths
from mrl_jax.nesting import Nesting
from mrl_jax.step import Batch, State
from mrl_jax.widths import Options

_WIDTHS, _ORDER = 0x776964, 0x6F7264  # streams of the run's key: of the widths drawn, of the order of projections


class SubModel(NamedTuple):
    """One width: its nesting, its objective, and by flat name the shapes of the parameters it has a part in."""

    width: float
    nesting: Nesting
    objective: objectives.Objective
    owned: Mapping[str, tuple[int, ...]]

    @property
    def prefix(self) -> str:
        """Of its measurements: none for the full width."""
        return "" if self.width == 1 else f"w{self.width:g}/"


class _Found(NamedTuple):
    """What one width's forward and backward pass give; all float arrays, means over the examples."""

    grads: Any
    measured: dict[str, jax.Array]
    batch_stats: dict[str, jax.Array]  # of this width, by flat name


class _Teacher(NamedTuple):
    """What the full width says of the same rows, as constants."""

    z: jax.Array
    logits: jax.Array  # of its full dim


def make_switchable_step(
    apply: Callable,
    subs: Sequence[SubModel],
    tx: Any,
    options: step.Options = step.PLAIN,
    switch: Options = widths.PLAIN,
    augment: Callable[[Batch, jax.Array], Batch] | None = None,
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """`(state, batch) -> (state, measurements)`: one update on the losses of all widths.

    Loss, accuracy, uncertainty and `p_label`, the expected probability of the label, are measured as `train/name@dim`
    for the full width and `train/w0.5/name@dim` for another; beside them `train/loss`, the mean of the weighted losses
    of all widths, `train/conflicts` (pairs of widths), `train/cosine_w0.5_w1`, and of each width `train/w1/norm` of its
    gradient, `train/w1/kept`, the part of it that projection keeps, and `train/w1/weight`. What a width that was not
    drawn would have measured is NaN.

    Args:
      apply: of the model.
      subs: the widths, rising to 1.
      tx: the optimizer.
      options: of every update.
      switch: of the widths.
      augment: as in `step.make_train_step`.
    """
    owners = [_owner(sub, switch) for sub in subs]

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key, batch, weight_G = step.begin(state, batch, subs[-1].nesting, options, augment)
        frozen, trained = trees.partition(state.params, options.freeze)
        drawn_M = widths.draw(jax.random.fold_in(key, _WIDTHS), len(subs), switch.sample)

        def gradients(rows: Batch, key: jax.Array) -> tuple[list[_Found], None]:
            run = functools.partial(_of_width, apply, state, frozen, trained, rows, weight_G=weight_G, switch=switch)
            full, teacher = run(subs[-1], jax.random.fold_in(key, len(subs) - 1), None)
            found = []
            for i, sub in enumerate(subs[:-1]):
                narrow = functools.partial(_only, run, sub, jax.random.fold_in(key, i), teacher)
                always = not switch.sample or i == 0
                found.append(narrow() if always else _if_drawn(drawn_M[i] > 0, narrow, state))
            return [*found, full], None

        found = accumulate.mean(gradients, batch, key, options.microbatches)
        measured, losses_M, uncertainty_M = _measurements(found, subs)
        weight_M = drawn_M * widths.weights(switch.priority, uncertainty_M, state.batch_stats)
        scaled = [jax.tree.map(lambda g, w=weight_M[i]: w * g, f.grads) for i, f in enumerate(found)]
        merged, statistics = surgery.project(
            scaled,
            jax.random.fold_in(key, _ORDER) if switch.projection == "all" else None,
            mode=switch.projection,
            scope=switch.scope,
            reduction=switch.reduction,
            owners=[trees.unflatten({n: s for n, s in o.items() if n in trees.flatten(trained)}) for o in owners],
        )
        measured |= _statistics(statistics, weight_M, subs)
        measured["train/loss"] = jnp.where(drawn_M > 0, weight_M * losses_M, 0.0).mean()
        moved = [trees.unflatten(f.batch_stats) for f in found]
        moved.append(widths.next_state(switch, state.batch_stats, losses_M, statistics["norms"], weight_M))
        batch_stats = functools.reduce(trees.merge, moved, state.batch_stats)
        return step.apply_gradient(state, merged, batch_stats, measured, tx, options)

    return train_step


def _owner(sub: SubModel, switch: Options) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the parameters that the width trains, by flat name."""
    without_head = switch.classifier == "full" and sub.width != 1
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in sub.owned.items()
        if not (without_head and name.startswith("head/"))
    }


def _of_width(apply, state, frozen, trained, rows, sub: SubModel, key, teacher: _Teacher | None, *, weight_G, switch):
    """One width's loss and gradient, and what it can teach the others."""

    def loss_fn(trained):
        params = trees.merge(frozen, trained)
        if switch.classifier == "full" and sub.width != 1:
            params = {**params, "head": jax.lax.stop_gradient(params["head"])}
        variables = {"params": params, "batch_stats": state.batch_stats}
        z, out = apply(variables, rows, train=True, rngs={"dropout": key}, width=sub.width)
        nested = sub.objective(z, out, rows)
        total = nested.total if weight_G is None else jnp.vdot(weight_G, nested.per_dim)
        if teacher is not None:
            total = _taught(total, z, out, rows, teacher, sub.nesting, weight_G, switch)
        measured = step.measure(nested, sub.nesting, sub.prefix)
        measured[f"train/w{sub.width:g}/loss"] = total
        statistics = {n.removeprefix("batch_stats/"): x for n, x in out.items() if n.startswith("batch_stats/")}
        return total, (measured, statistics, _teacher(z, out, sub.nesting, switch))

    (_, (measured, statistics, found)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    return _Found(grads, measured, statistics), found


def _only(run: Callable, *arguments: Any) -> _Found:
    return run(*arguments)[0]


def _if_drawn(drawn: jax.Array, run: Callable[[], _Found], state: State) -> _Found:
    """What `run` gives, or without running it: no gradient, nothing measured, the statistics as they are."""
    shapes = jax.eval_shape(run)
    before = trees.flatten(state.batch_stats)

    def skip():
        def filled(value):
            return lambda s: jnp.full(s.shape, value, s.dtype)

        grads, measured = (jax.tree.map(filled(v), t) for v, t in ((0, shapes.grads), (jnp.nan, shapes.measured)))
        return _Found(grads, measured, {name: before[name] for name in shapes.batch_stats})

    return jax.lax.cond(drawn, run, skip)


def _teacher(z: jax.Array, out: Mapping[str, jax.Array], nesting: Nesting, switch: Options) -> _Teacher | None:
    if not (switch.distill or switch.regress or switch.triplet):
        return None
    return _Teacher(*jax.lax.stop_gradient((z, objectives.prefix_logits(z, out, nesting)[-1])))


def _taught(total, z, out, rows, teacher: _Teacher, nesting: Nesting, weight_G, switch: Options) -> jax.Array:
    """The loss with what the full width adds to it: its soft labels, its embedding, its embeddings of other rows."""
    weights_G = jnp.asarray(nesting.weights) if weight_G is None else weight_G
    if switch.distill:
        soft_BxC = jax.nn.softmax(teacher.logits, axis=1)
        own = [jax.nn.log_softmax(a, axis=1) for a in objectives.prefix_logits(z, out, nesting)]
        loss_G = jnp.stack([-jnp.mean(jnp.sum(soft_BxC * a, axis=1)) for a in own])
        total = (1 - switch.distill) * total + switch.distill * jnp.vdot(weights_G, loss_G)
    if switch.regress:
        gap_BxD = z.astype(jnp.float32) - teacher.z.astype(jnp.float32)
        total += switch.regress * jnp.mean(jnp.square(gap_BxD))
    if switch.triplet:
        triplet = losses.nested_triplet(z, teacher.z, rows["label"], nesting)
        total += switch.triplet * jnp.vdot(weights_G, triplet.per_dim)
    return total


def _measurements(
    found: Sequence[_Found], subs: Sequence[SubModel]
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array | None]:
    """All scalars; of each width the loss that it is trained on (M,); its uncertainty at its full dim (M,), or None."""
    measured = {name: value for one in found for name, value in one.measured.items()}
    losses_M = jnp.stack([measured[f"train/w{sub.width:g}/loss"] for sub in subs])
    names = [f"train/{sub.prefix}uncertainty@{sub.nesting.full}" for sub in subs]
    known = all(name in measured for name in names)
    return measured, losses_M, jnp.stack([measured[name] for name in names]) if known else None


def _statistics(statistics: Mapping[str, jax.Array], weight_M: jax.Array, subs: Sequence[SubModel]) -> dict:
    found = {"train/conflicts": statistics["conflicts"].astype(jnp.float32)}
    for i, sub in enumerate(subs):
        name = f"train/w{sub.width:g}"
        found |= {f"{name}/norm": statistics["norms"][i], f"{name}/kept": statistics["kept"][i]}
        found[f"{name}/weight"] = weight_M[i]
        for j in range(i):
            found[f"train/cosine_w{subs[j].width:g}_w{sub.width:g}"] = statistics["cosines"][i, j]
    return found
