"""Evaluates a checkpoint at every dim: prints a table, writes results/*.json, plots/accuracy.png and report.html.

python -m mrl_jax.evaluate --workdir=runs/q
python -m mrl_jax.evaluate --workdir=runs/q --dims=8,12,16 --ff=runs/ff8,runs/ff16
"""

import pathlib
import shlex
import sys

import jax
import ml_collections
from absl import flags

from mrl_jax import checkpoints, commands, distributed, parts, report, results, workdir
from mrl_jax import config as configs
from mrl_jax.step import variables_of

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
STEP = flags.DEFINE_integer("step", None, "Which checkpoint; by default the newest intact one.")
EVALS = flags.DEFINE_list("evals", [], "Names of config.evals to run; by default all of them.")
DIMS = flags.DEFINE_list("dims", [], "Dims to evaluate, trained or not; by default the config's.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data lies, if not where training read it.")
FF = flags.DEFINE_list("ff", [], "Folders of fixed-feature runs to draw beside this one.")
MULTIHOST = flags.DEFINE_enum("multihost", "auto", ["auto", "on", "off"], "Whether to join other processes (README).")


def evaluate(path: pathlib.Path, config: ml_collections.ConfigDict, step: int, names: list[str]) -> results.Values:
    """The values of the named evaluators, by evaluator, for the checkpoint of `step`."""
    run = parts.assemble(config)
    with jax.set_mesh(run.mesh):
        state = checkpoints.load(path / "checkpoints", step, run.abstract_state)
        store = parts.feature_store(run, parts.make_embed(run), variables_of(state))
        values = {name: dict(run.evaluators[name].run(store)) for name in names}
    untrained = sorted({m for v in values.values() for _, m in map(results.split_name, v)} - set(run.nesting.dims))
    if untrained:
        print(f"not trained, evaluated all the same: dims {untrained} (trained: {list(run.nesting.dims)})")
    print(results.table(values, run.nesting, step))
    if jax.process_index() == 0:
        command = shlex.join(["python", "-m", "mrl_jax.evaluate", *sys.argv[1:]])
        results.write(path, values, step=step, nesting=run.nesting, head=config.head, command=command)
        results.plot(path / "plots" / "accuracy.png", values, run.nesting, _beside(FF.value))
        report.write(path)
        print(f"wrote {path}/results/*.json, {path}/plots/accuracy.png and {path}/report.html")
    return values


def _beside(workdirs: list[str]) -> list[tuple[str, str, int, float]]:
    """The points of fixed-feature runs, each at its own dim."""
    points = []
    for other in workdirs:
        found = results.read(other)
        for name, curve in results.curves({k: v["values"] for k, v in found.items()}).items():
            dim = max(m for result in found.values() for m in result["trained_dims"])
            if dim in curve:
                points.append((other, name, dim, curve[dim]))
    return points


def _checkpoint(path: pathlib.Path, step: int | None) -> int:
    directory = path / "checkpoints"
    if step is None:
        found = checkpoints.newest(directory)
        if found is None:
            raise FileNotFoundError(f"{directory} holds no finished checkpoint yet: run mrl_jax.train on it first")
        return found
    if step not in checkpoints.steps(directory):
        raise FileNotFoundError(f"--step={step} is not in {directory}, which holds {checkpoints.steps(directory)}")
    reason = checkpoints.damage(directory / str(step))
    if reason:
        raise ValueError(f"--step={step}: the checkpoint is damaged: {reason}; leave --step out for the newest intact one")
    return step


def _config(path: pathlib.Path, step: int) -> ml_collections.ConfigDict:
    config = configs.from_json(checkpoints.read_run(path / "checkpoints", step)["config"])
    if DATA_DIR.value:
        config.data.dir = DATA_DIR.value
    if DIMS.value:
        if not all(dim.isdigit() for dim in DIMS.value):
            raise ValueError(f"--dims={','.join(DIMS.value)}: give whole numbers separated by commas, for example 8,12,16")
        for evaluator in config.evals.values():
            evaluator.dims = tuple(int(dim) for dim in DIMS.value)
    return config


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    distributed.initialize(MULTIHOST.value)
    path = pathlib.Path(WORKDIR.value)
    workdir.read_config(path)
    step = _checkpoint(path, STEP.value)
    config = _config(path, step)
    unknown = [name for name in EVALS.value if name not in config.evals]
    if unknown:
        raise ValueError(f"--evals={unknown} not among the run's evaluators {sorted(config.evals)}")
    evaluate(path, config, step, EVALS.value or list(config.evals))


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    commands.run(main)
