"""Several hosts, as processes on loopback."""

import signal
import socket

import command
import jax
import numpy as np
import pytest

from mrl_jax import distributed

LAST = 12


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def train_on_two(workdir, *arguments, **environment):
    address = f"127.0.0.1:{port()}"
    return [
        command.train(
            workdir,
            *arguments,
            devices=2,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
            **environment,
        )
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "run"
    outputs = [command.finish(process) for process in train_on_two(workdir)]
    return workdir, outputs


def test_two_processes_see_the_batches_of_one(two, tmp_path):
    workdir, _ = two
    command.finish(command.train(tmp_path / "one"))
    ours, theirs = command.logged(workdir), command.logged(tmp_path / "one")
    assert sorted(ours) == sorted(theirs) == list(range(1, LAST + 1))
    for step in ours:
        assert sorted(ours[step]) == sorted(theirs[step])
        np.testing.assert_allclose(ours[step]["train/loss"], theirs[step]["train/loss"], rtol=2e-3, err_msg=str(step))


def test_only_the_first_process_speaks(two):
    _, (first, second) = two
    assert "4 x cpu" in first
    assert "Done: 12 updates" in first
    assert "updates" not in second


def test_hosts_of_different_slices_share_the_classes_of_one_model(tmp_path):
    arguments = ("--config=tests/tiny.py:mrl_e", "--config.mesh.model=2", "--config.total_steps=3")
    address, runs = f"127.0.0.1:{port()}", []
    for i in range(2):
        environment = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(i)}
        runs.append(command.start("tests.sliced", f"--workdir={tmp_path}/two", *arguments, **environment))
    for run in runs:
        command.finish(run)
    command.finish(command.start("mrl_jax.train", f"--workdir={tmp_path}/one", *arguments, devices=2))
    ours, theirs = command.logged(tmp_path / "two"), command.logged(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    for step, values in theirs.items():
        assert ours[step].keys() == values.keys()
        np.testing.assert_allclose(ours[step]["train/loss"], values["train/loss"], rtol=2e-3)
    (metric,) = [name for name in theirs[3] if name.endswith("top1@8") and "knn" not in name]
    assert abs(ours[3][metric] - theirs[3][metric]) < 0.05, "rows and labels are those of one host"


def test_rows_of_hosts_that_alternate_on_the_mesh_stay_with_their_labels():
    address = f"127.0.0.1:{port()}"
    runs = [command.start("tests.alternating", address, str(i), devices=2) for i in range(2)]
    for run in runs:
        assert "rows and labels agree" in command.finish(run)


def test_sigterm_to_one_stops_both_and_another_topology_continues(two, tmp_path):
    whole, _ = two
    for attempt in range(5):  # the twelve steps may be over before the signal arrives
        workdir = tmp_path / f"stopped{attempt}"
        processes = train_on_two(workdir, "--config.checkpoint.every=100")
        command.kill_when(processes[0], lambda path=workdir: bool(command.logged(path)), signal.SIGTERM)
        outputs = [command.finish(process) for process in processes]
        if "saved. Run the same command to continue" in outputs[0]:
            break
    else:
        pytest.fail("the signal never came in time")
    elsewhere = ("--config.mesh.fsdp=2", "--config.sharding.fsdp_min_size=64", "--config.data.eval_batch_size=24")
    command.finish(command.train(workdir, "--config.checkpoint.every=100", *elsewhere, devices=8))
    for step, values in command.logged(whole).items():
        np.testing.assert_allclose(command.logged(workdir)[step]["train/loss"], values["train/loss"], rtol=2e-3)


def test_the_death_of_one_ends_the_other_with_an_error(tmp_path):
    processes = train_on_two(tmp_path / "run", "--config.total_steps=1000000", JAX_HEARTBEAT_TIMEOUT="5")
    command.kill_when(processes[1], lambda: max(command.logged(tmp_path / "run"), default=0) >= 2)
    output, _ = processes[0].communicate(timeout=90)
    assert processes[0].returncode == 1
    assert "error: process 0 lost another process of this run" in output
    assert "Run the same command on every host to continue" in output


@pytest.mark.parametrize(("tasks", "alone"), [("4", True), ("32", False)])
def test_one_task_a_node_has_all_its_devices(monkeypatch, tasks, alone):
    """JAX gives a task of SLURM the device of its number on the node, also where there is no other task."""
    updates = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: updates.append("joined"))
    monkeypatch.setattr(jax.config, "update", lambda *update: updates.append(update))
    for name, value in {"SLURM_NTASKS": tasks, "SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NUM_NODES": "4"}.items():
        monkeypatch.setenv(name, value)
    distributed.initialize()
    every = [("jax_cuda_visible_devices", "all"), ("jax_rocm_visible_devices", "all")]
    assert updates == ["joined", *(every if alone else [])]


def test_a_batch_script_does_not_wait_for_the_tasks_of_its_allocation(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("it joined others"))
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    distributed.initialize()


def test_half_an_address_is_an_error(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES, JAX_PROCESS_ID not set"):
        distributed.initialize()
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS not set"):
        distributed.initialize()
