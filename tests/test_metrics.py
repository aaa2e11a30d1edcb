"""What is written of a step: rates that fit the clock, and the end of a run that is not finite."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import metrics
from mrl_jax.nesting import Nesting
from mrl_jax.progress import Progress


class Writer:
    def __init__(self):
        self.lines = {}

    def write(self, step, values):
        self.lines[step] = values


def recorder(monkeypatch, **options):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    writer = Writer()
    progress = Progress(100, 0, Nesting((4,)), enabled=False)
    defaults = {"every": 1, "batch_size": 8, "peak_flops": 5.0, "patience": 1}
    found = metrics.Recorder(writer, progress, lambda count: 0.1 * count, **defaults | options)
    found.switch(0, 10)
    return clock, writer, found


def measured(loss=1.0, non_finite=0, **more):
    values = {"train/loss": loss, "train/grad_norm": loss, "non_finite": non_finite, **more}
    return {name: jnp.asarray(value) for name, value in values.items()}


def rates(writer):
    return {s: line.get("train/examples_per_second") for s, line in writer.lines.items()}


@pytest.mark.parametrize("every", [1, 5])
def test_rates_are_those_of_steady_steps(monkeypatch, every):
    """Compilation, and a pause of any length, are in no rate; a flush makes none of them infinite."""
    clock, writer, found = recorder(monkeypatch, every=every)
    for step in range(1, 21):
        clock[0] += 60 if step == 1 else 0.5
        found.push(step, measured())
        if step == 10:
            found.flush()
            clock[0] += 1000
            found.pause(step)
    found.flush()
    known = {s: rate for s, rate in rates(writer).items() if rate is not None}
    assert set(known) == ({*range(3, 11), *range(13, 21)} if every == 1 else {5, 10, 15, 20})
    np.testing.assert_allclose(list(known.values()), 16.0)
    np.testing.assert_allclose(writer.lines[20]["train/mfu"], 2 * 10 / 5 / 8)  # eight devices
    assert not any("non_finite" in line for line in writer.lines.values())


def test_the_run_ends_at_the_first_step_or_after_its_patience(monkeypatch):
    _, _, found = recorder(monkeypatch)
    found.push(1, measured(float("nan"), 1))
    with pytest.raises(FloatingPointError, match=r"step 1: train/loss is nan.*lower optim\.lr"):
        found.flush()
    _, writer, found = recorder(monkeypatch, patience=3)
    for step in (1, 2, 3):
        found.push(step, measured(float("inf"), step, **{"train/skipped": step}))
    with pytest.raises(FloatingPointError, match=r"step 3: .*3 steps in a row"):
        found.flush()
    assert writer.lines[2]["train/skipped"] == 2


def test_a_skipped_step_does_not_advance_the_rate_shown(monkeypatch):
    clock, writer, found = recorder(monkeypatch, patience=5)
    for step, loss, in_a_row, skipped in ((1, 1.0, 0, 0), (2, float("nan"), 1, 1), (3, 1.0, 0, 1)):
        clock[0] += 0.5
        found.push(step, measured(loss, in_a_row, **{"train/skipped": skipped}))
    found.flush()
    np.testing.assert_allclose([writer.lines[s]["train/lr"] for s in (1, 2, 3)], [0.0, 0.0, 0.1], atol=1e-7)


def test_the_device_s_memory_is_written_where_it_is_known(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.memory_stats = lambda: peak and {"peak_bytes_in_use": peak * 2**30}

    monkeypatch.setattr(metrics.jax, "local_devices", lambda: [Device(3), Device(5), Device(None)])
    assert metrics._memory() == {"train/memory_gib": 5.0}
    monkeypatch.setattr(metrics.jax, "local_devices", lambda: [Device(None)])
    assert metrics._memory() == {}


def test_the_time_left_is_not_that_of_the_compilation(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress(10, 0, Nesting((4,)), enabled=True)
    clock[0] += 3600
    progress.advance(1)
    progress.report(1, {"train/loss": 1.0})
    clock[0] += 2
    progress.advance(2)
    progress.report(2, {"train/loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1/10  ? left")
    assert lines[1].startswith("step 2/10  00:16 left")
