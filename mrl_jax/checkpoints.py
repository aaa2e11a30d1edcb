"""Checkpoints that are verified before they are trusted; the only file that imports Orbax.

`checkpoints/<step>/` is written asynchronously. A checkpoint exists once its `manifest.json` does: that file is
written last, in one rename, and holds what a probe or a resumed run needs beside the arrays (the resolved config, the
data position, the nesting) with the size and SHA-256 of every other file, and its own. A step without it is an
interrupted save; a step that does not match it is damaged, and the next older one is used. So is one that holds values
that are not finite, which no save writes. `checkpoints.saved`, beside the folder of a run, tells one whose checkpoints
are lost from one that was killed in its first save.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging
from jax.experimental import multihost_utils

from mrl_jax import trees

MANIFEST = "manifest.json"
_FIRST = "first_sha256"  # of the manifest before it was amended
_ARRAYS = "commit_success.txt"  # of Orbax: all the arrays are there


class DamagedError(RuntimeError):
    """Checkpoints were completed here, but none of them is intact."""


class NonFiniteError(ValueError):
    """A checkpoint holds values that are not finite."""


class Checkpoints:
    """The checkpoints of one run: asynchronous verified saves, retention, and restore of the newest intact one."""

    def __init__(self, directory: os.PathLike | str, *, keep: int, keep_period: int, mark: bool = False):
        """Keeps the newest `keep` steps (2 or more: one is intact at any time) and every `keep_period`-th (0: none).

        With `mark`, a file beside the folder says from then on that saves were completed: to find none is an error.
        """
        self._directory = pathlib.Path(directory).absolute()
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)] + ([policies.EveryNSteps(keep_period)] if keep_period else [])
        # Made by the first save: it clears unfinished saves in a thread that only a save waits for, and that would
        # outlive a process which saves nothing.
        self._checkpointer: ocp.training.Checkpointer | None = None
        self._make_checkpointer = functools.partial(
            ocp.training.Checkpointer,
            self._directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        self._mark = mark
        self._commit: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, state: Any, run: Mapping[str, Any]) -> None:
        """Starts saving `state` and the JSON-able `run`; waits for the save before it, and raises if that one
        failed.

        Raises:
          FloatingPointError: if the state holds values that are not finite; nothing is written then.
        """
        self.wait()
        if not trees.all_finite(state):
            raise FloatingPointError(
                f"after step {step} the state holds values that are not finite, so it is not saved: lower optim.lr or "
                f"set optim.clip_norm; the checkpoints below {self._directory} are from before it"
            )
        if self._checkpointer is None:
            self._checkpointer = self._make_checkpointer()
        response = self._checkpointer.save_async(step, state, force=True)

        def commit():
            try:
                response.result()
                if jax.process_index() == 0:
                    _write_manifest(self._directory / str(step), {"step": step, **run})
                    if self._mark:
                        _mark(self._directory).write_text(f"{step}\n", encoding="utf-8")
            except BaseException as error:
                self._failure = error

        self._commit = threading.Thread(target=commit, name=f"commit-{step}")
        self._commit.start()

    def amend(self, step: int, run: Mapping[str, Any]) -> None:
        """Replaces what `save` got as `run`, in one rename; the checkpoint keeps its `digest`."""
        self.wait()
        if jax.process_index() == 0:
            directory = self._directory / str(step)
            files = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
            _write_manifest(directory, {"step": step, **run, _FIRST: digest(self._directory, step)}, files)

    def wait(self) -> None:
        """Returns when the save under way is committed; raises RuntimeError if it failed."""
        if self._commit is not None:
            self._commit.join()
            self._commit = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise RuntimeError(
                f"the checkpoint could not be written below {self._directory}: {failure}. The older ones are "
                "intact: make room or permissions, then run the same command to continue"
            ) from failure

    def close(self) -> None:
        """Waits for the save under way and releases the checkpointer."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()


