"""A run's folder: owned by one process at a time, and by one config for good."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections

from mrl_jax import config as configs
from mrl_jax.writers import read_object, write_json


@contextlib.contextmanager
def owned(workdir: os.PathLike | str, flag: str = "--workdir") -> Iterator[pathlib.Path]:
    """Holds the folder (that `flag` named) for this run; the operating system lets go of it however the process ends.

    In a run of several processes the first one holds it for all.

    Raises:
      RuntimeError: if another run holds it.
      OSError: if it cannot be written to.
    """
    path = pathlib.Path(workdir)
    if jax.process_index() != 0:
        yield path
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115  (held until the run ends)
    except OSError as error:
        raise OSError(f"{flag}={path} cannot be written to ({error.strerror}): choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RuntimeError(
                f"{flag}={path} is in use by another run ({lock.read().strip() or 'unknown'}): wait for it, "
                f"stop it, or choose another {flag}"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield path


def check(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises ValueError, naming the fields, if the folder holds a run of another config."""
    if (workdir / "config.json").exists():
        configs.check_resumable(read_config(workdir), configs.to_json(config), workdir)


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes `config.json`: from now on the folder is of this run."""
    if jax.process_index() == 0:
        write_json(workdir / "config.json", configs.to_json(config))


def read_config(workdir: os.PathLike | str) -> Mapping[str, Any]:
    """The resolved config of a run, as JSON values.

    Raises:
      ValueError: if the file is damaged.
      OSError: if it cannot be read.
    """
    path = pathlib.Path(workdir) / "config.json"
    return read_object(path, "restore it from `config` in a checkpoint's manifest.json")
