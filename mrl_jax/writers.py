"""Where measurements go: `metrics.jsonl` always, TensorBoard and Weights & Biases where the config asks."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np


class Writer(Protocol):
    """Anything that takes named scalars at a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records scalars by `group/name@dim` at a step."""

    def close(self) -> None:
        """Flushes and releases what it holds."""


class JsonLines:
    """One JSON object per line: `step` and `group/name@dim` keys, float32 values written so that they read back
    bit-identical.
    """

    def __init__(self, path: os.PathLike | str, *, first_step: int = 0):
        """Appends to `path`, after dropping what an interrupted run wrote beyond the step it resumes from.

        Raises:
          ValueError, OSError: see `read_metrics`.
        """
        self._path = pathlib.Path(path)
        if self._path.exists():
            kept = [line for line in read_metrics(self._path) if line["step"] <= first_step]
            if first_step == 0:
                kept = []
            unfinished = self._path.with_suffix(".tmp")
            unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(unfinished, self._path)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  (held until close)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line and hands it to the operating system, so that a kill loses no whole line."""
        line = {"step": step, **{name: _number(value) for name, value in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Event files below `directory`; needs `pip install 'mrl_jax[log]'`."""

    def __init__(self, directory: os.PathLike | str, *, first_step: int = 0):
        """Hides what an interrupted run wrote beyond the step it resumes from, as `JsonLines` drops it.

        Raises:
          ImportError: with the remedy, where tensorboardX is not installed.
        """
        tensorboard = _optional("tensorboardX")
        self._writer = tensorboard.SummaryWriter(str(directory), purge_step=first_step + 1 if first_step else 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds each scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()


class WandB:
    """A Weights & Biases run; needs `pip install 'mrl_jax[log]'`, its credentials and mode come from its own
    environment.
    """

    def __init__(self, directory: os.PathLike | str, project: str, config: Mapping[str, Any]):
        """Resumes the run that this workdir began, if any."""
        wandb = _optional("wandb")
        identifier = hashlib.sha256(str(pathlib.Path(directory).absolute()).encode()).hexdigest()[:16]
        self._run = wandb.init(project=project, dir=str(directory), id=identifier, resume="allow", config=dict(config))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the scalars at a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finishes the run."""
        self._run.finish()


class Several:
    """Writes to each of several writers."""

    def __init__(self, *writers: Writer):
        """Keeps the writers in the order given."""
        self._writers = writers

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes to each."""
        for writer in self._writers:
            writer.write(step, values)

    def close(self) -> None:
        """Closes each."""
        for writer in self._writers:
            writer.close()


def check(options: Mapping[str, Any]) -> None:
    """Raises ImportError, with the remedy, where `config.log` asks for what is not installed."""
    for field, module in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        if options[field] and jax.process_index() == 0:
            _optional(module)


def open_all(
    options: Mapping[str, Any], workdir: os.PathLike | str, config: Mapping[str, Any], *, first_step: int
) -> Writer:
    """The writers that `config.log` asks for, on the first process; on the others one that writes nothing."""
    if jax.process_index() != 0:
        return Several()
    workdir = pathlib.Path(workdir)
    found: list[Writer] = [JsonLines(workdir / "metrics.jsonl", first_step=first_step)]
    if options["tensorboard"]:
        found.append(TensorBoard(workdir / "tensorboard", first_step=first_step))
    if options["wandb"]:
        found.append(WandB(workdir, options["wandb"], config))
    return Several(*found)


def read_lines(path: os.PathLike | str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line cut short by a kill is left out."""
    lines = pathlib.Path(path).read_text(encoding="utf-8").split("\n")
    objects = []
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            objects.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1:
                raise ValueError(f"{path}, line {number + 1} is not JSON: {line[:80]!r}") from None
    return objects


def read_metrics(path: os.PathLike | str) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`.

    Raises:
      ValueError: for a line that has no step.
      OSError: if it cannot be read.
    """
    try:
        lines = read_lines(path)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}): move it away") from error
    for line in lines:
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(f"{path} has a line without a step, {json.dumps(line)[:80]}: move the file away")
    return lines


def read_object(path: os.PathLike | str, remedy: str) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
      ValueError: if it is damaged, with what to do.
      OSError: if it cannot be read, likewise.
    """
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): {remedy}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object: {remedy}")
    return value


def write_json(path: os.PathLike | str, value: Any) -> None:
    """Writes a JSON file in one rename, so that no reader ever sees half of it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _number(value: Any) -> float | int | None:
    if isinstance(value, int | np.integer):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _optional(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is not installed: pip install 'mrl_jax[log]', or switch it off in config.log"
        ) from error
