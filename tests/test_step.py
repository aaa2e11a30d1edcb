"""The update: what it computes does not depend on where it runs, and each option reaches it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import parts, trees


def run(steps=3, **overrides):
    """The state and the measurements after some updates."""
    assembled = parts.assemble(tiny.config(**overrides))
    with jax.set_mesh(assembled.mesh):
        state = parts.init_state(assembled)
        update = parts.jit_train_step(assembled)
        batches = parts.train_batches(assembled, 0)
        for _ in range(steps):
            state, measured = update(state, next(batches))
        assert update._cache_size() == 1, "the update was compiled more than once"
    return state, {name: float(value) for name, value in measured.items()}


@pytest.fixture(scope="module")
def eight():
    return run()


MESHES = [
    {"mesh__data": 4, "mesh__model": 2},
    {"mesh__data": 2, "mesh__fsdp": 4, "sharding__fsdp_min_size": 64},
    {"mesh__data": 2, "mesh__fsdp": 2, "mesh__model": 2, "sharding__fsdp_min_size": 64},
]


@pytest.mark.parametrize("mesh", MESHES, ids=["model", "fsdp", "all"])
@pytest.mark.parametrize("head", ["mrl", "mrl_e"])
def test_every_mesh_gives_the_same_run(mesh, head):
    _, base = run(head=head)
    state, measured = run(head=head, **mesh)
    for name, value in base.items():
        np.testing.assert_allclose(measured[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    specs = {name: leaf.sharding.spec for name, leaf in trees.flatten(state.params).items()}
    split = {axis for spec in specs.values() for axis in spec if mesh.get(f"mesh__{axis}", 1) > 1}
    assert split == {name.removeprefix("mesh__") for name in mesh if name in ("mesh__fsdp", "mesh__model")}


def test_measurements_name_every_dim(eight):
    _, measured = eight
    expected = {"train/loss", "train/grad_norm", "non_finite"}
    expected |= {f"train/{name}@{m}" for name in ("loss", "accuracy") for m in (4, 8, 32)}
    assert set(measured) == expected
    np.testing.assert_allclose(measured["train/loss"], sum(measured[f"train/loss@{m}"] for m in (4, 8, 32)), rtol=1e-5)


def test_the_step_counts_and_the_key_stays(eight):
    state, _ = eight
    assert int(state.step) == 3
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"optim__lr": 1e-3},
        {"loss__label_smoothing": 0.1},
        {"nesting__weights": (2.0, 1.0, 1.0)},
        {"optim__weight_decay": 10.0},
        {"optim__clip_norm": 1e-3},
        {"optim__no_decay": ""},
        {"dtype": "bfloat16"},
        {"model__dropout": 0.5},
        {"model__drop_path": 0.5},
        {"model__pool": "map"},
        {"model__posemb": "sincos2d"},
        {"data__mean": (0.2,)},
        {"mix__name": "mixup"},
        {"mix__name": "cutmix", "loss__label_smoothing": 0.1},
        {"data__train_ops": "decode|random_shift(3)"},
        {"schedule__warmup_steps": 3},
        {"head": "mrl_e"},
        {"head": "ff", "nesting__dims": (8,)},
    ],
    ids=lambda change: ",".join(change),
)
def test_every_option_changes_the_run(eight, change):
    _, measured = run(**change)
    assert measured["train/loss"] != eight[1]["train/loss"]


@pytest.mark.parametrize("change", [{"model__remat": True}, {"loss__chunk": 2}, {"head": "mrl_e", "loss__chunk": 4}])
def test_what_only_costs_does_not_change_the_run(change):
    _, base = run(**{k: v for k, v in change.items() if k == "head"})
    _, measured = run(**change)
    for name, value in base.items():
        np.testing.assert_allclose(measured[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_ff_leaves_the_other_features_alone():
    """Fixed features: what lies beyond dim k of the last layer gets no gradient."""
    assembled = parts.assemble(tiny.config(head="ff", nesting__dims=(8,), optim__weight_decay=0.0))
    assert assembled.model.embed_dim == 8
    with jax.set_mesh(assembled.mesh):
        before = parts.init_state(assembled)
        kept = jax.tree.map(np.asarray, before.params)
        after, _ = parts.jit_train_step(assembled)(before, next(parts.train_batches(assembled, 0)))
    norm = {
        n: (v, np.asarray(trees.flatten(after.params)[n]))
        for n, v in trees.flatten(kept).items()
        if "encoder_norm/" in n
    }
    assert norm
    for old, new in norm.values():
        assert (old[:8] != new[:8]).all()
        np.testing.assert_array_equal(old[8:], new[8:])


def test_batch_norm_statistics_move_and_are_global():
    options = {
        "model": {"name": "resnet", "variant": "18", "stem": "small", "base_width": 4},
        "head": "ff",
        "nesting__dims": (8,),
    }
    one, base = run(steps=2, **options)
    other, measured = run(steps=2, mesh__data=1, mesh__model=2, mesh__fsdp=4, **options)
    np.testing.assert_allclose(measured["train/loss"], base["train/loss"], rtol=1e-4)
    for name, leaf in trees.flatten(one.batch_stats).items():
        np.testing.assert_allclose(leaf, trees.flatten(other.batch_stats)[name], rtol=1e-3, atol=1e-4, err_msg=name)
