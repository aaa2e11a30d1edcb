"""A profiler trace of a few steps, on request."""

import os
from typing import Any

import jax


class Trace:
    """Traces `steps` steps from `first_step` on (-1: none) into a folder that TensorBoard and Perfetto read."""

    def __init__(self, directory: os.PathLike | str, first_step: int, steps: int):
        """Nothing starts before `first_step` updates are done."""
        self._directory, self._first, self._last = str(directory), first_step, first_step + steps
        self._running = False

    def before(self, step: int) -> None:
        """To be called before each update, with the number of updates done."""
        if step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """To be called after each update is dispatched; ends the trace when its last step's `result` is there."""
        if self._running and step == self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes a trace that is still running; to be called when the run ends, before its last step or after it."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
