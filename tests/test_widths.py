"""A run of several widths: the same on one device and on eight, resumed to the bit, evaluated at every width."""

import jax
import numpy as np
import pytest
import tiny

from mrl_jax import checkpoints, parts, recalibrate, sharding, step, trees, warm_start
from mrl_jax import config as defaults

OPTIONS = {
    "model": defaults.vit("mu/8") | {"widths": (0.5, 1.0), "private_norm": True},
    "loss": defaults.evidential(),
    "head": "mrl_e",
    "optim": defaults.sgd(0.05),
    "switch__projection": "all",
}
RESNET = {**defaults.resnet("10"), "stem": "small", "base_width": 4, "widths": (0.5, 1.0), "projection": 8}


class Run:
    """A run in memory, on some of the devices."""

    def __init__(self, devices=8, axes=(-1, 1, 1)):
        mesh = sharding.make_mesh(*axes, devices=jax.devices()[:devices])
        self.parts = parts.assemble(tiny.config(**OPTIONS, sharding__fsdp_min_size=64), mesh)
        with jax.set_mesh(mesh):
            self.state, self.step = parts.init_state(self.parts), parts.jit_train_step(self.parts)
        self.batches = parts.train_batches(self.parts, 0)

    def update(self):
        with jax.set_mesh(self.parts.mesh):
            self.state, measured = self.step(self.state, next(self.batches))
        return {name: float(value) for name, value in measured.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Eight devices, three updates, a checkpoint after the second; and what each measured."""
    path = tmp_path_factory.mktemp("run") / "checkpoints"
    run = Run()
    measured = [run.update(), run.update()]
    saver = checkpoints.Checkpoints(path, keep=2, keep_period=0)
    saver.save(2, run.state, {})
    saver.close()
    return run, [*measured, run.update()], path


def test_a_restored_run_goes_on_bit_for_bit(trained):
    run, measured, path = trained
    finished = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(run.state)]
    last, batches = run.state, parts.train_batches(run.parts, 2)
    with jax.set_mesh(run.parts.mesh):
        state, again = run.step(checkpoints.load(path, 2, run.parts.abstract_state), next(batches))
    assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)] == finished
    assert {name: float(value) for name, value in again.items()} == measured[2]
    run.state = last
    assert run.step._cache_size() == 1


@pytest.mark.parametrize(("devices", "axes"), [(1, (1, 1, 1)), (8, (2, 2, 2))])
def test_one_device_and_split_parameters_give_the_run_of_eight(trained, devices, axes):
    run, measured, _ = trained
    one = Run(devices, axes)
    for expected in measured:
        for name, value in one.update().items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-3, atol=2e-4, err_msg=name)
    eight = trees.flatten(run.state.params)
    for name, value in trees.flatten(one.state.params).items():
        np.testing.assert_allclose(value, eight[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_every_width_is_evaluated(trained):
    run, _, _ = trained
    variables = step.variables_of(run.state)
    with jax.set_mesh(run.parts.mesh):
        found = parts.evaluate(run.parts, parts.make_embeds(run.parts), variables, ["knn"])
    assert set(found["knn"]) == {f"{w}top1@{m}" for w in ("", "w0.5/") for m in (4, 6, 8, 20, 32)}
    assert any(found["knn"][f"w0.5/top1@{m}"] != found["knn"][f"top1@{m}"] for m in (4, 8, 32))


@pytest.fixture(scope="module")
def resnet():
    """The parts of a run with BatchNorm, and variables drawn by numpy."""
    run = parts.assemble(tiny.config(model=RESNET, nesting__dims=(4, 8)))
    rng = np.random.default_rng(0)
    state = run.abstract_state
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return run, jax.tree.map(lambda s: rng.uniform(0.1, 0.5, s.shape).astype(s.dtype), variables)


def test_recalibration_replaces_the_statistics_of_its_own_width(resnet):
    run, variables = resnet
    batches = [next(parts.train_batches(run, i)) for i in range(2)]
    renewed = recalibrate.recalibrate(run.model, variables, batches, (0.5,))
    before, after = trees.flatten(variables["batch_stats"]), trees.flatten(renewed["batch_stats"])
    changed = {name for name in after if (np.asarray(after[name]) != before[name]).any()}
    assert changed == {name for name in before if "_w0.5/" in name}
    # The first normalisation sees the images through one convolution, whatever the statistics were.
    x = np.concatenate([b["image"] for b in batches]).astype(np.float32) / 127.5 - 1
    kernel = variables["params"]["backbone"]["conv1"]["kernel"][..., :2]
    conv = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(after["backbone/bn1_w0.5/mean"], conv.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)


def test_recalibration_leaves_frozen_statistics_as_they_are(resnet):
    _, variables = resnet
    run = parts.assemble(tiny.config(model=RESNET, nesting__dims=(4, 8), optim__freeze="^backbone/bn1"))
    renewed = recalibrate.recalibrate(run.model, variables, [next(parts.train_batches(run, 0))], (0.5,))
    before, after = trees.flatten(variables["batch_stats"]), trees.flatten(renewed["batch_stats"])
    for name in ("backbone/bn1_w0.5/mean", "backbone/bn1_w0.5/var"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5)
    assert (np.asarray(after["backbone/layer4_0/bn1_w0.5/mean"]) != before["backbone/layer4_0/bn1_w0.5/mean"]).any()


def test_a_trained_full_model_starts_every_width(resnet):
    run, variables = resnet
    flat = trees.flatten(variables["params"]) | trees.flatten(variables["batch_stats"])
    full = {n: v for n, v in flat.items() if "_w0.5" not in n}
    found = warm_start.match(warm_start.Source(full, {"path": "full"}), run.abstract_state, "")
    assert set(found) == set(flat)
    for name in ("backbone/bn1_w0.5/scale", "backbone/layer4_0/bn1_w0.5/mean"):
        np.testing.assert_array_equal(found[name], full[name.replace("_w0.5", "")][: len(found[name])])


def test_a_config_of_an_older_version_gets_the_defaults():
    new = defaults.to_json(tiny.config())
    old = {k: v for k, v in new.items() if k != "switch"}
    old["model"] = {k: v for k, v in new["model"].items() if k not in defaults.LATER["vit"]}
    assert defaults.to_json(defaults.from_json(old)) == new
    defaults.check_resumable(old, new, "runs/q")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"switch__projection": "all"}, r"switch: \{'projection': 'all'\} is for several widths"),
        ({"model__widths": (0.25, 1.0)}, "width 0.25 of 2 attention heads"),
        ({"model__widths": (0.5, 1.0), "switch__scope": "hole"}, "did you mean 'whole'"),
        ({"model__widths": (0.5, 1.0), "switch__full_loss": "softmx"}, r"switch\.full_loss='softmx'"),
        ({"model__widths": (0.5, 1.0), "switch__full_loss": "contrastive"}, r"switch\.full_loss='contrastive' is for"),
        (
            {"model__widths": (0.5, 1.0), "switch__full_loss": "evidential", "mix__name": "mixup"},
            r"mix\.name='mixup'.*switch\.full_loss='evidential' takes one",
        ),
        (
            {"loss": defaults.evidential(), "mix__name": "mixup"},
            r"mix\.name='mixup'.*loss\.name='evidential' takes one",
        ),
    ],
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(tiny.config(**change))


def test_a_width_is_evaluated_at_those_dims_that_it_has():
    model = {**defaults.resnet("10"), "stem": "small", "base_width": 4, "widths": (0.5, 1.0), "embedding": "scaled"}
    config = tiny.config(model=model, head="mrl_e", nesting__dims=(16, 32))
    with config.unlocked():
        config.evals = {"knn": {**config.evals.knn, "dims": (8, 32)}, "full": {**config.evals.knn, "dims": (32,)}}
    run = parts.assemble(config)
    with jax.set_mesh(run.mesh):
        variables = step.variables_of(parts.init_state(run))
        found = parts.evaluate(run, parts.make_embeds(run), variables, ["knn", "full"])
    assert [set(found[name]) for name in ("knn", "full")] == [{"top1@8", "top1@32", "w0.5/top1@8"}, {"top1@32"}]
