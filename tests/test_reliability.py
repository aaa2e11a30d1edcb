"""What a long run may rely on, shown by killing and damaging real runs."""

import random
import shutil
import signal
import time

import command
import pytest

from mrl_jax import checkpoints

LAST = 12


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "uninterrupted"
    command.finish(command.train(workdir))
    return workdir


def at_step(workdir, step):
    return lambda: max(command.logged(workdir), default=0) >= step


def saving(workdir, step):
    folder = workdir / "checkpoints"
    return lambda: (
        any(p.name.startswith(str(step)) for p in folder.glob("*"))
        and not (folder / str(step) / checkpoints.MANIFEST).exists()
    )


def test_killed_between_steps_continues_bit_identically(uninterrupted, tmp_path):
    workdir = tmp_path / "killed"
    for step in (1, 5):
        process = command.train(workdir)
        command.kill_when(process, at_step(workdir, step))
        command.finish(process, expect=-signal.SIGKILL)
    command.finish(command.train(workdir))
    command.assert_same_run(workdir, uninterrupted, LAST)


def test_killed_inside_a_save_continues_bit_identically(uninterrupted, tmp_path):
    workdir = tmp_path / "killed"
    process = command.train(workdir)
    command.kill_when(process, saving(workdir, 4))
    command.finish(process, expect=-signal.SIGKILL)
    assert not (workdir / "checkpoints" / "4" / checkpoints.MANIFEST).exists()
    command.finish(command.train(workdir))
    command.assert_same_run(workdir, uninterrupted, LAST)


@pytest.mark.slow
def test_killed_at_random_moments_continues_bit_identically(uninterrupted, tmp_path):
    draw, workdir = random.Random(0), tmp_path / "killed"
    for _ in range(8):
        process = command.train(workdir)
        moment = time.monotonic() + draw.uniform(3, 9)
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    command.finish(command.train(workdir))
    command.assert_same_run(workdir, uninterrupted, LAST)


def test_sigterm_saves_and_exits_0(uninterrupted, tmp_path):
    workdir = tmp_path / "stopped"
    process = command.train(workdir, "--config.checkpoint.every=100")
    command.kill_when(process, at_step(workdir, 3), signal.SIGTERM)
    output = command.finish(process)
    assert "saved. Run the same command to continue" in output
    assert len(checkpoints.steps(workdir / "checkpoints")) == 1
    command.finish(command.train(workdir, "--config.checkpoint.every=100"))
    command.assert_same_run(workdir, uninterrupted, LAST)


def test_sigterm_cuts_an_evaluation_off_and_saves(uninterrupted, tmp_path):
    workdir, options = tmp_path / "stopped", ["--config.checkpoint.every=100", "--config.evals.knn.every=6"]
    process = command.train(workdir, *options)
    command.kill_when(process, at_step(workdir, 6), signal.SIGTERM)
    assert "Stopped at step 6 of 12, saved" in command.finish(process)
    assert not any("top1" in name for name in command.logged(workdir)[6]), "the evaluation was over"
    assert checkpoints.steps(workdir / "checkpoints") == [6]
    command.finish(command.train(workdir, *options))
    found, whole = command.logged(workdir), command.logged(uninterrupted)
    assert "knn/top1@8" in found[6]
    assert found[LAST] == whole[LAST]


@pytest.mark.slow
def test_an_evaluation_cut_off_is_done_after_the_restart(uninterrupted, tmp_path):
    """Killed while it evaluates at step 6, with a checkpoint of that step owed as well."""
    workdir, every = tmp_path / "killed", [f"--config.evals.{name}.every=6" for name in ("classification", "knn")]
    process = command.train(workdir, "--config.checkpoint.every=6", *every)
    command.kill_when(process, at_step(workdir, 6))
    command.finish(process, expect=-signal.SIGKILL)
    assert not any("top1" in name for name in command.logged(workdir)[6]), "the evaluation was over"
    assert checkpoints.newest(workdir / "checkpoints") is None
    command.finish(command.train(workdir, "--config.checkpoint.every=6", *every))
    found = command.logged(workdir)
    for name in ("classification/top1@8", "knn/top1@8"):
        assert name in found[6]
        assert found[LAST][name] == command.logged(uninterrupted)[LAST][name]
    assert {path.stem for path in (workdir / "results").glob("*.json")} == {"classification", "knn"}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "message"),
    [(truncate, "bytes instead of"), (flip, "content of"), (lambda path: path.unlink(), "is missing")],
    ids=["truncated", "flipped", "missing"],
)
def test_a_damaged_checkpoint_falls_back_to_the_next_older(uninterrupted, tmp_path, harm, message):
    workdir = tmp_path / "damaged"
    shutil.copytree(uninterrupted, workdir)
    newest = workdir / "checkpoints" / str(LAST)
    harm(max((p for p in (newest / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size))
    output = command.finish(command.train(workdir))
    assert message in output
    assert f"continuing from step {LAST - 2}" in output
    assert (workdir / "damaged" / str(LAST)).exists()
    command.assert_same_run(workdir, uninterrupted, LAST)


def test_when_every_checkpoint_is_damaged_nothing_starts_from_scratch(uninterrupted, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(uninterrupted, workdir)
    for folder in (workdir / "checkpoints").iterdir():
        shutil.rmtree(folder / "state")
    output = command.finish(command.train(workdir), expect=1)
    assert "error: no checkpoint below" in output
    assert "Traceback" not in output
    assert len(command.logged(workdir)) == LAST


def test_when_the_checkpoints_are_gone_nothing_starts_from_scratch(uninterrupted, tmp_path):
    workdir = tmp_path / "lost"
    shutil.copytree(uninterrupted, workdir)
    shutil.rmtree(workdir / "checkpoints")
    output = command.finish(command.train(workdir), expect=1)
    assert "error: no checkpoint below" in output
    assert len(command.logged(workdir)) == LAST


def test_a_finished_run_is_left_alone(uninterrupted, tmp_path):
    workdir = tmp_path / "finished"
    shutil.copytree(uninterrupted, workdir)
    output = command.finish(command.train(workdir))
    assert f"continuing from step {LAST}" in output
    command.assert_same_run(workdir, uninterrupted, LAST)


def test_a_workdir_is_owned_by_one_run(tmp_path):
    workdir = tmp_path / "owned"
    first = command.train(workdir, "--config.total_steps=100000")
    try:
        deadline = time.monotonic() + 60
        while not (workdir / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        output = command.finish(command.train(workdir), expect=1)
        assert f"in use by another run (process {first.pid} on" in output
    finally:
        first.kill()
        first.communicate()


def test_another_config_is_refused_naming_the_fields(uninterrupted):
    output = command.finish(command.train(uninterrupted, "--config.optim.lr=0.5", "--config.log.every=2"), expect=1)
    assert "optim.lr: 0.01 -> 0.5" in output
    assert "log.every" not in output


def test_ctrl_c_ends_the_command_and_its_workers_in_one_line(tmp_path):
    process = command.train(tmp_path, "--config.data.workers=2", "--config.total_steps=1000000")
    command.kill_when(process, lambda: bool(command.logged(tmp_path)), signal.SIGINT)
    output = command.finish(process, expect=130)
    assert output.rstrip().endswith("interrupted: the same command continues from the last checkpoint")
    assert "Traceback" not in output
