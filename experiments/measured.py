"""Our numbers: the results in the folders of runs, told apart by their configs."""

import dataclasses
import json
import pathlib
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments import recognise
from experiments.entry import Ours, Setting
from mrl_jax import config as configs
from mrl_jax import flips, results, workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder: its config, and its results by evaluator."""

    path: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        """What a reader must know to judge its numbers."""
        c = self.config
        return {
            "workdir": self.path,
            # Of two towers the variants of both, in words.
            "model": dict(zip(("name", "variant"), configs.name_of(c["model"]).split(" ", 1))),
            "dataset": c["data"]["name"],
            "head": c["head"],
            "dims": c["nesting"]["dims"],
            "weights": c["nesting"]["weights"],
            "steps": c["total_steps"],
            "batch_size": c["batch_size"],
            "seed": c["seed"],
        }


@dataclasses.dataclass(frozen=True)
class Value:
    """Our number: the mean over seeds, its sample standard deviation (None for one run), and the runs."""

    mean: float
    std: float | None
    runs: tuple[Run, ...]


def load(path: str) -> Run:
    """A run with its results.

    Raises:
      FileNotFoundError: if the folder holds no run, or no results.
      ValueError: if a file is not what it should be.
    """
    if not (pathlib.Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"--workdir={path} holds no config.json: name the folder of a trained run")
    try:
        found = results.read(path)
    except json.JSONDecodeError as error:
        raise ValueError(f"--workdir={path}: a file of results/ is not JSON ({error}): evaluate again") from error
    config = configs.completed(workdir.read_config(path))
    if missing := sorted(set(configs.default()) - set(config)):
        raise ValueError(f"--workdir={path} is of another version, its config.json lacks {missing}: train it again")
    return Run(str(path), config, found)


def column(runs: Sequence[Run], ours: Ours | None, views: int = 1) -> dict[str, Value]:
    """Our numbers of a column by row: those of so many views of each test image, where there are any.

    Raises:
      ValueError: if two runs fit, and differ in more than the seed.
    """
    found: dict[str, list[tuple[float, Run]]] = {}
    for run in runs:
        if ours is None or not recognise.RUNS[ours.run](run.config):
            continue
        for evaluator in seen(run, ours.evaluator, views):
            for row, value in _read(run, dataclasses.replace(ours, evaluator=evaluator)):
                found.setdefault(row, []).append((ours.scale * value, run))
    return {row: _mean(row, ours, pairs) for row, pairs in found.items()}


def seen(run: Run, evaluator: str, views: int) -> list[str]:
    """The names of an evaluator's results of so many views, where there are any; else those of one view."""
    of_views, plain = (
        [name for name in run.results if re.fullmatch(pattern, name)]
        for pattern in (flips.named(evaluator, views == flips.VIEWS), evaluator)
    )
    return of_views or plain


def _read(run: Run, ours: Ours) -> Iterator[tuple[str, float]]:
    """The numbers of one run by row."""
    result = run.results[ours.evaluator]
    named = result["values"]
    if ours.details:
        named = _at(result.get("details") or {}, ours.details)
    if isinstance(named, list):
        yield from zip((ours.row.format(dim=dim) for dim in _at(result["details"], ours.of)), named)
    elif isinstance(named, Mapping):
        yield from _matching(run, ours, named)
    elif named is not None:
        yield ours.row, named


def _matching(run: Run, ours: Ours, named: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    for name, value in named.items():
        match = re.fullmatch(ours.name, name)
        # Of a fixed-feature run only the dim that it was trained for is a row of the fixed-feature column.
        if match and not (ours.run == "ff" and int(match["dim"]) != run.config["nesting"]["dims"][-1]):
            yield ours.row.format(**match.groupdict()), value


def _at(details: Mapping[str, Any], path: str) -> Any:
    """What is at a path; None where there is no such."""
    for key in path.split("/"):
        details = details.get(key) if isinstance(details, Mapping) else None
    return details


def _mean(row: str, ours: Ours, pairs: list[tuple[float, Run]]) -> Value:
    values, runs = zip(*pairs)
    for other in runs[1:]:
        changed = configs.differences(runs[0].config, other.config)
        fields = [n for n in changed if n != "seed" and not n.startswith(configs.SAFE_TO_CHANGE)]
        if fields:
            raise ValueError(
                f"{runs[0].path} and {other.path} both are a {ours.run!r} run with row {row!r}, and differ in "
                f"{fields}: name one of them in --workdir"
            )
    seeds = [run.config["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{[run.path for run in runs]} are runs of the same seed: name one of them in --workdir")
    return Value(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, runs)


def differs(run: Run, evaluator: str, setting: Setting) -> list[str]:
    """Why the run's numbers are not to be compared with those of the setting; empty where they are."""
    return [reason for name in seen(run, evaluator, setting.views) for reason in _differs(run, name, setting)]


def _differs(run: Run, evaluator: str, setting: Setting) -> list[str]:
    reasons = []
    model, data = run.config["model"], run.config["data"]
    for field, wanted in setting.model.items():
        if (found := _at(model, field)) != wanted:
            reasons.append(f"model.{field.replace('/', '.')} is {found!r}, not {wanted!r}")
    if data["name"] != setting.dataset:
        reasons.append(f"the data are {data['name']!r}, not {setting.dataset!r}")
    test, wanted = tested_on(run, evaluator), setting.test or setting.dataset
    if test != wanted and (test != data["name"] or wanted != setting.dataset):  # else it was said above
        reasons.append(f"it was tested on {test!r}, not {wanted!r}")
    views = run.results[evaluator].get("views", 1)
    if views != setting.views:
        reasons.append(
            f"the published ones add the logits of {setting.views} views of each test image, ours are of {views}"
        )
    details = run.results[evaluator].get("details") or {}
    for name, wanted in setting.details.items():
        if details.get(name) != wanted:
            reasons.append(f"{name} is {details.get(name)!r}, not {wanted!r}")
    return reasons


def tested_on(run: Run, evaluator: str) -> str:
    """The data set of the test, which results of features name themselves."""
    details = run.results[evaluator].get("details") or {}
    test = details.get("test")
    # Without a manifest they are somebody's files.
    return run.config["data"]["name"] if test is None else test["dataset"]["name"] if test else "unnamed features"
