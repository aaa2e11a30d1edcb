import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import choices, optim, parts, trees
from mrl_jax import config as defaults


def values(options, total=100, lr=2.0):
    schedule = optim.make_schedule(lr, total, options)
    return np.array([float(schedule(step)) for step in range(total + 1)])


def test_piecewise_linear_is_the_published_recipe():
    lrs = values({"name": "piecewise_linear", "points": ((0, 1e-4), (0.05, 1.0), (1.0, 0.0))})
    np.testing.assert_array_equal(lrs, values(defaults.default().schedule.to_dict() | {"name": "piecewise_linear"}))
    np.testing.assert_allclose(lrs[[0, 5, 100]], [2e-4, 2.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(np.diff(lrs[5:]), np.diff(lrs[5:])[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "at", "expected"),
    [
        ({"name": "cosine", "warmup_steps": 10}, (0, 10, 55, 100), (0, 2, 1, 0)),
        ({"name": "cosine", "final": 0.5}, (0, 50, 100), (2, 1.5, 1)),
        ({"name": "linear", "warmup_steps": 10}, (0, 5, 10, 55, 100), (0, 1, 2, 1, 0)),
        ({"name": "step", "at": (0.3, 0.6)}, (29, 31, 61), (2, 0.2, 0.02)),
        ({"name": "step", "at": (0.301, 0.304)}, (29, 31), (2, 0.02)),
        ({"name": "step", "at": (0.3,), "warmup_steps": 10}, (5, 29, 31), (1, 2, 0.2)),
        ({"name": "rsqrt", "warmup_steps": 25}, (0, 25, 100), (0, 2, 1)),
        ({"name": "rsqrt", "warmup_steps": 25, "cooldown_steps": 10}, (90, 95, 100), (2 / 3.6**0.5, 1 / 3.8**0.5, 0)),
        ({"name": "constant"}, (0, 100), (2, 2)),
    ],
)
def test_schedules_at_known_points(options, at, expected):
    np.testing.assert_allclose(values(options)[list(at)], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_a_warm_up_longer_than_the_run_takes_the_whole_run(name):
    fields = {"warmup_steps", "cooldown_steps"} & set(choices.keywords(optim.SCHEDULES[name]))
    long, whole = ({"name": name, **dict.fromkeys(fields, steps)} for steps in (500, 100))
    np.testing.assert_array_equal(values(long), values(whole))
    assert set(optim.too_long(long, 100)) == fields
    assert not optim.too_long(whole, 100)


def test_a_missing_option_is_named():
    def needy(*, points, steps=3):
        return points, steps

    assert choices.pick("schedule", {"needy": needy}, {"name": "needy", "points": 1}) == (needy, {"points": 1})
    with pytest.raises(ValueError, match=r"schedule\.points is missing, and schedule\.name='needy' needs it"):
        choices.pick("schedule", {"needy": needy}, {"name": "needy"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cosin"}, "did you mean 'cosine'"),
        ({"name": "cosine", "warm_steps": 3}, "did you mean 'warmup_steps'"),
        ({"name": "piecewise_linear", "points": ((0.5, 1), (1, 0))}, "rise from 0 to 1"),
        ({"name": "rsqrt", "warmup_steps": 0}, "at least 1"),
    ],
)
def test_bad_schedules(options, message):
    with pytest.raises(ValueError, match=message):
        optim.make_schedule(1.0, 10, options)


PARAMS = {"conv": {"kernel": jnp.full((4, 4), 2.0)}, "bn1": {"scale": jnp.full((4,), 2.0)}}


OPTIONS = {"sgd": defaults.sgd, "adamw": defaults.adamw, "lamb": defaults.lamb, "adafactor": defaults.adafactor}


def make(options):
    return parts._optimizer(options, lambda step: 0.1, lambda name: 1)


def updates(name, grads, **changes):
    tx = make(OPTIONS[name](0.1) | changes)
    return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "adafactor"])
def test_weight_decay_reaches_exactly_the_masked_parameters(name):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    found = updates(name, zeros, weight_decay=0.5, no_decay="/?bn")
    assert (found["conv"]["kernel"] < 0).all()
    assert not found["bn1"]["scale"].any()
    if name != "lamb":
        np.testing.assert_allclose(found["conv"]["kernel"], -0.1 * 0.5 * 2.0, rtol=1e-6)


def test_sgd_momentum_sees_the_decayed_gradient():
    options = defaults.sgd(0.1, momentum=0.5) | {"weight_decay": 0.5, "no_decay": ""}
    tx = make(options)
    state, zeros = tx.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS)
    _, state = tx.update(zeros, state, PARAMS)
    second, _ = tx.update(zeros, state, PARAMS)
    np.testing.assert_allclose(second["conv"]["kernel"], -0.1 * (0.5 * 2 + 0.5 * 0.5 * 2), rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    grads = jax.tree.map(lambda p: 100 * jnp.ones_like(p), PARAMS)
    found = updates("sgd", grads, weight_decay=0.0, clip_norm=1.0)
    norm = jnp.sqrt(sum(jnp.sum(u**2) for u in jax.tree.leaves(found)))
    np.testing.assert_allclose(norm, 0.1, rtol=1e-5)


def test_unknown_optimizer_and_option():
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        make({**defaults.adamw(0.1), "name": "adam"})
    with pytest.raises(ValueError, match=r"momentum=0\.8 is not an option of 'adamw'.*one of \['adafactor', 'sgd'\]"):
        make({**defaults.adamw(0.1), "momentum": 0.8})


def test_an_optimizer_is_switched_by_name_where_the_others_options_are_at_their_defaults():
    make({**defaults.adamw(0.1), "name": "sgd"})
    with pytest.raises(ValueError, match=r"optim\.b2=0\.95 is not an option of 'sgd'"):
        make({**defaults.adamw(0.1, b2=0.95), "name": "sgd"})


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "adafactor"])
def test_the_multiple_of_the_rate_scales_the_whole_update(name):
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    plain = updates(name, grads, weight_decay=0.5)
    found = updates(name, grads, weight_decay=0.5, layer_decay=0.5, multipliers=(("conv", 3.0), ("kernel", 9.0)))
    np.testing.assert_allclose(found["conv"]["kernel"], 1.5 * plain["conv"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(found["bn1"]["scale"], 0.5 * plain["bn1"]["scale"], rtol=1e-6)


def test_a_multiple_for_each_layer_of_a_stack():
    params = {"stack": jnp.ones((3, 2, 2))}
    multiplier = optim.make_multiplier(lambda name: np.arange(3, 0, -1), 0.5, ())
    options = {"weight_decay": 0.0, "no_decay": "", "clip_norm": 0.0}
    tx = optim.make_optimizer(lambda step: 1.0, {"name": "sgd"}, multiplier=multiplier, **options)
    found, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(found["stack"][:, 0, 0], [-0.125, -0.25, -0.5])


def test_the_config_reaches_the_rate_of_each_parameter():
    def update(**changes):
        run = parts.assemble(tiny.config(optim=defaults.sgd(0.1) | {"weight_decay": 0.0} | changes))
        ones = jax.tree.map(lambda s: jnp.ones(s.shape), run.abstract_state.params)
        return trees.flatten(run.tx.update(ones, run.tx.init(ones), ones)[0])

    plain = update()
    found = update(layer_decay=0.5, multipliers=(("head/kernel", 3.0),))
    factors = {"head/kernel_4": 3.0, "head/bias_4": 1.0, "backbone/pos_embedding": 0.25}
    for name, factor in factors.items():
        np.testing.assert_allclose(found[name], factor * plain[name], rtol=1e-6)