def _write_manifest(directory: pathlib.Path, run: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> None:
    manifest = {**run, "files": files or _digests(directory)}
    text = json.dumps({**manifest, "sha256": _own_digest(manifest)}, indent=1)
    unfinished = directory / (MANIFEST + ".tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, directory / MANIFEST)


def _own_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _mark(directory: pathlib.Path) -> pathlib.Path:
    """The file that holds the newest step ever completed; beside the folder, so that it outlives it."""
    return directory.with_name(f"{directory.name}.saved")


def _digests(directory: pathlib.Path) -> dict[str, list]:
    digests = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith(MANIFEST):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(directory).as_posix()] = [path.stat().st_size, digest]
    return digests


def damage(directory: pathlib.Path) -> str | None:
    """What is wrong with a completed checkpoint, in words; None where every file is as it was written."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        own, expected = manifest.pop("sha256", None), manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    if own is not None and own != _own_digest(manifest):  # older versions wrote none
        return f"the content of {MANIFEST} has changed"
    if directory.name.isdigit() and int(directory.name) != manifest.get("step", int(directory.name)):
        return f"it is that of step {manifest['step']}: give its folder that name again"
    found = _digests(directory)
    for name, (size, digest) in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != size:
            return f"{name} has {found[name][0]} bytes instead of {size}"
        if found[name][1] != digest:
            return f"the content of {name} has changed"
    return None


def steps(directory: os.PathLike | str) -> list[int]:
    """The steps with a folder in a checkpoints directory, newest first, complete or not."""
    path = pathlib.Path(directory)
    named = (p.name for p in path.iterdir() if p.is_dir()) if path.is_dir() else ()
    return sorted((int(name) for name in named if re.fullmatch("0|[1-9][0-9]*", name)), reverse=True)


def begun(directory: os.PathLike | str) -> bool:
    """Whether a save was ever completed in a checkpoints directory, or left anything there."""
    return bool(steps(directory)) or _mark(pathlib.Path(directory)).exists()


def newest(directory: os.PathLike | str, below: int | None = None) -> int | None:
    """The newest intact step, or None where no save was ever completed; every one passed over is reported.

    Args:
      directory: the folder `checkpoints/`.
      below: a step found to be of no use; it and those after it are passed over.

    Raises:
      DamagedError: if saves were completed but none is intact.
    """
    step = _newest_here(pathlib.Path(directory), below) if jax.process_index() == 0 else -1
    if jax.process_count() > 1:
        step = int(multihost_utils.broadcast_one_to_all(step))
    if step == -2:
        raise DamagedError(
            f"no checkpoint below {directory} is intact, and saves were completed there (what is left of them is "
            "listed above): restore one from a copy, or start again in a new --workdir"
        )
    return None if step == -1 else step


def _newest_here(directory: pathlib.Path, below: int | None) -> int:
    damaged = below is not None
    for step in steps(directory):
        if below is not None and step >= below:
            continue
        if not (directory / str(step) / MANIFEST).exists():
            if (directory / str(step) / _ARRAYS).exists():
                logging.error("checkpoint %s/%d: %s is missing, not used", directory, step, MANIFEST)
            else:
                logging.warning("checkpoint %s/%d: its save was interrupted, not used", directory, step)
            continue
        reason = damage(directory / str(step))
        if reason is None:
            return step
        damaged = True
        logging.error("checkpoint %s/%d is damaged: %s; trying the next older one", directory, step, reason)
    return -2 if damaged or _mark(directory).exists() else -1


def set_aside(directory: os.PathLike | str, after: int | None) -> None:
    """Clears the steps newer than `after` (None: all): saves interrupted before all arrays were there are deleted, the
    others moved to `damaged/`.
    """
    directory = pathlib.Path(directory)
    if jax.process_index() == 0:
        for step in steps(directory):
            if after is not None and step <= after:
                continue
            source = directory / str(step)
            if (source / MANIFEST).exists() or (source / _ARRAYS).exists():
                target = directory.parent / "damaged" / str(step)
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                source.rename(target)
            else:
                shutil.rmtree(source)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("set_aside")


def digest(directory: os.PathLike | str, step: int) -> str:
    """What tells a checkpoint from any other: the SHA-256 of its manifest as saved, which lists every file's."""
    content = (pathlib.Path(directory) / str(step) / MANIFEST).read_bytes()
    return json.loads(content).get(_FIRST) or hashlib.sha256(content).hexdigest()


def read_run(directory: os.PathLike | str, step: int) -> dict[str, Any]:
    """What `save` got as `run`, and `step`."""
    manifest = json.loads((pathlib.Path(directory) / str(step) / MANIFEST).read_text(encoding="utf-8"))
    return {name: value for name, value in manifest.items() if name not in ("files", "sha256", _FIRST)}


def load(directory: os.PathLike | str, step: int, abstract_state: Any) -> Any:
    """The state saved at `step`, each leaf with the shape, dtype and sharding of `abstract_state`.

    Of a dict only the fields named are read.

    Raises:
      NonFiniteError: if it holds values that are not finite.
    """
    path = pathlib.Path(directory).absolute() / str(step)
    context = ocp.Context()
    context.pytree.loading.partial_load = isinstance(abstract_state, dict)
    with context:
        state = ocp.load(path, abstract_state, checkpointable_name="state")
    if not trees.all_finite(state):
        raise NonFiniteError(f"checkpoint {path} holds values that are not finite: take an older step")
    return state


def load_parts(directory: os.PathLike | str, step: int, abstract_parts: Mapping[str, Any]) -> dict[str, Any]:
    """Of the state saved at `step` the fields named, each leaf as in `load`; what else they hold is not read."""
    found = load(directory, step, _without_empty(abstract_parts))
    return jax.tree.unflatten(jax.tree.structure(dict(abstract_parts)), jax.tree.leaves(found))


def _without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    # Orbax takes an empty dict for a leaf, where the saved one holds something that is not asked for.
    pruned = {name: _without_empty(node) if isinstance(node, Mapping) else node for name, node in tree.items()}
    return {name: node for name, node in pruned.items() if jax.tree.leaves(node)}


def load_on_host(directory: os.PathLike | str, step: int, fields: Sequence[str]) -> dict[str, Any]:
    """Of the state saved at `step` these fields, whatever their shapes, as numpy arrays."""
    path = pathlib.Path(directory).absolute() / str(step)
    saved = ocp.metadata(path, checkpointable_name="state").metadata
    return load(directory, step, {f: jax.tree.map(lambda a: np.empty(a.shape, a.dtype), saved[f]) for f in fields})


def newest_finite(directory: os.PathLike | str, fields: Sequence[str]) -> int | None:
    """The newest intact step that is finite in these fields of its state; errors and reports are those of `newest`."""
    step = newest(directory)
    while step is not None:
        try:
            load_on_host(directory, step, fields)
            return step
        except NonFiniteError as error:
            logging.error("%s; trying the next older one", error)
            step = newest(directory, below=step)
    return None


def restore(
    directory: os.PathLike | str, abstract_state: Any, check: Callable[[dict[str, Any]], None] = lambda run: None
) -> tuple[int, Any] | None:
    """The newest step that is intact and finite, and its state as `load` gives it; None where no save was completed.

    Args:
      directory: the folder `checkpoints/`.
      abstract_state: as `load` takes it.
      check: gets what `read_run` gives before the state is read, and may raise.

    Raises:
      DamagedError: if saves were completed but none is intact and finite.
    """
    step = newest(directory)
    while step is not None:
        check(read_run(directory, step))
        try:
            return step, load(directory, step, abstract_state)
        except NonFiniteError as error:
            logging.error("%s; trying the next older one", error)
            step = newest(directory, below=step)
    return None
