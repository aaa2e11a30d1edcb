"""Pretrains a nested representation; the same command continues an interrupted run.

python -m mrl_jax.train --config=configs/quickstart.py --workdir=runs/q
python -m mrl_jax.train --config=configs/quickstart.py:mrl_e --workdir=runs/q_e --config.optim.lr=0.005
python -m mrl_jax.train --config=configs/quickstart.py --dry_run --devices=8 --accelerator=h100
"""

import contextlib
import gc
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from mrl_jax import (
    checkpoints,
    commands,
    distributed,
    estimate,
    flops,
    host_memory,
    inputs,
    optim,
    parts,
    report,
    results,
    sharding,
    trees,
    workdir,
    writers,
)
from mrl_jax import config as configs
from mrl_jax.metrics import Recorder
from mrl_jax.profiling import Trace
from mrl_jax.progress import Progress
from mrl_jax.start import Start, begin
from mrl_jax.step import State, variables_of


def train(config: ml_collections.ConfigDict, path: pathlib.Path) -> bool:
    """Runs `config` in the folder `path` until `total_steps` updates are done or SIGTERM asks to stop.

    Returns:
      Whether the run is complete; if not, its state is saved and the same call continues it.
    """
    preemption = distributed.Preemption()
    run = parts.assemble(config)
    writers.check(config.log)
    results.check(path)
    if checkpoints.begun(path / "checkpoints"):  # else nothing was done there that another config could spoil
        workdir.check(path, config)
    with distributed.together(), jax.set_mesh(run.mesh), contextlib.ExitStack() as stack:
        start = begin(run, path / "checkpoints")
        workdir.claim(path, config)
        checkpoints.set_aside(path / "checkpoints", start.step or None)
        writer = writers.open_all(config.log, path, configs.to_json(config), first_step=start.step)
        stack.callback(writer.close)
        progress = Progress(config.total_steps, start.step, run.nesting, enabled=jax.process_index() == 0)
        stack.callback(progress.close)
        progress.say(_describe(run, start))
        saver = checkpoints.Checkpoints(
            path / "checkpoints", keep=config.checkpoint.keep, keep_period=config.checkpoint.keep_period, mark=True
        )
        stack.callback(saver.close)
        loop = _Loop(run, path, writer, progress, saver, start.init)
        return loop.run(start, preemption)


class _Loop:
    """Evaluate, save, draw a batch, update; always in this order, so that a checkpoint owes nothing but the steps
    ahead.
    """

    def __init__(
        self,
        run: parts.Parts,
        path: pathlib.Path,
        writer: Any,
        progress: Progress,
        saver: checkpoints.Checkpoints,
        init: dict[str, Any] | None,
    ):
        self._run, self._config, self._path, self._init = run, run.config, path, init
        self._writer, self._progress, self._saver = writer, progress, saver
        self._embeds = parts.make_embeds(run)
        self._updates: dict[Any, tuple[Any, int]] = {}  # by the shapes of the batch

    def run(self, start: Start, preemption: distributed.Preemption) -> bool:
        config, state, step, evaluated = self._config, start.state, start.step, start.evaluated
        saved, batches, shape, recorder = step, None, None, None
        trace = Trace(self._path / "profile", config.profile.first_step, config.profile.steps)
        while True:
            stop = preemption.reached(step)
            due = start.owed if step == evaluated else self._due_evaluators(step)
            due = [] if stop else list(due)
            if recorder and due:
                recorder.flush()
            if due:
                stop = not self._evaluate(state, step, due, preemption)
                evaluated = evaluated if stop else step
                if evaluated == step == saved:  # the save was before: this is not to be measured again
                    self._saver.amend(step, self._record_of(evaluated))
            save = step != saved and (stop or step % config.checkpoint.every == 0 or step == config.total_steps)
            if recorder and save:
                recorder.flush()
            if save:
                self._saver.save(step, state, self._record_of(evaluated))
                saved = step
            if stop or step >= config.total_steps:
                break
            if recorder is None:
                recorder = self._make_recorder()
                batches = parts.train_batches(self._run, step)
            elif due or save:
                recorder.pause(step)
            with recorder.waiting_for_data():
                batch = sharding.to_devices(next(batches), self._run.mesh)
            if _shapes(batch) != shape:
                shape, update = _shapes(batch), self._update(batch, recorder, step)
            trace.before(step)
            state, measured = update(state, batch)
            step += 1
            trace.after(step, measured)
            recorder.push(step, measured)
        trace.close()
        if batches is not None:
            batches.close()
            batch = None
            gc.collect()  # the last blocks of shared memory hang in cycles of references
        self._saver.wait()
        self._progress.say(self._farewell(step, stopped=stop))
        return not stop

    def _due_evaluators(self, step: int) -> list[str]:
        last = step == self._config.total_steps
        return [n for n, e in self._config.evals.items() if last or (e.every and step and step % e.every == 0)]

    def _evaluate(self, state: State, step: int, names: list[str], preemption: distributed.Preemption) -> bool:
        """Measures and writes; False, and nothing written, where SIGTERM cut the measuring off."""
        try:
            with preemption.interrupting():
                values = parts.evaluate(self._run, self._embeds, variables_of(state), names)
        except distributed.Interrupted:
            return False
        self._writer.write(step, {f"{name}/{key}": v for name, found in values.items() for key, v in found.items()})
        self._progress.say(results.table(values, self._run.nesting, step))
        if jax.process_index() == 0:
            command = f"python -m mrl_jax.evaluate --workdir={self._path} --step={step}"
            results.write(
                self._path, values, step=step, nesting=self._run.nesting, head=self._config.head, command=command
            )
            if step == self._config.total_steps:
                found = results.read(self._path)  # those that were not owed too
                values = {n: found[n]["values"] for n in self._config.evals if n in found and found[n]["step"] == step}
                results.plot(self._path / "plots" / "accuracy.png", values, self._run.nesting)
                report.write(self._path, configs.to_json(self._config))
        return True

    def _record_of(self, evaluated: int) -> dict[str, Any]:
        """What a checkpoint holds beside the state: enough for a probe to need nothing but the checkpoint."""
        nesting = {"dims": self._run.nesting.dims, "weights": self._run.nesting.weights}
        return {
            "config": configs.to_json(self._config),
            "nesting": nesting,
            "widths": list(self._run.model.widths),
            "num_classes": self._run.train_source.num_classes,
            "tokenizer": inputs.tokenizer_of(self._run.train_source),
            "evaluated": evaluated,
            "init": self._init,
        }

    def _update(self, batch: Mapping[str, jax.Array], recorder: Recorder, step: int) -> Any:
        """The update on batches of these shapes, compiled at the first of them."""
        shape = _shapes(batch)
        if shape not in self._updates:
            abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
            traced = parts.jit_train_step(self._run).trace(self._run.abstract_state, abstract)
            self._updates[shape] = traced.lower().compile(), flops.of_jaxpr(traced.jaxpr.jaxpr)
        update, flops_per_step = self._updates[shape]
        recorder.switch(step, flops_per_step)
        return update

    def _make_recorder(self) -> Recorder:
        return Recorder(
            self._writer,
            self._progress,
            self._run.schedule,
            every=self._config.log.every,
            batch_size=self._config.batch_size,
            peak_flops=flops.peak(jax.devices()[0]),
            patience=self._config.nan_patience if self._config.nan_policy == "skip" else 1,
        )

    def _farewell(self, step: int, *, stopped: bool) -> str:
        if stopped:
            saved, then = ("saved", "continue") if step else ("nothing to save", "start")
            return f"Stopped at step {step} of {self._config.total_steps}, {saved}. Run the same command to {then}."
        return f"Done: {step} updates. Results, plots and checkpoints are in {self._path}; see {self._path}/report.html"


