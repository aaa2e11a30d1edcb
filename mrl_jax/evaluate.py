"""Evaluates a checkpoint at every dim: prints a table, writes results/*.json, plots/accuracy.png and report.html.

python -m mrl_jax.evaluate --workdir=runs/q
python -m mrl_jax.evaluate --workdir=runs/q --dims=8,12,16 --ff=runs/ff8,runs/ff16
"""

import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from absl import flags

from mrl_jax import checkpoints, commands, distributed, parts, report, results
from mrl_jax import config as configs
from mrl_jax.choices import choose
from mrl_jax.step import variables_of


def evaluate(
    path: pathlib.Path, config: ml_collections.ConfigDict, step: int, names: Sequence[str], ff: Sequence[str] = ()
) -> results.Values:
    """Runs the named evaluators on the checkpoint of `step`; prints, writes and returns their values.

    Args:
      path: the run's folder, of which only `checkpoints/` is read.
      config: the run's, as `config_of` gives it.
      step: a step of `checkpoints/`.
      names: of `config.evals`.
      ff: folders of fixed-feature runs, evaluated before, to draw beside this one.
    """
    run = parts.assemble(config)
    with jax.set_mesh(run.mesh):
        state = checkpoints.load(path / "checkpoints", step, run.abstract_state)
        store = parts.feature_store(run, parts.make_embed(run), variables_of(state))
        values = {name: dict(run.evaluators[name].run(store)) for name in names}
    if jax.process_index() == 0:
        untrained = sorted({m for v in values.values() for _, m in map(results.split_name, v)} - set(run.nesting.dims))
        if untrained:
            print(f"Not trained, evaluated all the same: dims {untrained} (trained: {list(run.nesting.dims)}).")
        print(results.table(values, run.nesting, step))
        command = shlex.join(["python", "-m", "mrl_jax.evaluate", *sys.argv[1:]])
        results.write(path, values, step=step, nesting=run.nesting, head=config.head, command=command)
        results.plot(path / "plots" / "accuracy.png", values, run.nesting, _beside(ff))
        page = report.write(path, configs.to_json(config))
        print(f"Wrote {path}/results/*.json, {path}/plots/accuracy.png and {page}")
    return values


def config_of(path: pathlib.Path, step: int, dims: Sequence[str] = (), data_dir: str | None = None) -> Any:
    """The config that a checkpoint holds, on the devices at hand, with other dims or another data folder if given.

    Raises:
      ValueError: if dims are not whole numbers.
    """
    config = configs.from_json(checkpoints.read_run(path / "checkpoints", step)["config"]).unlock()
    # Parameters that were split stay split, over whatever devices there are now.
    split = config.mesh.fsdp > 1
    config.mesh = {"data": 1 if split else -1, "fsdp": -1 if split else 1, "model": 1}
    config.batch_size = config.data.eval_batch_size
    if data_dir:
        config.data.dir = data_dir
    if not all(dim.isdecimal() for dim in dims):
        raise ValueError(f"--dims={','.join(dims)}: give whole numbers separated by commas, for example 8,12,16")
    for evaluator in config.evals.values():
        evaluator.dims = tuple(int(dim) for dim in dims) or evaluator.dims
    return config.lock()


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


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    distributed.initialize(options.multihost)
    path = pathlib.Path(options.workdir)
    step = _checkpoint(path, options.step)
    config = config_of(path, step, options.dims, options.data_dir)
    for name in options.evals:
        choose("--evals", name, config.evals)
    evaluate(path, config, step, options.evals or list(config.evals), options.ff)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run.")
    flags.DEFINE_integer("step", None, "Which checkpoint; by default the newest intact one.")
    flags.DEFINE_list("evals", [], "Names of config.evals to run; by default all of them.")
    flags.DEFINE_list("dims", [], "Dims to evaluate, trained or not; by default the config's.")
    flags.DEFINE_string("data_dir", None, "Where the data lies, if not where training read it.")
    flags.DEFINE_list("ff", [], "Folders of fixed-feature runs to draw beside this one.")
    flags.DEFINE_enum("multihost", "auto", ["auto", "on", "off"], "Whether to join other processes (README).")
    flags.mark_flag_as_required("workdir")
    commands.run(main)
