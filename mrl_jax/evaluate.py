"""Evaluates a checkpoint at every dim: prints a table, writes results/*.json, plots/accuracy.png and report.html.

python -m mrl_jax.evaluate --workdir=runs/q
python -m mrl_jax.evaluate --workdir=runs/q --dims=8,12,16 --ff=runs/ff8,runs/ff16
python -m mrl_jax.evaluate --workdir=runs/sfsc --recalibrate=20        # BatchNorm's statistics anew

What an earlier command found of other dims at the same step stays in the files. With --recalibrate the results are of
another model than the checkpoint's, and go to results/NAME_recalibrated.json and plots/accuracy_recalibrated.png beside
those of the checkpoint; `embed` and `export` take the same option. With --flips they are of each image together with
its mirror image, and go to results/NAME_flips.json; `embed` and `study` take it too.
"""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import flags

from mrl_jax import checkpoints, commands, distributed, flips, host_memory, parts, report, results, trained
from mrl_jax import config as configs
from mrl_jax.choices import choose
from mrl_jax.step import EVALUATED, evaluated


def evaluate(
    path: pathlib.Path,
    config: ml_collections.ConfigDict,
    step: int,
    names: Sequence[str],
    ff: Sequence[str] = (),
    recalibrated: int = 0,
    mirror: bool = False,
) -> results.Values:
    """Runs the named evaluators on the checkpoint of `step`; prints, writes and returns their values.

    Args:
      path: the run's folder, of which only `checkpoints/` is read.
      config: the run's, as `trained.config_of` gives it.
      step: a step of `checkpoints/`.
      names: of `config.evals`.
      ff: folders of fixed-feature runs, evaluated in the same way before, to draw beside this one.
      recalibrated: so many training batches that BatchNorm's statistics are computed anew from; 0: as they are.
      mirror: evaluates the mean features of each image and of its mirror image.
    """
    if mirror:
        flips.check(config.data.kind)
    run = trained.assemble(path, step, config)
    trained.check_recalibrated(run, recalibrated)
    with jax.set_mesh(run.mesh):
        wanted = {name: getattr(run.abstract_state, name) for name in EVALUATED}
        variables = evaluated(**checkpoints.load_parts(path / "checkpoints", step, wanted))
        variables = trained.recalibrated(run, variables, recalibrated)
        values = parts.evaluate(run, parts.make_embeds(run, mirror), variables, names)
    suffix = flips.named("_recalibrated" if recalibrated else "", mirror)
    values = {name + suffix: measured for name, measured in values.items()}
    if jax.process_index() == 0:
        untrained = sorted({m for v in values.values() for _, m in map(results.split_name, v)} - set(run.nesting.dims))
        if untrained:
            print(f"Not trained, evaluated all the same: dims {untrained} (trained: {list(run.nesting.dims)}).")
        print(results.table(values, run.nesting, step))
        about = {"step": step, "nesting": run.nesting, "head": config.head, "recalibrated": recalibrated}
        about |= {"views": flips.VIEWS if mirror else 1}
        values = {name: _write(path, name, measured, about) for name, measured in values.items()}
        picture = path / "plots" / f"accuracy{suffix}.png"
        results.plot(picture, values, run.nesting, _beside(ff))
        page = report.write(path, configs.to_json(config))
        print(f"Wrote {path}/results/*{suffix}.json, {picture} and {page}")
    return values


def _write(path: pathlib.Path, name: str, measured: Mapping[str, float], about: Mapping[str, Any]) -> dict[str, float]:
    """Writes one evaluator's results beside those of other dims of the same model, and returns all of them."""
    before, commands = results.earlier(path, name, step=about["step"], recalibrated=about["recalibrated"])
    command = shlex.join(["python", "-m", "mrl_jax.evaluate", *sys.argv[1:]])
    lines = [*(other for other in commands if other != command), command]
    values = {**before, **measured}
    values = {key: values[key] for key in sorted(values, key=lambda key: results.split_name(key)[::-1])}
    results.write(path, {name: values}, command="\n".join(lines), **about)
    return values


def check_alone(workdirs: list[str]) -> None:
    """Raises ValueError for the folder of a run that is not of one dim, FileNotFoundError for one without results."""
    for other in workdirs:
        heads = {result["head"] for result in _of_heads(other).values()} - {"ff"}
        if heads:
            raise ValueError(f"--ff={other} is a run of head {heads.pop()!r}: name runs of head 'ff', of one dim each")


def _of_heads(workdir: str) -> dict[str, dict[str, Any]]:
    """The results of a run's own evaluators: those of probes and studies name no head."""
    return {name: found for name, found in results.read(workdir).items() if found.get("head")}


def _beside(workdirs: list[str]) -> list[tuple[str, str, int, float]]:
    """The points of fixed-feature runs, each at its own dim."""
    points = []
    for other in workdirs:
        found = _of_heads(other)
        for name, curve in results.curves({k: v["values"] for k, v in found.items()}).items():
            dim = max(m for result in found.values() for m in result["trained_dims"])
            if dim in curve:
                points.append((other, name, dim, curve[dim]))
    return points


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    distributed.initialize(options.multihost)
    host_memory.keep_freed()
    path = pathlib.Path(options.workdir)
    step = trained.choose_step(path, options.step)
    results.check(path)
    config = trained.config_of(path, step, options.dims, options.data_dir)
    for name in options.evals:
        choose("--evals", name, config.evals)
    check_alone(options.ff)
    evaluate(path, config, step, options.evals or list(config.evals), options.ff, options.recalibrate, options.flips)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of a trained run.")
    flags.DEFINE_integer("step", None, "Which checkpoint; by default the newest intact one.")
    flags.DEFINE_list("evals", [], "Names of config.evals to run; by default all of them.")
    flags.DEFINE_list("dims", [], "Dims to evaluate, trained or not; by default the config's.")
    flags.DEFINE_string("data_dir", None, "Where the data lies, if not where training read it.")
    flags.DEFINE_integer("recalibrate", 0, "Compute BatchNorm's statistics anew from so many training batches first.")
    flags.DEFINE_bool("flips", False, "Of each image and its mirror image; the results are NAME_flips.")
    flags.DEFINE_list("ff", [], "Folders of fixed-feature runs to draw beside this one.")
    flags.DEFINE_enum("multihost", "auto", ["auto", "on", "off"], "Whether to join other processes (README).")
    flags.mark_flag_as_required("workdir")
    commands.run(main)
