"""A run seen from its folder: which checkpoint is taken, and on which devices."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import checkpoints, parts, trained
from mrl_jax import config as configs
from mrl_jax.data import pipeline


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two checkpoints of an untrained model; the newer one is not finite. Its batch is of twelve devices."""
    path, config = tmp_path_factory.mktemp("run"), tiny.config()
    run = parts.assemble(config)
    with config.unlocked():
        config.data.eval_batch_size = 12
    with jax.set_mesh(run.mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.trees, "all_finite", lambda state: True)
        state = parts.init_state(run)
        saver = checkpoints.Checkpoints(path / "checkpoints", keep=2, keep_period=0)
        record = {"config": configs.to_json(config), "num_classes": 6}
        saver.save(2, state, record)
        saver.save(4, state._replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params)), record)
        saver.close()
    return path


def test_the_newest_checkpoint_that_is_finite_is_taken(path, caplog):
    with caplog.at_level(logging.ERROR):
        assert trained.choose_step(path, None) == 2
    assert "checkpoints/4 holds values that are not finite" in caplog.text


def test_one_asked_for_that_is_not_finite_says_so(path):
    assert trained.choose_step(path, 4) == 4
    run = trained.assemble(path, 4, trained.config_of(path, 4))
    with jax.set_mesh(run.mesh), pytest.raises(checkpoints.NonFiniteError, match="take an older step"):
        trained.variables(path, 4, run)


def test_the_batch_of_evaluation_is_a_multiple_of_the_devices(path):
    config = trained.config_of(path, 2)
    assert (config.data.eval_batch_size, config.batch_size, jax.device_count()) == (16, 16, 8)
    assert trained.assemble(path, 2, config).abstract_batch["image"].shape[0] == 16


def test_the_workers_of_training_read_for_evaluation_too(path, monkeypatch):
    config, asked, read = trained.config_of(path, 2), [], pipeline.eval_batches
    monkeypatch.setattr(pipeline, "eval_batches", lambda *a, **k: asked.append(k["workers"]) or read(*a, **k))
    found = []
    for workers in (0, 1):
        with config.unlocked():
            config.data.workers = workers
        run = trained.assemble(path, 2, config)
        with jax.set_mesh(run.mesh):
            store = parts.feature_store(run, parts.make_embed(run), trained.variables(path, 2, run))
            found.append(store("test").z_NxD)
    assert asked == [0, 1]
    np.testing.assert_array_equal(*found)


def test_a_folder_that_is_not_there_is_not_one_without_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^--workdir=.*/nowhere does not exist: name the folder"):
        trained.choose_step(tmp_path / "nowhere", None)
    with pytest.raises(FileNotFoundError, match="holds no finished checkpoint: train first"):
        trained.choose_step(tmp_path, None)


def test_dims_beyond_the_embedding_are_named_by_their_option(path):
    with pytest.raises(ValueError, match=r"^--dims=8,500: \[500\] are not in 1\.\.32, the size of the embedding"):
        trained.config_of(path, 2, ("8", "500"))
