"""Start-up of several processes, and an end that all of them agree on."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
from absl import logging
from jax.experimental import multihost_utils


def initialize(multihost: str = "auto") -> None:
    """Joins the other processes of the run; to be called before anything else asks for devices.

    Explicit is JAX_COORDINATOR_ADDRESS (host:port) with JAX_NUM_PROCESSES and JAX_PROCESS_ID. Otherwise JAX finds the
    others by itself on TPU pods, SLURM and Open MPI, and with "on" wherever else it can. JAX_HEARTBEAT_TIMEOUT
    (seconds, default 100) is how long a silent process is waited for before the others end with an error.

    Args:
      multihost: "auto": where the environment names several processes; "on": always (a TPU pod outside GKE has no such
        variable); "off": never.

    Raises:
      ValueError: if only some of the three variables are set.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [os.environ.get(name) for name in names]
    explicit = all(given) if not _in_cluster() else all(given[1:])
    if multihost == "off" or (multihost == "auto" and not any(given) and not _in_cluster()):
        return
    if any(given) and not explicit and not _in_cluster():
        missing = [name for name, value in zip(names, given) if not value]
        raise ValueError(f"{', '.join(missing)} not set: several processes need all of {', '.join(names)}")
    numbers = {"num_processes": int(given[1]), "process_id": int(given[2])} if explicit else {}
    heartbeat = int(os.environ.get("JAX_HEARTBEAT_TIMEOUT", "100"))
    jax.distributed.initialize(**numbers, heartbeat_timeout_seconds=heartbeat)
    if _alone_on_its_node():
        for platform in ("cuda", "rocm"):  # JAX would take the first device alone, as if each had a process of its own
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def _in_cluster() -> bool:
    # Of an allocation with many tasks, a step (such as a batch script itself) may have one.
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1"))
    several = max(int(tasks), int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))) > 1
    return several or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _alone_on_its_node() -> bool:
    """Whether SLURM or Open MPI says that no other process of this run is on the machine."""
    tasks, nodes = (os.environ.get(f"SLURM_STEP_NUM_{what}") for what in ("TASKS", "NODES"))
    return (tasks is not None and tasks == nodes) or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turns the runtime's error about a process that is gone into one that says what to do.

    Raises:
      LostProcessError: in place of it.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(word in str(error) for word in _GONE):
            raise
        raise LostProcessError(
            f"process {jax.process_index()} lost another process of this run, so it ends as well (see that one's log; "
            f"here: {str(error).splitlines()[0][:200]}). Run the same command on every host to continue from the last "
            "checkpoint"
        ) from error


class LostProcessError(RuntimeError):
    """Another process of the run has died."""


# What the collectives and the coordination service call a peer that does not answer.
_GONE = ("Gloo", "NCCL", "heartbeat", "UNAVAILABLE", "Connection", "unhealthy")


class Interrupted(BaseException):
    """SIGTERM came where work may be thrown away; no Exception, which what it interrupts might take for its own."""


class Preemption:
    """SIGTERM turned into a step at which every process saves and stops."""

    def __init__(self):
        """Catches SIGTERM; with several processes JAX's own service does, and agrees on the step."""
        self._asked, self._interrupts = threading.Event(), False
        self._several = jax.process_count() > 1
        if not self._several and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_):
        self._asked.set()
        if self._interrupts:
            self._interrupts = False
            raise Interrupted

    def reached(self, step: int) -> bool:
        """Whether to save and stop now; called once by every process at every step."""
        stop = multihost_utils.reached_preemption_sync_point(step) if self._several else self._asked.is_set()
        if stop:
            logging.warning("asked to stop (SIGTERM) at step %d", step)
        return stop

    @contextlib.contextmanager
    def interrupting(self):
        """Raises Interrupted at once when SIGTERM comes in this block, which must leave nothing half-done.

        One of several processes cannot leave alone: they are asked at the next step.
        """
        self._interrupts = not self._several
        try:
            if self._interrupts and self._asked.is_set():
                raise Interrupted
            yield
        finally:
            self._interrupts = False
