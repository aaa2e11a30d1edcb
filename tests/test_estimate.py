"""The cost told before a run, against what the run itself measures."""

import command
import jax
import numpy as np
import pytest
import tiny

from mrl_jax import estimate, flops, parts, sharding, train, trees, writers


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run, its estimate, the update it compiled, and the last line it logged."""
    path, kept = tmp_path_factory.mktemp("ran"), []

    class Loop(train._Loop):
        def _update(self, *arguments):
            kept.append(super()._update(*arguments))
            return kept[0]

    mesh = {"mesh__data": 4, "mesh__fsdp": 2, "sharding__fsdp_min_size": 64}
    options = {"optim__ema": 0.9, "optim__freeze": "embedding", "accumulate": 2}
    config = tiny.config(total_steps=8, checkpoint__every=100, evals={}, log__every=8, **mesh, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flops, "peak", lambda device: 1e9)
        patch.setattr(train, "_Loop", Loop)
        assert train.train(config, path)
    run = parts.assemble(config)
    return run, estimate.cost(run), kept[0], writers.read_lines(path / "metrics.jsonl")[-1]


def test_memory_is_that_of_the_compiled_update_and_of_the_real_arrays(ran):
    run, found, update, _ = ran
    memory = update.memory_analysis()
    inputs = found.memory.params + found.memory.optimizer + found.memory.ema + found.memory.batch
    # Beside them a few numbers: step, key, counts.
    assert 0 <= memory.argument_size_in_bytes - inputs < 200
    own = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    assert found.memory.work == own
    with jax.set_mesh(run.mesh):
        state = parts.init_state(run)
        batch = sharding.to_devices(next(parts.train_batches(run, 0)), run.mesh)
    device = run.mesh.devices.flat[0]

    def held(tree):
        shards = (s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards if s.device == device)
        return sum(shard.data.nbytes for shard in shards)

    real = [held((state.params, state.batch_stats)), held(state.opt_state), held(state.ema), held(batch)]
    assert real == list(found.memory[:4])


def test_operations_are_those_behind_the_logged_mfu(ran):
    run, found, _, line = ran
    steps_per_second = line["train/examples_per_second"] / run.config.batch_size
    np.testing.assert_allclose(line["train/mfu"] * 8 * 1e9, found.flops[0] * steps_per_second, rtol=1e-6)


def test_growing_images_cost_more_from_stage_to_stage():
    points = {"points": ((0.0, 16), (1.0, 32)), "multiple": 16}
    sized = {"data__train_ops": "decode|random_crop({size},8)", "model__posemb": "sincos2d"}
    run = parts.assemble(tiny.config(data__resolution=points, **sized))
    (_, small), (first, large) = run.stages
    assert (small["image"].shape[1], large["image"].shape[1]) == (16, 32)
    found = estimate.cost(run)
    assert found.flops[1] > 3 * found.flops[0]
    assert found.total_flops == first * found.flops[0] + (run.config.total_steps - first) * found.flops[1]
    assert found.memory.batch == 2 * (32 * 32 + 4)  # two rows on each of eight devices


def test_what_is_told(ran):
    run, found, _, _ = ran
    text = estimate.describe(run, found, "v5e", 0.5)
    assert "8 devices: data 4 x fsdp 2 x model 1" in text
    total = trees.count(run.abstract_state.params)
    assert f"{total:,}, of them trained {total - 32 * 64 - 32 - 128:,}" in text
    assert "None, None, None, fsdp, frozen" in text
    milliseconds = 1000 * found.flops[0] / (8 * 0.5 * 197e12)
    assert f"8 steps of {milliseconds:.4g} ms on 8 x v5e at 50 % of 197 TFLOP/s" in text
    with pytest.raises(ValueError, match=r"--mfu=0 must be in \(0, 1\]"):
        estimate.describe(run, found, "v5e", 0)
    big = found._replace(memory=found.memory._replace(work=17 * 2**30))
    assert "does not fit" in estimate.describe(run, big, "v5e", 0.5)


@pytest.mark.parametrize("count", [0, -2])
def test_less_than_one_device_is_refused(count):
    with pytest.raises(ValueError, match=rf"--devices={count} must be at least 1"):
        estimate.report(tiny.config(), count, None, "h100", 0.35)


def test_the_command_plans_for_more_devices_than_there_are_and_writes_nothing(tmp_path):
    arguments = ("--dry_run", "--config.mesh.data=8", "--config.mesh.model=3", "--accelerator=h100")
    ops = ("--config.data.train_ops=decode(1)", "--config.data.eval_ops=decode(1)")
    data = (f"--config.data.dir={tmp_path}", "--config.data.name=tfds:none", *ops)
    process = command.start(
        "mrl_jax.train",
        "--config=tests/tiny.py",
        *arguments,
        *data,
        "--classes=9",
        "--config.batch_size=24",
        "--config.evals.knn.split=val",
    )
    output = command.finish(process)
    assert "24 devices: data 8 x fsdp 1 x model 3" in output
    assert "9 classes" in output
    assert "time to finish" in output
    assert not list(tmp_path.iterdir())
