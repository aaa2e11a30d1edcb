"""A config made into the parts of a run, every mistake in it found before anything is compiled."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from mrl_jax import config as defaults
from mrl_jax import (
    flips,
    inputs,
    limits,
    mixing,
    models,
    objectives,
    optim,
    sharding,
    step,
    surgery,
    switchable,
    widths,
)
from mrl_jax.choices import check_like, choose, keywords, naming, pick
from mrl_jax.data import labels, pipeline, sampling, sources
from mrl_jax.evals import EVALUATORS
from mrl_jax.evals.features import FeatureStore, dims_of
from mrl_jax.models import heads
from mrl_jax.nesting import Nesting, check_sample


class Parts(NamedTuple):
    """What a config names: the data, the model, the objective, the optimizer, and where the state lives."""

    config: ml_collections.ConfigDict
    mesh: Mesh
    nesting: Nesting
    train_source: sources.Source
    model: models.Model
    objective: objectives.Objective  # of the full width
    subs: list[switchable.SubModel]  # all widths, where there are several
    schedule: optim.Schedule
    tx: optax.GradientTransformation
    stages: list[tuple[int, dict[str, jax.ShapeDtypeStruct]]]  # (first step, batch): images may grow
    abstract_state: step.State  # shapes, dtypes and shardings
    evaluators: Mapping[str, Any]

    @property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The first batch."""
        return self.stages[0][1]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image as evaluation shows it, which training may show smaller."""
        return inputs.eval_batch(self.config)["image"].shape[1:]


def assemble(config: ml_collections.ConfigDict, mesh: Mesh | None = None, num_classes: int | None = None) -> Parts:
    """Builds every part of a run.

    Args:
      config: of the run.
      mesh: its devices; None: that of the config, over all of them.
      num_classes: of the head of a trained model, whose data need not be those of training; None: as many as the data
        have.

    Raises:
      ValueError, FileNotFoundError: naming the field, its value and the remedy.
    """
    limits.check_types(config)
    limits.check_numbers(config)
    limits.check_expressions(config)
    training = num_classes is None
    nesting = Nesting(tuple(config.nesting.dims), tuple(config.nesting.weights) or None)
    if config.nesting.sample:
        check_sample(len(nesting), config.nesting.sample, config.nesting.keep_full)
    mesh = mesh or sharding.make_mesh(**config.mesh)
    sharding.check_batch(config.batch_size, mesh, microbatches=config.accumulate)
    sharding.check_batch(config.data.eval_batch_size, mesh, "data.eval_batch_size")
    schedule = optim.make_schedule(config.optim.lr, config.total_steps, config.schedule)
    make_objective, arguments = pick("loss", objectives.OBJECTIVES, config.loss)
    mixing.make(config.mix)
    objectives.check_mix(config.loss.name, config.mix.name)
    evaluators = {name: _evaluator(config, name, options) for name, options in config.evals.items()}

    if training:
        limits.check_training(config)
        objectives.check_data(config.loss.name, config.data.kind, config.batch_size)
        objectives.check_model(config.loss.name, config.head, config.model.name)
    source, stages = _data(config)
    _check_evaluators(config, evaluators, nesting, num_classes or source.num_classes)
    batch = stages[0][1]
    # A trained model that is shown images alone does not read texts: any number of token ids will do.
    ids, pad = (source.vocabulary.size, source.vocabulary.pad) if source.vocabulary else (int(not training), 0)
    model = _model(config, nesting, num_classes or source.num_classes, vocabulary=ids, pad=pad)
    objective = make_objective(model.nestings[1.0], **arguments)
    subs = _sub_models(config, model, batch, lambda own: make_objective(own, **arguments))
    tx = _optimizer(config.optim, schedule, model.distance)
    state = jax.eval_shape(lambda b: step.init_state(model.init, tx, config.seed, b, step_options(config)), batch)
    if training:
        limits.check_patterns(config.optim, state.params)
        limits.check_rules(config.sharding.rules, state.params)
    for _, other in stages[1:]:
        _check_shape(model, state, batch, other, "data.resolution")
    shown = inputs.eval_batch(config)
    if config.evals:
        _check_shape(model, state, batch, shown, "data.eval_ops")
    shardings = sharding.of_tree(state, mesh, config.sharding.rules, config.sharding.fsdp_min_size)
    state = jax.tree.map(lambda s, to: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=to), state, shardings)
    return Parts(config, mesh, nesting, source, model, objective, subs, schedule, tx, stages, state, evaluators)


def _data(config: ml_collections.ConfigDict) -> tuple[sources.Source, list[tuple[int, dict[str, Any]]]]:
    """The training data, and the abstract batches of the stages of a run."""
    inputs.check_text(config.data.kind, config.data.text, defaults.default().data.text)
    objectives.check_negatives(config.loss.name, config.data.text.negatives)
    source = inputs.train_source(config.data)
    labels.check(source)
    with naming(f"data.eval_split={config.data.eval_split!r}"):
        labels.check(inputs.eval_source(config, config.data.eval_split))
    inputs.check_negatives(config.data.text.negatives, source)
    if not 0 <= config.data.balance <= 1:
        raise ValueError(f"data.balance={config.data.balance} must be in 0..1")
    stages = inputs.batches(config, source)
    for field, name in (("loss.name", config.loss.name), ("switch.full_loss", config.switch.full_loss)):
        if source.max_labels > 1 and name and name not in objectives.MULTI_LABEL:
            raise ValueError(
                f"{field}={name!r} takes one label an example, and data.name={config.data.name!r} has up to "
                f"{source.max_labels}: set {field} to one of {list(objectives.MULTI_LABEL)}"
            )
    return source, stages


def _model(config: ml_collections.ConfigDict, nesting: Nesting, num_classes: int, **text: int) -> models.Model:
    options = config.model.to_dict()
    model = models.build(
        options.pop("name"),
        options,
        head=config.head,
        nesting=nesting,
        num_classes=num_classes,
        dtype=config.dtype,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        freeze=config.optim.freeze,
        **text,
    )
    return model._replace(init=widths.with_state(model.init, config.switch.priority, len(model.widths)))


def _sub_models(
    config: ml_collections.ConfigDict,
    model: models.Model,
    batch: Mapping[str, Any],
    make_objective: Callable[[Nesting], objectives.Objective],
) -> list[switchable.SubModel]:
    """The widths of the model, each with its loss; none where there is one width only."""
    own, last = widths.Options(**config.switch), model.widths[-1]
    given = {"loss": config.loss.name, "dims_sampled": config.nesting.sample > 0, "mixed": config.mix.name != "none"}
    widths.check(own, len(model.widths), equal=len({n.full for n in model.nestings.values()}) == 1, **given)
    if len(model.widths) == 1:
        return []
    surgery.check(mode=own.projection, scope=own.scope, reduction=own.reduction)
    by_width = {width: make_objective(nesting) for width, nesting in model.nestings.items()}
    if own.full_loss:
        choose("switch.full_loss", own.full_loss, objectives.OBJECTIVES)
        objectives.check_data(own.full_loss, config.data.kind, config.batch_size, "switch.full_loss")
        objectives.check_mix(own.full_loss, config.mix.name, "switch.full_loss")
        objectives.check_model(own.full_loss, config.head, config.model.name, "switch.full_loss")
        by_width[last] = objectives.OBJECTIVES[own.full_loss](model.nestings[last])
    return [switchable.SubModel(w, model.nestings[w], by_width[w], model.owned(batch, w)) for w in model.widths]


def _check_shape(
    model: models.Model, state: step.State, batch: Mapping[str, Any], other: Mapping[str, Any], field: str
) -> None:
    """Raises ValueError, naming the field, for images that the model of the first batch does not take."""
    if "image" not in other or other["image"].shape[1:] == batch["image"].shape[1:]:
        return
    made, shown = batch["image"].shape[1:], other["image"].shape[1:]
    told = f"{field}: a model made for images of {made} does not take {shown}"
    if made[-1] != shown[-1]:
        raise ValueError(f"{told}: data.train_ops and {field} must give the same channels, as by decode(3) in both")
    try:
        jax.eval_shape(
            lambda s, b: model.apply(step.variables_of(s), b, train=True, rngs={"dropout": jax.random.key(0)})[0],
            state,
            other,
        )
    except Exception as error:  # Linen's own types, by module
        raise ValueError(
            f"{told} ({str(error).splitlines()[0]}); a ViT needs model.posemb='sincos2d' for another size"
        ) from error


def step_options(config: ml_collections.ConfigDict) -> step.Options:
    """What the config says of the update itself."""
    return step.Options(
        microbatches=config.accumulate,
        freeze=config.optim.freeze,
        ema=config.optim.ema,
        ema_warmup=config.optim.ema_warmup,
        sample=config.nesting.sample,
        keep_full=config.nesting.keep_full,
        skip=config.nan_policy == "skip",
        joint=config.loss.name in objectives.JOINT,
    )


def _optimizer(
    options: Mapping[str, Any], schedule: optim.Schedule, distance: Callable[[str], Any]
) -> optax.GradientTransformation:
    own = dict(options)
    for name in ("lr", "ema", "ema_warmup", "freeze"):
        own.pop(name)
    multiplier = optim.make_multiplier(distance, own.pop("layer_decay"), own.pop("multipliers"))
    shared = {name: own.pop(name) for name in ("weight_decay", "no_decay", "clip_norm")}
    return optim.make_optimizer(schedule, own, multiplier=multiplier, **shared)


def _evaluator(config: ml_collections.ConfigDict, name: str, options: Mapping[str, Any]) -> Any:
    own = dict(options)
    check_like(f"evals.{name}.every", own.pop("every", None), 0)
    make, arguments = pick(f"evals.{name}", EVALUATORS, own)
    if "split" in keywords(make) and not arguments.get("split"):
        arguments["split"] = config.data.eval_split
    return make(**arguments)


def _check_evaluators(
    config: ml_collections.ConfigDict, evaluators: Mapping[str, Any], nesting: Nesting, num_classes: int
) -> None:
    """Raises ValueError for an evaluator that the data are of no use to, or that asks for dims beyond the embedding or
    classes beyond the head.
    """

    def load(name: str, split: str) -> sources.Source:
        field = next((field for field, value in config.evals[name].items() if value == split), "split")
        with naming(f"config.evals.{name}.{field}={split!r}"):
            found = inputs.eval_source(config, split)
            labels.check(found)
            return found

    for name, evaluator in evaluators.items():
        try:
            dims_of(nesting, tuple(config.evals[name].get("dims", ())))
        except ValueError as error:
            raise ValueError(f"config.evals.{name}.{error}") from error
        what, split = f"config.evals.{name}.name={config.evals[name].name!r}", functools.partial(load, name)
        if hasattr(evaluator, "check"):
            evaluator.check(what, config.data.kind, split)
        if hasattr(evaluator, "check_head"):
            evaluator.check_head(what, num_classes, split)


def init_state(parts: Parts) -> step.State:
    """The first state, made on the devices that will hold it."""
    shardings = jax.tree.map(lambda s: s.sharding, parts.abstract_state)

    def init(batch):
        return step.init_state(parts.model.init, parts.tx, parts.config.seed, batch, step_options(parts.config))

    zeros = {name: np.zeros((1, *s.shape[1:]), s.dtype) for name, s in parts.abstract_batch.items()}
    return jax.jit(init, out_shardings=shardings)(zeros)


def make_update(parts: Parts) -> Callable:
    """The pure update `(state, batch) -> (state, measurements)`: of all widths, where there are several."""
    options, augment = step_options(parts.config), mixing.make(parts.config.mix)
    if not parts.subs:
        return step.make_train_step(parts.model.apply, parts.objective, parts.tx, parts.nesting, options, augment)
    own = widths.Options(**parts.config.switch)
    return switchable.make_switchable_step(parts.model.apply, parts.subs, parts.tx, options, own, augment)


def jit_train_step(parts: Parts) -> Any:
    """The jitted update: the state donated, state and batch placed as `abstract_state` and the mesh say."""
    state = jax.tree.map(lambda s: s.sharding, parts.abstract_state)
    batch = sharding.of_batch(parts.mesh)
    placed = {"in_shardings": (state, batch), "out_shardings": (state, sharding.replicated(parts.mesh))}
    return jax.jit(make_update(parts), **placed, donate_argnums=0)


def train_batches(parts: Parts, start_step: int) -> Iterator[Mapping[str, np.ndarray]]:
    """This process's rows of the batches from `start_step` on."""
    config = parts.config
    return pipeline.train_batches(
        parts.train_source,
        inputs.of(config, parts.train_source).train,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        rows=sharding.rows_of_process(config.batch_size, parts.mesh),
        workers=config.data.workers,
        sampler=sampling.make(
            parts.train_source, weights=[part[2] for part in config.data.mixture], balance=config.data.balance
        ),
    )


