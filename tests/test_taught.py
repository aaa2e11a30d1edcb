"""A narrow network that learns from a trained one alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import config as defaults
from mrl_jax import parts, sharding, start, train, trees
from mrl_jax.losses import nested_regression
from mrl_jax.nesting import Nesting

NESTING = Nesting((2, 4, 8), (1.0, 2.0, 0.5))
BACKBONE = defaults.resnet("10") | {"base_width": 4, "projection": 8}
TRAINED = {"model": BACKBONE, "head": "mrl_e", "nesting__dims": (4, 8), "evals": {}, "total_steps": 2}


def taught(path, **overrides):
    own = {
        "model": defaults.taught(BACKBONE | {"width": 0.5}, BACKBONE),
        "head": "none",
        "loss": {"name": "regression"},
        "init__path": str(path),
        "init__rename": "^backbone/=teacher/",
        "init__skip": "^head/|^student/",
        "optim__freeze": "^teacher/",
    }
    return tiny.config(**TRAINED | own | overrides)


def test_loss_is_half_the_squared_distance_of_unit_prefixes():
    z, t = jax.random.normal(jax.random.key(0), (2, 5, 8))

    def loop(z):
        found = []
        for m in NESTING.dims:
            a, b = (x[:, :m] / jnp.linalg.norm(x[:, :m], axis=1, keepdims=True) for x in (z, t))
            found.append(0.5 * jnp.square(a - b).sum(axis=1).mean())
        return jnp.stack(found)

    found = nested_regression(z, t, NESTING)
    np.testing.assert_allclose(found.per_dim, loop(z), rtol=1e-5)
    np.testing.assert_allclose(found.total, np.dot(NESTING.weights, loop(z)), rtol=1e-5)
    expected = jax.grad(lambda z: jnp.dot(jnp.asarray(NESTING.weights), loop(z)))(z)
    own, teachers = jax.grad(lambda z, t: nested_regression(z, t, NESTING).total, argnums=(0, 1))(z, t)
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)
    assert not teachers.any()
    tiny = jax.value_and_grad(lambda z: nested_regression(z, t * 1e-18, NESTING).total)(z * 1e-18)
    np.testing.assert_allclose(tiny[0], found.total, rtol=1e-5)
    np.testing.assert_allclose(tiny[1] * 1e-18, expected, rtol=1e-4, atol=1e-6)
    zeros = jax.value_and_grad(lambda z: nested_regression(z, t, NESTING).total)(jnp.zeros_like(z))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(zeros))
    with pytest.raises(ValueError, match=r"teacher's \(5, 4\); both must be \(B, 8\)"):
        nested_regression(z, t[:, :4], NESTING)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("full")
    assert train.train(tiny.config(**TRAINED), workdir)
    return workdir


def test_the_student_learns_and_its_teacher_stays_as_it_was_trained(trained, tmp_path):
    run = parts.assemble(taught(trained), sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    with jax.set_mesh(run.mesh):
        state = start.begin(run, tmp_path / "checkpoints").state
        before = jax.device_get(trees.flatten({"params": state.params, "stats": state.batch_stats}))
        batches = parts.train_batches(run, 0)
        batch = sharding.to_devices(next(batches), run.mesh)
        batches.close()
        z, out = run.model.apply({"params": state.params, "batch_stats": state.batch_stats}, batch, train=False)
        assert (z.shape[1], "teacher/z" in out) == (8, False)
        step, losses = parts.jit_train_step(run), []
        for _ in range(3):
            state, measured = step(state, batch)
            losses.append(float(measured["train/loss"]))
        after = jax.device_get(trees.flatten({"params": state.params, "stats": state.batch_stats}))
    assert losses[2] < losses[0]
    moved = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert {name.split("/")[1] for name in moved} == {"student"}
    assert any(name.startswith("stats/") for name in moved)
    kernels = {name.removeprefix("params/"): x.shape for name, x in before.items() if name.endswith("/kernel")}
    pairs = [
        (shape, kernels[name.replace("teacher", "student")]) for name, shape in kernels.items() if "teacher" in name
    ]
    assert all(own[-1] < whole[-1] for whole, own in pairs[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "taught", "student": BACKBONE}}, r"student and a teacher: it has these two options"),
        ({"model": defaults.taught(BACKBONE | {"width": 1.5}, BACKBONE)}, r"model\.student\.width=1\.5"),
        ({"model": defaults.taught(BACKBONE | {"projection": 16}, BACKBONE)}, "the towers have different widths"),
    ],
)
def test_what_does_not_fit_is_named(trained, change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(taught(trained, **change))
