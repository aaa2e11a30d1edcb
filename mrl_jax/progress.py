"""What a person sees while a run goes on: a bar on a terminal, a line per report elsewhere."""

import sys
import time
from collections.abc import Mapping

import tqdm

from mrl_jax.nesting import Nesting


class Progress:
    """Steps done, examples per second, share of the device's peak, time left, and loss and accuracy per dim."""

    def __init__(self, total_steps: int, first_step: int, nesting: Nesting, *, enabled: bool):
        """Prints nothing where not `enabled` (processes other than the first)."""
        self._total, self._nesting, self._enabled = total_steps, nesting, enabled
        # Set by the first step, so that the time left is not that of its compilation.
        self._first, self._began = first_step, None
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Moves the bar to `step`; the clock starts at the end of the first one."""
        if self._began is None:
            self._first, self._began = step, time.monotonic()
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the measurements of `step`."""
        if not self._enabled:
            return
        text = self._text(values)
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            return
        print(f"step {step}/{self._total}  {self._left(step)} left  {text}", flush=True)

    def _left(self, step: int) -> str:
        if self._began is None or step <= self._first:
            return "?"
        rate = (time.monotonic() - self._began) / (step - self._first)
        return tqdm.tqdm.format_interval(rate * (self._total - step))

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._enabled:
            tqdm.tqdm.write(text)
            sys.stdout.flush()

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _text(self, values: Mapping[str, float]) -> str:
        parts = [f"loss {values['train/loss']:.3f}"]
        for name, label in (("loss", "loss@dim"), ("accuracy", "acc@dim")):
            shown = [(m, values.get(f"train/{name}@{m}")) for m in _ends_and_middle(self._nesting.dims)]
            if all(value is not None for _, value in shown):
                parts.append(label + " " + " ".join(f"{m}:{value:.2f}" for m, value in shown))
        if "train/examples_per_second" in values:
            parts.append(f"{values['train/examples_per_second']:.0f} examples/s")
            parts.append(f"data {100 * values['train/data_wait']:.0f}%")
        if "train/mfu" in values:
            parts.append(f"MFU {100 * values['train/mfu']:.1f}%")
        if "train/memory_gib" in values:
            parts.append(f"{values['train/memory_gib']:.1f} GiB")
        if values.get("train/skipped"):
            parts.append(f"skipped {values['train/skipped']:.0f}")
        return "  ".join(parts)


def _ends_and_middle(dims: tuple[int, ...]) -> tuple[int, ...]:
    """At most five dims, so that the line of a dense nesting still fits a terminal."""
    if len(dims) <= 5:
        return dims
    return tuple(dims[i * (len(dims) - 1) // 4] for i in range(5))


class Rows:
    """Rows done, rows per second and time left, on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, label: str, total: int, done: int, *, enabled: bool):
        """Starts the clock with `done` of `total` rows done before; prints nothing where not `enabled`."""
        seconds = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm.tqdm(
            desc=label, total=total, initial=done, unit=" rows", mininterval=seconds, disable=not enabled, ascii=" #"
        )

    def advance(self, rows: int) -> None:
        """Counts rows as done."""
        self._bar.update(rows)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()
