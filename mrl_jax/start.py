"""Where a run begins: at its newest checkpoint, at parameters from elsewhere, or afresh."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from mrl_jax import checkpoints, inputs, parts, warm_start
from mrl_jax import config as configs
from mrl_jax.step import State


class Start(NamedTuple):
    """The first state of a process.

    Attributes:
      state: to go on from.
      step: the number of steps done.
      evaluated: the last step whose evaluations are done; -1: none. Those owed at `step` are still to be done.
      owed: of a run that is done, the evaluators that are new since then, or have other options.
      init: what the run's first parameters were taken from (`warm_start.Source.identity`), or None.
    """

    state: State
    step: int
    evaluated: int
    owed: tuple[str, ...]
    init: dict[str, Any] | None


def begin(run: parts.Parts, directory: os.PathLike | str) -> Start:
    """The newest usable checkpoint of `directory`; else the parameters that config.init names, in an otherwise fresh
    state; else a fresh one. Writes nothing.

    Raises:
      ValueError, FileNotFoundError: see `warm_start`; or for a checkpoint of another config or another tokenizer.
      DamagedError: see `checkpoints`.
    """

    def check(record):
        inputs.check_tokenizer(record.get("tokenizer"), run.train_source, str(directory))  # None in runs of images
        configs.check_resumable(record["config"], configs.to_json(run.config), directory)

    found, init = checkpoints.restore(directory, run.abstract_state, check), run.config.init
    if found is not None:
        record = checkpoints.read_run(directory, found[0])
        done = found[0] == record["evaluated"] == run.config.total_steps
        owed = _changed(record["config"], configs.to_json(run.config)) if done else ()
        return Start(found[1], found[0], record["evaluated"], owed, record["init"])
    if not init.path:
        return Start(parts.init_state(run), 0, -1, (), None)
    source = warm_start.renamed(warm_start.read(init.path), init.rename)
    if warm_start.takes_texts(source, init.skip):
        inputs.check_tokenizer(source.tokenizer, run.train_source, f"init.path={init.path}")
    values = warm_start.match(source, run.abstract_state, init.skip)
    return Start(warm_start.place(parts.init_state(run), values), 0, -1, (), source.identity)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """The evaluators of a config in JSON that the other one has not, or with another result at the end of a run."""

    def of(config):
        split = config["data"]["eval_split"]
        return {n: {**own, "every": 0, "split": own.get("split") or split} for n, own in config["evals"].items()}

    before = of(configs.completed(old))
    return tuple(name for name, own in of(new).items() if before.get(name) != own)
