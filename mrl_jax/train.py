"""Pretrains a nested representation; the same command continues an interrupted run.

python -m mrl_jax.train --config=configs/quickstart.py --workdir=runs/q
python -m mrl_jax.train --config=configs/quickstart.py:mrl_e --workdir=runs/q_e --config.optim.lr=0.005
"""

import contextlib
import pathlib
from typing import Any

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from mrl_jax import checkpoints, commands, distributed, flops, parts, report, results, sharding, trees, workdir, writers
from mrl_jax import config as configs
from mrl_jax.metrics import Recorder
from mrl_jax.profiling import Trace
from mrl_jax.progress import Progress
from mrl_jax.step import State, variables_of


def train(config: ml_collections.ConfigDict, path: pathlib.Path) -> bool:
    """Runs `config` in the folder `path` until `total_steps` updates are done or SIGTERM asks to stop.

    Returns:
      Whether the run is complete; if not, its state is saved and the same call continues it.
    """
    run = parts.assemble(config)
    workdir.claim(path, config)
    with distributed.together(), jax.set_mesh(run.mesh), contextlib.ExitStack() as stack:
        state, step, evaluated = _restore(run, path)
        writer = writers.open_all(config.log, path, configs.to_json(config), first_step=step)
        stack.callback(writer.close)
        progress = Progress(config.total_steps, step, run.nesting, enabled=jax.process_index() == 0)
        stack.callback(progress.close)
        progress.say(_describe(run, state, step))
        saver = checkpoints.Checkpoints(
            path / "checkpoints", keep=config.checkpoint.keep, keep_period=config.checkpoint.keep_period
        )
        stack.callback(saver.close)
        return _Loop(run, path, writer, progress, saver).run(state, step, evaluated)


def _restore(run: parts.Parts, path: pathlib.Path) -> tuple[State, int, int]:
    """The state to go on from, its step, and the last step at which evaluations were done."""
    directory = path / "checkpoints"
    step = checkpoints.newest(directory)
    checkpoints.set_aside(directory, step)
    if step is None:
        return parts.init_state(run), 0, -1
    return (
        checkpoints.load(directory, step, run.abstract_state),
        step,
        checkpoints.read_run(directory, step)["evaluated"],
    )


class _Loop:
    """Evaluate, save, draw a batch, update; always in this order, so that a checkpoint owes nothing but the steps
    ahead.
    """

    def __init__(
        self, run: parts.Parts, path: pathlib.Path, writer: Any, progress: Progress, saver: checkpoints.Checkpoints
    ):
        self._run, self._config, self._path = run, run.config, path
        self._writer, self._progress, self._saver = writer, progress, saver
        self._embed = parts.make_embed(run)
        self._updates: dict[tuple[int, ...], tuple[Any, int]] = {}  # by the shape of the images

    def run(self, state: State, step: int, evaluated: int) -> bool:
        config, preemption = self._config, distributed.Preemption()
        saved, batches, shape, recorder = step, None, None, None
        trace = Trace(self._path / "profile", config.profile.first_step, config.profile.steps)
        while True:
            stop = preemption.reached(step)
            due = [] if stop or step == evaluated else self._due_evaluators(step)
            save = step != saved and (stop or step % config.checkpoint.every == 0 or step == config.total_steps)
            if recorder and (due or save):
                recorder.flush()
            if due:
                self._evaluate(state, step, due)
                evaluated = step
            if save:
                self._saver.save(step, state, self._record_of(evaluated))
                saved = step
            if stop or step == config.total_steps:
                break
            if recorder is None:
                recorder = self._make_recorder()
                batches = parts.train_batches(self._run, step)
            elif due:
                recorder.pause(step)
            with recorder.waiting_for_data():
                batch = sharding.to_devices(next(batches), self._run.mesh)
            if batch["image"].shape != shape:
                shape, update = batch["image"].shape, self._update(batch["image"].shape, recorder, step)
            trace.before(step)
            state, measured = update(state, batch)
            step += 1
            trace.after(step, measured)
            recorder.push(step, measured)
        self._saver.wait()
        self._progress.say(self._farewell(step, stopped=step < config.total_steps))
        return step == config.total_steps

    def _due_evaluators(self, step: int) -> list[str]:
        last = step == self._config.total_steps
        return [n for n, e in self._config.evals.items() if last or (e.every and step and step % e.every == 0)]

    def _evaluate(self, state: State, step: int, names: list[str]) -> None:
        store = parts.feature_store(self._run, self._embed, variables_of(state))
        values = {name: dict(self._run.evaluators[name].run(store)) for name in names}
        self._writer.write(step, {f"{name}/{key}": v for name, found in values.items() for key, v in found.items()})
        self._progress.say(results.table(values, self._run.nesting, step))
        if jax.process_index() == 0:
            command = f"python -m mrl_jax.evaluate --workdir={self._path} --step={step}"
            results.write(
                self._path, values, step=step, nesting=self._run.nesting, head=self._config.head, command=command
            )
            if step == self._config.total_steps:
                results.plot(self._path / "plots" / "accuracy.png", values, self._run.nesting)
                report.write(self._path, configs.to_json(self._config))

    def _record_of(self, evaluated: int) -> dict[str, Any]:
        """What a checkpoint holds beside the state: enough for a probe to need nothing but the checkpoint."""
        nesting = {"dims": self._run.nesting.dims, "weights": self._run.nesting.weights}
        return {
            "config": configs.to_json(self._config),
            "nesting": nesting,
            "widths": [1.0],
            "num_classes": self._run.train_source.num_classes,
            "evaluated": evaluated,
        }

    def _update(self, shape: tuple[int, ...], recorder: Recorder, step: int) -> Any:
        """The update on images of this shape, compiled at the first of them."""
        if shape not in self._updates:
            batch = parts.batch_of_shape(self._run.abstract_batch, shape)
            traced = parts.jit_train_step(self._run).trace(self._run.abstract_state, batch)
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
        )

    def _farewell(self, step: int, *, stopped: bool) -> str:
        if stopped:
            return f"Stopped at step {step} of {self._config.total_steps}, saved. Run the same command to continue."
        return f"Done: {step} updates. Results, plots and checkpoints are in {self._path}; see {self._path}/report.html"


def _describe(run: parts.Parts, state: State, step: int) -> str:
    size = trees.count(state.params)
    devices = jax.devices()
    begun = f"continuing from step {step}" if step else "starting"
    return (
        f"{run.config.model.name} {run.config.model.variant}, head {run.config.head}, dims {run.nesting.dims}, "
        f"{size / 1e6:.2f} M parameters; {run.config.data.name}: {len(run.train_source.records)} images, "
        f"{run.train_source.num_classes} classes; {len(devices)} x {devices[0].device_kind}; {begun}"
    )


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    distributed.initialize(flags.FLAGS.multihost)
    path = pathlib.Path(flags.FLAGS.workdir)
    with workdir.owned(path):
        train(flags.FLAGS.config, path)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/, as configs/x.py:mode.", lock_config=True)
    flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, results, plots. Rerun to continue.")
    flags.DEFINE_enum("multihost", "auto", ["auto", "on", "off"], "Whether to join other processes (README).")
    flags.mark_flags_as_required(["config", "workdir"])
    commands.run(main)
