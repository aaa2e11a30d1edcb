"""A trained run seen from its folder alone: which checkpoint, its config on the devices at hand, its variables."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from mrl_jax import checkpoints, inputs, parts, recalibrate, sharding
from mrl_jax import config as configs
from mrl_jax.choices import whole_numbers
from mrl_jax.step import EVALUATED, evaluated


def choose_step(path: pathlib.Path, step: int | None) -> int:
    """The step asked for, or that of the newest checkpoint of the run in `path` that is intact and finite.

    Raises:
      FileNotFoundError: where there is no such folder or checkpoint.
      ValueError: where it is damaged.
      DamagedError: where saves were completed but none is of use.
    """
    directory = path / "checkpoints"
    if not path.is_dir():
        raise FileNotFoundError(f"--workdir={path} does not exist: name the folder of a trained run")
    if step is None:
        found = checkpoints.newest_finite(directory, EVALUATED)
        if found is None:
            raise FileNotFoundError(
                f"{directory} holds no finished checkpoint: train first, with "
                f"`python -m mrl_jax.train --config=configs/quickstart.py --workdir={path}`"
            )
        return found
    if step not in checkpoints.steps(directory):
        raise FileNotFoundError(f"--step={step} is not in {directory}, which holds {checkpoints.steps(directory)}")
    reason = checkpoints.damage(directory / str(step))
    if reason:
        raise ValueError(
            f"--step={step}: the checkpoint is damaged: {reason}; leave --step out for the newest intact one"
        )
    return step


def config_of(path: pathlib.Path, step: int, dims: Sequence[str] = (), data_dir: str | None = None) -> Any:
    """The config that a checkpoint holds, on the devices at hand, with other dims or another data folder if given.

    The batch of evaluation becomes a multiple of the devices: rows that fill it up are masked.

    Raises:
      ValueError: if dims are not whole numbers, or not of the embedding.
    """
    config = configs.from_json(checkpoints.read_run(path / "checkpoints", step)["config"]).unlock()
    # Parameters that were split stay split, over whatever devices there are now.
    split = config.mesh.fsdp > 1
    config.mesh = {"data": 1 if split else -1, "fsdp": -1 if split else 1, "model": 1}
    config.data.eval_batch_size += -config.data.eval_batch_size % jax.device_count()
    config.batch_size, config.accumulate = config.data.eval_batch_size, 1
    if data_dir:
        config.data.dir = data_dir
    asked, full = whole_numbers("--dims", dims), max(config.nesting.dims)
    wrong = [m for m in asked if not 1 <= m <= full]
    if wrong:
        raise ValueError(f"--dims={','.join(dims)}: {wrong} are not in 1..{full}, the size of the embedding")
    for evaluator in config.evals.values():
        evaluator.dims = asked or evaluator.dims
    return config.lock()


def over(
    config: ml_collections.ConfigDict, dataset: str | None, split: str, ops: str | None, batch_size: int | None
) -> ml_collections.ConfigDict:
    """`config` with its data replaced: one split of a dataset (None: its own), read for evaluation.

    A model of images and texts reads the images alone where the data have no texts.

    Args:
      config: as `config_of` gives it.
      dataset: a name as in `config.data.name`.
      split: of that dataset.
      ops: the transform in place of `config.data.eval_ops`.
      batch_size: in place of `config.data.eval_batch_size`.
    """
    config = config.copy_and_resolve_references().unlock()  # a ConfigDict of it would share what is nested
    data = config.data
    data.name = dataset or data.name
    data.train_split = data.eval_split = split
    data.mixture = ()
    data.train_ops = data.eval_ops = ops or data.eval_ops
    data.resolution = configs.default().data.resolution  # evaluation has one size
    data.text.negatives = 0  # of training alone
    if data.kind == "image_text" and inputs.eval_source(config, split).vocabulary is None:
        data.kind, data.text = "image", configs.default().data.text
    config.evals = {}  # for the data of training
    config.batch_size = data.eval_batch_size = batch_size or data.eval_batch_size
    return config.lock()


def assemble(path: pathlib.Path, step: int, config: ml_collections.ConfigDict) -> parts.Parts:
    """The parts of a trained model over the data that `config` names, which need not be those of its training."""
    record = checkpoints.read_run(path / "checkpoints", step)
    run = parts.assemble(config, num_classes=record["num_classes"])
    inputs.check_tokenizer(record.get("tokenizer"), run.train_source, str(path))  # None in runs of images
    return run


def check_width(run: parts.Parts, width: float) -> None:
    """Raises ValueError unless the model was trained at this width."""
    if width not in run.model.widths:
        raise ValueError(
            f"--width={width:g} was not trained: this run has the widths {list(run.model.widths)}; a width that is "
            "to be used must be one of model.widths in training"
        )


def variables(path: pathlib.Path, step: int, run: parts.Parts) -> Any:
    """The variables of the checkpoint.

    Raises:
      ValueError: if its parameters are not of the shapes that the images of `run` ask for.
      NonFiniteError: if they are not finite.
    """
    try:
        # By field: of a model of images and texts that reads images alone, the other tower is left where it is.
        wanted = {name: getattr(run.abstract_state, name) for name in EVALUATED}
        return evaluated(**checkpoints.load_parts(path / "checkpoints", step, wanted))
    except checkpoints.NonFiniteError:
        raise
    except ValueError as error:
        data, batch = run.config.data, run.abstract_batch
        what, shape = ("images", batch["image"].shape) if "image" in batch else ("texts", batch["tokens"].shape)
        raise ValueError(
            f"{path} was not trained on {what} of shape {shape[1:]}, which dataset {data.name!r} split "
            f"{data.eval_split!r} has after --ops={data.eval_ops!r}: give --ops that end in the size and channels of "
            f"its training ({str(error).splitlines()[0][:200]})"
        ) from error


def check_recalibrated(run: parts.Parts, batches: int) -> None:
    """Raises ValueError unless the model has statistics to compute anew from so many training batches, 0 for none."""
    if batches < 0:
        raise ValueError(f"--recalibrate={batches} must be a number of training batches, 0 for none")
    if batches and not run.abstract_state.batch_stats:
        raise ValueError(
            f"--recalibrate={batches} is for BatchNorm, and model.name={run.config.model.name!r} of this run keeps no "
            "running statistics: leave it out"
        )


def recalibrated(run: parts.Parts, variables: Any, batches: int) -> Any:
    """The variables with BatchNorm's statistics, of every width, of training batches; as they are for 0.

    They are the first ones; where images grow during training, the first of the last size.

    Args:
      run: of the config that `config_of` gives: its training data, in batches of data.eval_batch_size.
      variables: of its model.
      batches: how many, as `check_recalibrated` allows.
    """
    if not batches:
        return variables
    with jax.set_mesh(run.mesh):
        first = itertools.islice(parts.train_batches(run, run.stages[-1][0]), batches)
        on_devices = (sharding.to_devices(inputs.model_inputs(batch), run.mesh) for batch in first)
        return recalibrate.recalibrate(run.model, variables, on_devices, run.model.widths)


def head(path: pathlib.Path, step: int) -> dict[str, Any]:
    """The tensors of the checkpoint's head as `head/<name>`, as the model hands them out; needs no data.

    Raises:
      ValueError: where it has none.
    """
    params = evaluated(**checkpoints.load_on_host(path / "checkpoints", step, EVALUATED))["params"]
    if "head" not in params:
        raise ValueError(
            f"{path} has no classifier (head='none'): probe its features, or classify by names (zero_shot)"
        )
    return {f"head/{name}": value for name, value in params["head"].items()}


_OF_EXPORTS = ("step", "manifest_sha256", "width", "dims", "recalibrated")


def identity(path: pathlib.Path, step: int) -> dict[str, Any]:
    """What tells a checkpoint from any other: its step and the SHA-256 of its manifest, which lists every file's.

    An export is a sub-model of the checkpoint that it was cut from: it has that one's, with the width and the dims that
    were trained at it.
    """
    origin = checkpoints.read_run(path / "checkpoints", step).get("init") or {}
    # A training that goes on from an export keeps this record at later steps, where the weights are no longer its.
    if "width" in origin and origin["step"] == step:
        return {name: origin[name] for name in _OF_EXPORTS if name in origin}
    return {"step": step, "manifest_sha256": checkpoints.digest(path / "checkpoints", step)}
