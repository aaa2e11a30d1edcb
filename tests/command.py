"""Runs the project's commands as a user does: real processes, killed or left to finish."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from mrl_jax import checkpoints, writers

ROOT = pathlib.Path(__file__).parent.parent


def start(module: str, *arguments: str, devices: int = 1, **environment: str) -> subprocess.Popen:
    """`python -m module arguments` in its own process group, its output captured."""
    caching = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_")
    env = {k: v for k, v in os.environ.items() if k.startswith(caching) or not k.startswith(("JAX_", "XLA_", "SLURM_"))}
    flags = f"--xla_force_host_platform_device_count={devices} {env['CHEAP_XLA_FLAGS']}"
    env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | environment
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(workdir: pathlib.Path, *arguments: str, config: str = "tests/tiny.py", **options) -> subprocess.Popen:
    return start("mrl_jax.train", f"--config={config}", f"--workdir={workdir}", *arguments, **options)


def finish(process: subprocess.Popen, expect: int = 0, timeout: float = 120) -> str:
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == expect, f"exit status {process.returncode}:\n{output}"
    return output


def kill_when(process: subprocess.Popen, condition, how: int = signal.SIGKILL, timeout: float = 120) -> None:
    """Sends the signal as soon as `condition()` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"ended before it could be killed:\n{process.stdout.read()}"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.0005)
    os.killpg(process.pid, how)


def logged(workdir: pathlib.Path) -> dict[int, dict[str, float]]:
    """Everything in metrics.jsonl by step, but what depends on the clock."""
    lines: dict[int, dict[str, float]] = {}
    path = workdir / "metrics.jsonl"
    if path.exists():
        for line in writers.read_lines(path):
            lines.setdefault(line["step"], {}).update(line)
    timed = ("examples_per_second", "data_wait", "mfu", "memory_gib")
    return {s: {k: v for k, v in line.items() if not k.endswith(timed)} for s, line in lines.items()}


def manifest(workdir: pathlib.Path, step: int) -> dict:
    return json.loads((workdir / "checkpoints" / str(step) / checkpoints.MANIFEST).read_text())


def state(workdir: pathlib.Path, step: int) -> list[np.ndarray]:
    """Every array of a checkpoint."""
    import jax

    tree = ocp.load((workdir / "checkpoints" / str(step)).absolute(), checkpointable_name="state")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_run(a: pathlib.Path, b: pathlib.Path, step: int) -> None:
    """Bit-identical state, and every logged value equal."""
    left, right = state(a, step), state(b, step)
    assert len(left) == len(right) > 20
    for x, y in zip(left, right):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()
    assert logged(a) == logged(b)
    assert len(logged(a)) == step
