"""Options of the update: accumulation, the moving average, frozen parameters, drawn dims, steps left out."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from mrl_jax import checkpoints, flops, parts, sharding, step, trees
from mrl_jax import config as defaults
from mrl_jax.nesting import Nesting, draw_weights

SGD = defaults.sgd(0.1) | {"weight_decay": 0.0}
RESNET = {
    "model": {"name": "resnet", "variant": "10", "stem": "small", "base_width": 2},
    "head": "ff",
    "nesting__dims": (4,),
    "optim": SGD,
}


@functools.cache
def batches():
    """Standardised floats, so that a value can be NaN."""
    run = parts.assemble(tiny.config())
    found = [next(parts.train_batches(run, i)) for i in range(4)]
    return [{**batch, "image": (batch["image"] / 127.5 - 1).astype(np.float32)} for batch in found]


class Run:
    """A run in memory: its state, changed by `update`."""

    def __init__(self, **overrides):
        self.parts = parts.assemble(tiny.config(**{"optim": SGD, **overrides}))
        update = parts.jit_train_step(self.parts)
        with jax.set_mesh(self.parts.mesh):
            self.state = parts.init_state(self.parts)
            self.traced = update.trace(self.parts.abstract_state, batches()[0])

    @functools.cached_property
    def compiled(self):
        return self.traced.lower().compile()

    def update(self, batch):
        batch = sharding.to_devices(batch, self.parts.mesh)
        self.state, measured = self.compiled(self.state, batch)
        return {name: float(value) for name, value in measured.items()}

    @property
    def params(self):
        return {name: np.asarray(value) for name, value in trees.flatten(self.state.params).items()}

    @property
    def bytes(self):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(self.state)]


def test_microbatches_give_the_update_of_the_whole_batch():
    whole, parted = Run(), Run(accumulate=2)
    for batch in batches()[:2]:
        one, other = whole.update(batch), parted.update(batch)
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for name, value in whole.params.items():
        np.testing.assert_allclose(parted.params[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    # Every device has one row of each microbatch from the start: no row moves.
    text = parted.compiled.as_text()
    assert "f32[2,1,16,16,1]" in text
    assert "all-to-all" not in text
    assert not re.search(r"f32\[(16,16,16,1|2,8,16,16,1)\]", text), "the batch is gathered"
    # By the policy stop a step that is not finite is counted at once, and nothing else is done about it.
    measured = whole.update(bad(batches()[0]))
    assert measured["non_finite"] == 1
    assert "train/skipped" not in measured


def test_microbatches_average_the_statistics_of_batch_norm():
    run = Run(accumulate=2, **RESNET)
    before = step.variables_of(jax.device_get(run.state))
    apply = jax.jit(functools.partial(run.parts.model.apply, train=True))
    halves = [{name: rows[i::2] for name, rows in batches()[0].items()} for i in range(2)]
    found = [trees.flatten(trees.unflatten(apply(before, half)[1], "batch_stats")) for half in halves]
    run.update(batches()[0])
    for name, value in trees.flatten(run.state.batch_stats).items():
        np.testing.assert_allclose(value, (found[0][name] + found[1][name]) / 2, rtol=1e-4, atol=1e-6, err_msg=name)
        assert (np.asarray(value) != trees.flatten(before["batch_stats"])[name]).any()


def test_the_moving_average_is_that_of_the_trajectory_and_is_what_evaluation_sees():
    run = Run(optim__ema=0.15, optim__ema_warmup=True, optim__freeze="embedding")
    expected = run.params
    for t, batch in enumerate(batches()[:3]):
        run.update(batch)
        decay = min(0.15, (1 + t) / (10 + t))
        expected = {name: decay * old + (1 - decay) * run.params[name] for name, old in expected.items()}
    seen = trees.flatten(step.variables_of(run.state)["params"])
    for name, value in expected.items():
        np.testing.assert_allclose(seen[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert (seen["head/kernel_8"] != run.params["head/kernel_8"]).any()
    assert not any("embedding" in name for name in trees.flatten(run.state.ema["params"]))


def test_frozen_parameters_stay_to_the_bit_without_optimizer_state_or_gradient():
    freeze = "^backbone/(?!layer4)"
    run, free = Run(**{**RESNET, "optim": SGD | {"freeze": freeze, "ema": 0.9}}), Run(**RESNET)
    before, stats = run.params, trees.flatten(jax.device_get(run.state.batch_stats))
    trained = {name for name in before if name.startswith(("backbone/layer4", "head"))}
    for batch in batches()[:2]:
        run.update(batch)
    assert {name for name, value in run.params.items() if value.tobytes() != before[name].tobytes()} == trained
    after = trees.flatten(jax.device_get(run.state.batch_stats))
    moved = {name for name, value in after.items() if (value != stats[name]).any()}
    assert moved == {name for name in stats if name.startswith("backbone/layer4")} != set()
    assert sum(leaf.ndim > 0 for leaf in jax.tree.leaves(run.state.opt_state)) == len(trained)
    seen = trees.flatten(step.variables_of(run.state)["params"])
    assert all((np.asarray(seen[name]) == before[name]).all() for name in set(before) - trained)
    assert flops.of_jaxpr(run.traced.jaxpr.jaxpr) < 0.7 * flops.of_jaxpr(free.traced.jaxpr.jaxpr)


def test_frozen_batch_norm_normalises_as_in_evaluation():
    run = Run(**{**RESNET, "optim": SGD | {"freeze": "^backbone/"}})
    # Statistics that are not those of any batch.
    variables = jax.tree.map(lambda x: np.asarray(x) + 0.1, step.variables_of(run.state))
    z = [jax.jit(functools.partial(run.parts.model.apply, train=t))(variables, batches()[0])[0] for t in (True, False)]
    np.testing.assert_allclose(*z, rtol=1e-5)


def test_only_the_dims_drawn_get_a_gradient_and_all_are_measured():
    run = Run(nesting__sample=1, nesting__keep_full=False)
    drawn = []
    for batch in batches():
        before = run.params
        measured = run.update(batch)
        moved = [m for m in (4, 8, 32) if (run.params[f"head/bias_{m}"] != before[f"head/bias_{m}"]).any()]
        losses = [measured[f"train/loss@{m}"] for m in (4, 8, 32)]
        np.testing.assert_allclose(measured["train/loss"], sum(losses), rtol=1e-5)
        drawn.append(moved)  # momentum moves those of earlier steps as well
    assert len(drawn[0]) == 1
    assert len(drawn[-1]) > 1


def bad(batch):
    image = batch["image"].copy()
    image[3, 0, 0, 0] = np.nan  # on one device of the eight
    return {**batch, "image": image}


def test_a_step_left_out_changes_nothing_but_the_counts_and_a_restored_run_is_bit_identical(tmp_path):
    options = {"accumulate": 2, "optim__ema": 0.9, "optim__ema_warmup": True, "nan_policy": "skip"}
    options |= {"nesting__sample": 2, "model__drop_path": 0.3, "optim__freeze": "embedding"}
    run = Run(**options, optim=defaults.adamw(0.01))
    run.update(batches()[0])
    before = jax.device_get(run.state)
    for i in (1, 2):
        measured = run.update(bad(batches()[i]))
        assert (measured["non_finite"], measured["train/skipped"]) == (i, i)
        assert not np.isfinite(measured["train/loss"])
    after = jax.device_get(run.state)
    assert int(after.step) == 3
    untouched = [jax.tree.leaves(state._replace(step=0, skipped=0)) for state in (after, before)]
    for kept, old in zip(*untouched):
        assert np.asarray(kept).tobytes() == np.asarray(old).tobytes()
    saver = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=2, keep_period=0)
    saver.save(3, run.state, {})
    saver.close()
    measured = run.update(batches()[3])
    assert (measured["non_finite"], measured["train/skipped"]) == (0, 2)
    finished = run.bytes
    run.state = checkpoints.load(tmp_path / "checkpoints", 3, run.parts.abstract_state)
    assert run.update(batches()[3]) == measured
    assert run.bytes == finished


def test_the_weights_of_drawn_dims_have_the_expectation_of_all():
    nesting = Nesting((2, 4, 8, 16), (2.0, 1.0, 1.0, 0.5))
    keys = jax.random.split(jax.random.key(0), 4000)
    for sample, keep_full in ((1, False), (3, False), (2, True), (4, True)):
        drawn = jax.vmap(lambda key, k=sample, f=keep_full: draw_weights(key, nesting, k, f))(keys)
        assert (jnp.count_nonzero(drawn, axis=1) == sample).all()
        np.testing.assert_allclose(drawn.mean(axis=0), nesting.weights, rtol=0.1)
        assert not keep_full or (drawn[:, -1] == 0.5).all()
