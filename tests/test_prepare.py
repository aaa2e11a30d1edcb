"""The command as a user runs it."""

import random
import time

import command
import pytest
import raw
import tiny

from mrl_jax import parts
from mrl_jax.data.preparing import plan as plans


def run(source, directory, *arguments):
    return command.start("mrl_jax.prepare", str(source), f"--data_dir={directory}", *arguments)


def test_the_command_prepares_what_training_reads(tmp_path):
    source = raw.folder(tmp_path / "source", 40)
    output = command.finish(run(source, tmp_path / "d", "--splits=train:0.8,test:0.2", "--workers=1", "--licence=x"))
    assert "train: 32 examples in 1 shards" in output
    assert f"Train on it with --config.data.name=array_record:{tmp_path / 'd'}" in output
    ops = "decode(1)|resize_small(16)|center_crop(16)"
    run_parts = parts.assemble(
        tiny.config(data__name=f"array_record:{tmp_path / 'd'}", data__train_ops=ops, data__eval_ops=ops)
    )
    batches = parts.train_batches(run_parts, 0)
    assert next(batches)["image"].shape == (16, 16, 16, 1)
    batches.close()


def test_mistakes_are_one_line(tmp_path):
    output = command.finish(run(tmp_path / "nowhere", tmp_path / "d"), expect=1)
    assert output.startswith(f"error: there is no {tmp_path / 'nowhere'}")
    assert len(output.strip().splitlines()) == 1
    output = command.finish(run(tmp_path, tmp_path / "d", "--layout=market"), expect=1)
    assert output.startswith("error: --layout='market' is not one of ['market1501', 'veri776', 'msmt17', 'inshop', ")


@pytest.mark.slow
def test_killed_at_random_and_run_again_gives_equal_bytes(tmp_path):
    source = raw.folder(tmp_path / "source", 400)
    arguments = ("--shards=40", "--workers=2", "--seed=1")
    command.finish(run(source, tmp_path / "whole", *arguments))
    draw = random.Random(0)
    for _ in range(3):
        process = run(source, tmp_path / "d", *arguments)
        wanted = draw.randrange(1, 38)
        done = tmp_path / "d" / plans.FOLDER / "done"
        before = len(list(done.glob("*.json")))
        try:
            command.kill_when(process, lambda: len(list(done.glob("*.json"))) >= min(before + wanted // 4, 40) > 0)  # noqa: B023
        except AssertionError:
            break  # it was faster
        process.wait()
    time.sleep(1.5)  # its workers have seen that it is gone
    command.finish(run(source, tmp_path / "d", *arguments))
    assert raw.files(tmp_path / "d") == raw.files(tmp_path / "whole")
