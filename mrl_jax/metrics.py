"""Measurements of training: read one step behind the device, checked, timed and written."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from mrl_jax.progress import Progress
from mrl_jax.writers import Writer


class Recorder:
    """Takes each step's measurements while they are still being computed, and writes those of every `every`-th step.

    Step n is dispatched before the measurements of n - 1 are read, so that reading never makes the device wait.
    """

    def __init__(
        self,
        writer: Writer,
        progress: Progress,
        schedule: Callable[[Any], Any],
        *,
        every: int,
        batch_size: int,
        peak_flops: float | None,
        patience: int,
    ):
        """Starts the clock.

        Args:
          writer: gets the scalars.
          progress: shows them.
          schedule: learning rate by number of updates done.
          every: steps between two lines.
          batch_size: examples per step, of all devices together.
          peak_flops: the peak of one device; None where it is not known, then there is no MFU.
          patience: so many steps in a row whose loss or gradient is not finite end the run.
        """
        self._writer, self._progress, self._schedule, self._every = writer, progress, schedule, every
        self._batch_size, self._patience = batch_size, patience
        self._peak_flops, self._utilisation = peak_flops, None
        self._pending: tuple[int, Mapping[str, jax.Array], float] | None = None
        self._waited, self._since, self._at, self._base = 0.0, None, 0, None

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time inside as spent waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def push(self, step: int, measured: Mapping[str, jax.Array]) -> None:
        """Takes the measurements of `step`, then reads those of the step before."""
        now = time.monotonic()
        previous, self._pending = self._pending, (step, measured, now)
        if previous is not None:
            self._record(*previous)
        if self._base is None:
            # The first step ends its compilation and the filling of the input queue: not counted in any rate.
            jax.block_until_ready(measured)
            self.pause(step)
        elif step == self._base:
            self._restart(step, now)
        self._progress.advance(step)

    def flush(self) -> None:
        """Reads what is still pending: before an evaluation or a checkpoint, and at the end."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._record(*pending)

    def pause(self, step: int) -> None:
        """Leaves out of the rates what was done since the last step (an evaluation, a save)."""
        # Nothing is under way now, so that the next two dispatches wait for nothing; from then on each waits for the
        # step before the last, and the time between two dispatches is that of a step.
        self._base, self._since = step + 2, None

    def switch(self, step: int, flops_per_step: int) -> None:
        """From now on a step has so many operations, of all devices together; the rates begin anew."""
        if self._peak_flops:
            self._utilisation = flops_per_step / (self._peak_flops * jax.device_count())
        self.pause(step)

    def _restart(self, step: int, since: float) -> None:
        self._waited, self._since, self._at = 0.0, since, step

    def _record(self, step: int, measured: Mapping[str, jax.Array], now: float) -> None:
        in_a_row = int(measured["non_finite"])
        if in_a_row >= self._patience:
            raise FloatingPointError(
                f"step {step}: train/loss is {float(measured['train/loss'])} and the norm of its gradient "
                f"{float(measured['train/grad_norm'])}{f', {in_a_row} steps in a row' if in_a_row > 1 else ''}: lower "
                "optim.lr, set optim.clip_norm, or check the data; the newest checkpoint is from before it"
            )
        if step % self._every:
            return
        values = {name: float(value) for name, value in jax.device_get(measured).items() if name != "non_finite"}
        # A skipped update does not advance the schedule.
        values["train/lr"] = float(self._schedule(max(step - int(values.get("train/skipped", 0)) - 1, 0)))
        values |= _memory()
        if self._since is not None and step > self._at:
            seconds = now - self._since
            steps_per_second = (step - self._at) / seconds
            values["train/examples_per_second"] = steps_per_second * self._batch_size
            values["train/data_wait"] = min(self._waited / seconds, 1.0)
            if self._utilisation is not None:
                values["train/mfu"] = steps_per_second * self._utilisation
            self._restart(step, now)
        self._writer.write(step, values)
        self._progress.report(step, values)


def _memory() -> dict[str, float]:
    """The most memory that any device of this process has used so far, where the backend says (CPU does not)."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found]
    return {"train/memory_gib": max(peaks) / 2**30} if peaks else {}
