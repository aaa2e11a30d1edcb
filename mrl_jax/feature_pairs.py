"""The features that a command works on: a training and a test set of one model, and which dims of them were trained."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from mrl_jax import extract, features_dir, flips, trained
from mrl_jax.features_dir import Features
from mrl_jax.nesting import Nesting

_BLOCK_ROWS = 8192


class Pair(NamedTuple):
    """Features of two sets, of one model and of the same classes."""

    train: Features
    test: Features
    nesting: Nesting  # the trained dims; where they are not known, those of a halving, as good as any
    known: bool  # whether they are known


def of_run(path: pathlib.Path, step: int | None, data_dir: str | None, mirror: bool = False) -> Pair:
    """Train and eval features of a run's checkpoint, embedded into PATH/features/STEP where they are not there yet."""
    step = trained.choose_step(path, step)
    base = trained.config_of(path, step, data_dir=data_dir)
    splits = base.data.train_split, base.data.eval_split
    configs = [trained.over(base, None, split, None, None) for split in splits]
    return pair(*(kept(path, step, c, s.replace("/", "_"), mirror) for c, s in zip(configs, splits)))


def kept(path: pathlib.Path, step: int, config: Any, name: str, mirror: bool = False) -> Features:
    """Features of a checkpoint over the data of `config`, as `trained.over` gives it, embedded into
    PATH/features/STEP/NAME where they are not there yet; with `mirror` as `extract.extract`, into NAME_flips.
    """
    out = path / "features" / str(step) / flips.named(name, mirror)
    extract.extract(path, step, config, out, mirror=mirror)
    return features_dir.open_features(out)


def folder_name(text: str) -> str:
    """The text with _ for what does not belong into the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def pair(train: Features, test: Features) -> Pair:
    """Two sets as a pair; ValueError as `check_same_model`, and for other classes."""
    check_same_model(train, test)
    names = train.info.label_names, test.info.label_names
    if all(names) and names[0] != names[1]:
        raise ValueError("--train and --test have different label names: a probe needs one set of classes")
    dims = train.info.dims or test.info.dims
    return Pair(train, test, Nesting(dims or _halving(train.z.shape[1])), bool(dims))


def of_checkpoint(features: Pair, path: pathlib.Path, step: int) -> Pair:
    """Features that some checkpoint made, with the dims it was trained at.

    Raises:
      ValueError: if another one made them, or they are not of its size.
    """
    nesting = Nesting(tuple(trained.config_of(path, step).nesting.dims))
    if features.train.z.shape[1] != nesting.full:
        raise ValueError(
            f"--train has {features.train.z.shape[1]} features, step {step} of --workdir={path} gives {nesting.full}"
        )
    for flag, found in (("--train", features.train), ("--test", features.test)):
        check_made_by(flag, found, path, step)
    return features._replace(nesting=nesting, known=True)


def check_made_by(flag: str, found: Features, path: pathlib.Path, step: int) -> None:
    """Raises ValueError for features that are known to be of another model than this checkpoint."""
    own = features_dir.model_of({"checkpoint": trained.identity(path, step)})
    made_by = features_dir.model_of(found.info.identity) or own
    if not made_by.shares_space(own):
        raise ValueError(
            f"{flag} holds features of {made_by}, not of --workdir={path}, {own}: its heads cannot answer for them; "
            "embed with this checkpoint, or name the other one by --step"
        )


def check_same_model(train: Features, test: Features, name: str = "--test") -> None:
    """Raises ValueError unless both are features of one model and of the same size; by the name of the second."""
    ours, theirs = (features_dir.model_of(found.info.identity) for found in (train, test))
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"--train holds features of {ours}, {name} those of another model, {theirs}: embed both with one "
            "checkpoint and the same --width and --recalibrate"
        )
    if train.z.shape[1] != test.z.shape[1]:
        raise ValueError(
            f"--train has {train.z.shape[1]} features, {name} {test.z.shape[1]}: embed both with one checkpoint or one "
            "export"
        )


def check_finite(flag: str, features: Features) -> None:
    """Raises ValueError, with the row and the feature, if a value is not finite; reads all of it, in blocks."""
    for start in range(0, len(features.z), _BLOCK_ROWS):
        finite = np.isfinite(features.z[start : start + _BLOCK_ROWS])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise ValueError(
                f"{flag}: feature {column} of row {start + row} is {features.z[start + row, column]}: features must be "
                "finite; leave such rows out, or embed again with a model that has not diverged"
            )


def _halving(full: int) -> tuple[int, ...]:
    dims = [full]
    while dims[0] % 2 == 0 and dims[0] > 8:
        dims.insert(0, dims[0] // 2)
    return tuple(dims)