def make_embed(parts: Parts, width: float = 1.0, mirror: bool = False) -> Any:
    """The jitted `(variables, batch) -> (z, out)` of a width's evaluation, out without what is for training alone; with
    `mirror` as `flips.mean_of_both`.
    """
    apply = functools.partial(flips.mean_of_both, parts.model.apply) if mirror else parts.model.apply

    def embed(variables, batch):
        z, out = apply(variables, batch, train=False, width=width)
        return z, {name: value for name, value in out.items() if name.startswith(("head/", "masked/", "pair/"))}

    return jax.jit(embed)


def make_embeds(parts: Parts, mirror: bool = False) -> dict[float, Any]:
    """`make_embed` of every width."""
    return {width: make_embed(parts, width, mirror) for width in parts.model.widths}


def evaluate(parts: Parts, embeds: Mapping[float, Any], variables: Any, names: Iterable[str]) -> dict[str, Any]:
    """What the named evaluators find: `metric@dim` of the full width, `w0.5/metric@dim` of another."""
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for width in reversed(list(embeds)):
        store, prefix = feature_store(parts, embeds[width], variables, width), "" if width == 1 else f"w{width:g}/"
        for name in found:
            if evaluator := _of_nesting(parts, name, store.nesting):
                found[name] |= {prefix + key: value for key, value in evaluator.run(store)}
    return found