def _shapes(batch: Mapping[str, jax.Array]) -> tuple:
    return tuple((name, x.shape) for name, x in sorted(batch.items()))


def _describe(run: parts.Parts, start: Start) -> str:
    size = trees.count(start.state.params)
    devices = jax.devices()
    begun = f"continuing from step {start.step}" if start.step else "starting"
    if start.owed:
        begun += f" to evaluate what is new or changed: {', '.join(start.owed)}"
    if start.init and not start.step:
        begun += " from {path}, step {step}, SHA-256 {sha256}".format(**start.init)
    share = inputs.cut_share(run.config, run.train_source)
    cut = f"; data.text.context={run.config.data.text.context} cuts {100 * share:.3g} % of the texts" if share else ""
    total = run.config.total_steps
    long = optim.too_long(run.config.schedule, total)
    cut += "".join(f"; schedule.{name}={value} is cut to total_steps={total}" for name, value in long.items())
    return (
        f"{configs.name_of(run.config.model)}, head {run.config.head}, dims {run.nesting.dims}, "
        f"{size / 1e6:.2f} M parameters; {run.config.data.name}: {len(run.train_source.records)} examples, "
        f"{run.train_source.num_classes} classes; {len(devices)} x {devices[0].device_kind}{cut}; {begun}"
    )


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    options = flags.FLAGS
    if options.dry_run:
        arguments = (options.devices, options.classes, options.accelerator, options.mfu)
        print(estimate.report(options.config, *arguments))
        return
    if not options.workdir:
        raise ValueError("--workdir is missing: name the folder of the run, or add --dry_run for its cost alone")
    distributed.initialize(options.multihost)
    host_memory.keep_freed()
    path = pathlib.Path(options.workdir)
    with workdir.owned(path):
        train(options.config, path)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/, as configs/x.py:mode.", lock_config=True)
    flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, results, plots. Rerun to continue.")
    flags.DEFINE_enum("multihost", "auto", ["auto", "on", "off"], "Whether to join other processes (README).")
    flags.DEFINE_bool("dry_run", False, "Print what a run would cost: no workdir is made; embedded data are prepared.")
    flags.DEFINE_integer("devices", None, "With --dry_run: plan for so many devices; by default those of the mesh.")
    flags.DEFINE_enum("accelerator", "h100", list(flops.ACCELERATORS), "With --dry_run: what the devices will be.")
    flags.DEFINE_float("mfu", 0.35, "With --dry_run: the share of the accelerator's peak to expect, 0 to 1.")
    flags.DEFINE_integer("classes", None, "With --dry_run, if the data is not there yet: plan for so many classes.")
    flags.mark_flag_as_required("config")
    commands.run(main, resumes="the same command continues from the last checkpoint")
