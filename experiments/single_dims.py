"""One nested model, models of single dims, and cuts of the largest of these: what the studies of texts have in common.

Runs are folders by name: `mrl_seed0`, `ff8_seed0`, ... Values are fractions by "evaluator/metric@dim".
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments.provenance import call
from mrl_jax import parts, results, trained, writers
from mrl_jax.nesting import Nesting

Values = dict[str, float]
Train = Callable[[str, str], pathlib.Path]  # of the run's name and the mode of its config, to its folder
Maps = Callable[[Any, Nesting, int], Mapping[str, Any]]  # of a store, dims and a seed, to stores by name of the cut


def trainer(config: str, workdir: str, *options: str) -> Train:
    """What trains a run of a config file below `workdir` if it is not there, and returns its folder."""

    def train(run: str, mode: str) -> pathlib.Path:
        folder = pathlib.Path(workdir) / run
        if not (folder / "report.html").exists():
            seed = run.rpartition("seed")[2]
            call("train", f"--config={config}:{mode}", f"--config.seed={seed}", *options, f"--workdir={folder}")
        return folder

    return train


def measured(train: Train, maps: Maps, nesting: Nesting, ff: Sequence[str], seed: str) -> dict[str, Values]:
    """By model what its evaluators find: at every dim of the nested one and of the cuts, of `ff` each dim by itself."""
    found = {"mrl": _own(train(f"mrl_seed{seed}", "small")), "ff": {}}
    for dim in ff:
        workdir = train(f"ff{dim}_seed{seed}", f"small,ff={dim}")
        found["ff"] |= {key: value for key, value in _own(workdir).items() if key.endswith(f"@{dim}")}
        if int(dim) == nesting.full:
            cuts = _cuts(workdir, maps, nesting, int(seed))
            found |= {f"ff{dim} {name}": values for name, values in cuts.items()}
    return found


def assembled(workdir: pathlib.Path) -> tuple[parts.Parts, Any]:
    """A run's parts and the variables of its newest checkpoint."""
    step = trained.choose_step(workdir, None)
    run = trained.assemble(workdir, step, trained.config_of(workdir, step))
    with jax.set_mesh(run.mesh):
        return run, trained.variables(workdir, step, run)


def _own(workdir: pathlib.Path) -> Values:
    return _named({name: found["values"] for name, found in results.read(workdir).items()})


def _cuts(workdir: pathlib.Path, maps: Maps, nesting: Nesting, seed: int) -> dict[str, Values]:
    file = workdir / "cuts.json"
    if not file.exists():
        run, variables = assembled(workdir)
        with jax.set_mesh(run.mesh):
            stores = maps(parts.feature_store(run, parts.make_embed(run), variables), nesting, seed)
            found = {
                name: _named({key: dict(evaluator.run(store)) for key, evaluator in run.evaluators.items()})
                for name, store in stores.items()
            }
        writers.write_json(file, found)
    return json.loads(file.read_text(encoding="utf-8"))


def _named(found: Mapping[str, Values]) -> Values:
    return {f"{evaluator}/{key}": value for evaluator, values in found.items() for key, value in values.items()}