def _of_nesting(parts: Parts, name: str, nesting: Nesting) -> Any:
    """The evaluator with those of its dims that this width's embedding has; None where it has none of them."""
    options = parts.config.evals[name]
    dims = tuple(options.get("dims", ()))
    own = tuple(m for m in dims if m <= nesting.full)
    if own == dims:
        return parts.evaluators[name]
    return _evaluator(parts.config, name, {**options, "dims": own}) if own else None


def feature_store(parts: Parts, embed: Any, variables: Any, width: float = 1.0) -> FeatureStore:
    """What evaluators run on: features of `variables` by split, of `embed` for this width."""
    config = parts.config

    def batches(split: str) -> Iterator[Mapping[str, np.ndarray]]:
        source = inputs.eval_source(config, split)
        found = pipeline.eval_batches(
            source,
            inputs.of(config, source).evaluation,
            batch_size=config.data.eval_batch_size,
            rows=sharding.rows_of_process(config.data.eval_batch_size, parts.mesh),
            workers=config.data.workers,
        )
        with contextlib.closing(found):
            yield from found

    def to_devices(batch):
        return sharding.to_devices(batch, parts.mesh)

    def label_names(split: str) -> tuple[str, ...] | None:
        return inputs.eval_source(config, split).label_names

    text = (label_names, inputs.tokenize(config, parts.train_source))
    nesting = parts.model.nestings[width]
    return FeatureStore(embed, variables, batches, to_devices, heads.logits, nesting, *text)
