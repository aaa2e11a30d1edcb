"""The update of several widths, on a network of two matrices that compiles in no time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrl_jax import losses, objectives, step, surgery, switchable, trees, widths
from mrl_jax.nesting import Nesting

FEATURES, DIM, CLASSES, ROWS, RATE = 8, 4, 3, 16, 0.1
NESTING = Nesting((2, DIM))
RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.normal(size=(ROWS, FEATURES)).astype(np.float32),
    "label": RNG.integers(0, CLASSES, ROWS).astype(np.int32),
}
THREE, FOUR = (0.25, 0.5, 1.0), (0.25, 0.5, 0.75, 1.0)


def suffix(width):
    return "" if width == 1 else f"_w{width:g}"


def init(number, key, batch):
    """Parameters far from symmetric, so that the widths disagree."""
    at = FOUR if number == 4 else THREE
    rng = np.random.default_rng(1)
    head = {"kernel": rng.normal(size=(DIM, CLASSES)), "bias": rng.normal(size=CLASSES)}
    params = {
        "backbone": {"w": rng.normal(size=(FEATURES, DIM))}
        | {f"scale{suffix(w)}": np.full(DIM, w - 0.5 or 1.0) for w in at},
        "head": head,
    }
    stats = {"backbone": {f"mean{suffix(w)}": np.zeros(2) for w in at}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"params": params, "batch_stats": stats})


def apply(variables, batch, *, train, rngs, width):
    """Features of the first inputs, scaled by the width's own factors, and the mean as a statistic."""
    own, k = variables["params"]["backbone"], int(FEATURES * width)
    z = batch["x"][:, :k] @ own["w"][:k] * own[f"scale{suffix(width)}"][None]
    before = variables["batch_stats"]["backbone"][f"mean{suffix(width)}"]
    out = {f"head/{name}": value for name, value in variables["params"]["head"].items()}
    return z, out | {f"batch_stats/backbone/mean{suffix(width)}": 0.5 * before + 0.5 * z.mean(axis=0)[:2]}


def owned(width):
    own = {"backbone/w": (int(FEATURES * width), DIM), f"backbone/scale{suffix(width)}": (DIM,)}
    return own | {"head/kernel": (DIM, CLASSES), "head/bias": (CLASSES,)}


def objective(width, loss):
    """The smallest width is told other labels, so that there is a conflict."""
    shift = int(width == 0.25)

    def softmax(z, out, batch):  # as that of `objectives`, with less to compile
        logits = losses.prefix_logits(z, [out["head/kernel"]], [out["head/bias"]], NESTING)
        per_dim = jnp.stack([losses.cross_entropy(a, batch["label"]).mean() for a in logits])
        return losses.NestedLoss(per_dim.sum(), per_dim, None)

    given = softmax if loss == "softmax" else objectives.OBJECTIVES[loss](NESTING)
    return lambda z, out, batch: given(z, out, {**batch, "label": (batch["label"] + shift) % CLASSES})


class Run:
    def __init__(self, at=THREE, loss="softmax", options=step.PLAIN, full_loss="", **switch):
        self.subs = [switchable.SubModel(w, NESTING, objective(w, loss), owned(w)) for w in at]
        if full_loss:
            self.subs[-1] = self.subs[-1]._replace(objective=objective(1.0, full_loss))
        self.switch, tx = widths.Options(**switch), optax.sgd(RATE)
        start = widths.with_state(functools.partial(init, len(at)), self.switch.priority, len(at))
        self.state = self.first = step.init_state(start, tx, 0, BATCH, options)
        self.step = jax.jit(switchable.make_switchable_step(apply, self.subs, tx, options, self.switch))

    def update(self, batch=BATCH):
        self.state, measured = self.step(self.state, batch)
        return {name: float(value) for name, value in measured.items()}

    def embedding(self, params, width):
        """Of the batch by these parameters, and the statistics before the first update."""
        variables = {"params": params, "batch_stats": self.first.batch_stats}
        return apply(variables, BATCH, train=True, rngs=None, width=width)[0]

    @property
    def moved(self):
        """The gradient that the first update followed."""
        before, after = (trees.flatten(s.params) for s in (self.first, self.state))
        return {name: np.asarray(before[name] - after[name]) / RATE for name in before}

    def moved_by(self, batch):
        """The gradient that a first update on this batch follows."""
        before, after = (trees.flatten(s.params) for s in (self.first, self.step(self.first, batch)[0]))
        return {name: np.asarray(before[name] - after[name]) / RATE for name in before}


@functools.cache
def once(**options):
    """A run after one update, and what it measured; not to be updated again."""
    run = Run(**options)
    return run, run.update()


@functools.cache
def gradient(i, loss="softmax"):
    """Of one of three widths at the start, alone."""
    width, variables = THREE[i], init(3, None, None)

    def total(params):
        found = apply({**variables, "params": params}, BATCH, train=True, rngs=None, width=width)
        return objective(width, loss)(*found, BATCH).total

    return jax.jit(jax.grad(total))(variables["params"])


def close(found, expected):
    for name, value in trees.flatten(expected).items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("reduction", ["mean", "owner_mean"])
def test_without_projection_the_gradients_are_merged_and_private_ones_are_whole(reduction):
    run, _ = once(reduction=reduction)
    grads = [gradient(i) for i in range(3)]
    whole = trees.flatten(jax.tree.map(lambda *g: sum(g), *grads))
    owners = {"backbone/w": np.repeat([3.0, 2.0, 1.0, 1.0], 2)[:, None]}
    for name, value in whole.items():
        divisor = owners.get(name, 3.0) if reduction == "owner_mean" else 3.0
        np.testing.assert_allclose(run.moved[name], value / (1 if "scale" in name else divisor), rtol=2e-4, atol=1e-5)
    assert run.step._cache_size() == 1


@pytest.mark.parametrize(("mode", "scope"), [("all", "whole"), ("anchor_full", "overlap")])
def test_the_update_is_the_projection_of_the_gradients_of_each_width(mode, scope):
    run, measured = once(projection=mode, scope=scope)
    assert measured["train/conflicts"] > 0
    grads = [gradient(i) for i in range(3)]
    owners = [trees.unflatten({n: np.empty(s) for n, s in sub.owned.items()}) for sub in run.subs]
    key = jax.random.fold_in(jax.random.wrap_key_data(run.first.key), 0)
    order = jax.random.fold_in(key, switchable._ORDER) if mode == "all" else None
    project = functools.partial(surgery.project, mode=mode, scope=scope, owners=owners)
    expected, statistics = jax.jit(project)(grads, order)
    close(run.moved, expected)
    np.testing.assert_allclose(measured["train/cosine_w0.25_w1"], statistics["cosines"][0, 2], rtol=1e-4)
    np.testing.assert_allclose(measured["train/w0.5/norm"], statistics["norms"][1], rtol=1e-4)
    assert min(measured[f"train/w{w:g}/kept"] for w in THREE) < 1
    joint, _ = once(reduction="mean")
    assert any((run.moved[name] != joint.moved[name]).any() for name in run.moved)


def test_every_width_is_measured_and_moves_its_own_statistics():
    run, measured = once(loss="evidential", priority="uncertain")
    for sub in run.subs:
        kinds = ("loss", "accuracy", "uncertainty", "p_label")
        names = [f"train/{sub.prefix}{n}@{m}" for n in kinds for m in NESTING.dims]
        assert all(np.isfinite(measured[name]) for name in names)
        variables = {"params": run.first.params, "batch_stats": run.first.batch_stats}
        z, _ = apply(variables, BATCH, train=True, rngs=None, width=sub.width)
        moved = run.state.batch_stats["backbone"][f"mean{suffix(sub.width)}"]
        np.testing.assert_allclose(moved, 0.5 * z.mean(axis=0)[:2], rtol=1e-4)
    weighted = [measured[f"train/w{w:g}/weight"] * measured[f"train/w{w:g}/loss"] for w in THREE]
    np.testing.assert_allclose(measured["train/loss"], np.mean(weighted), rtol=1e-5)


def test_the_sandwich_draws_the_middle_widths_and_skips_the_others_and_what_is_not_finite():
    run = Run(FOUR, sample=3, projection="all", options=step.Options(skip=True))
    drawn = []
    for _ in range(6):
        before = trees.flatten((run.state.params["backbone"], run.state.batch_stats["backbone"])[0])
        measured = run.update()
        after = trees.flatten(run.state.params["backbone"])
        moved = [w for w in FOUR if (after[f"scale{suffix(w)}"] != before[f"scale{suffix(w)}"]).any()]
        assert [w for w in FOUR if np.isfinite(measured[f"train/w{w:g}/loss"])] == moved
        assert {0.25, 1.0} < set(moved)
        assert len(moved) == 3
        weights = [measured[f"train/w{w:g}/weight"] for w in FOUR]
        assert weights == [1.0, *(2.0 if w in moved else 0.0 for w in FOUR[1:3]), 1.0]
        drawn.append(moved[1])
    assert set(drawn) == {0.5, 0.75}
    assert np.isfinite(measured["train/loss"])
    assert run.step._cache_size() == 1
    # A step that is not finite changes nothing but the counts.
    before = jax.device_get(run.state)
    bad = {**BATCH, "x": BATCH["x"].copy()}
    bad["x"][0, 0] = np.nan
    measured = run.update(bad)
    assert (measured["non_finite"], measured["train/skipped"]) == (1, 1)
    same = [jax.tree.leaves(s._replace(step=0, skipped=0)) for s in (before, jax.device_get(run.state))]
    assert all(np.array_equal(a, b) for a, b in zip(*same))


def test_the_head_can_be_trained_by_the_full_width_alone():
    run, _ = once(classifier="full")
    full = trees.flatten(gradient(2))
    for name in ("head/kernel", "head/bias"):
        np.testing.assert_allclose(run.moved[name], full[name], rtol=2e-4, atol=1e-5)
    narrow = trees.flatten(gradient(0))["backbone/scale_w0.25"]
    np.testing.assert_allclose(run.moved["backbone/scale_w0.25"], narrow, rtol=2e-4, atol=1e-5)


def test_distillation_teaches_the_full_width_s_softmax_instead_of_labels():
    other = {**BATCH, "label": (BATCH["label"] + 1) % CLASSES}
    run = Run(distill=1.0)
    one, two = run.moved_by(BATCH), run.moved_by(other)
    np.testing.assert_allclose(one["backbone/scale_w0.5"], two["backbone/scale_w0.5"], atol=1e-6)
    assert (one["backbone/scale"] != two["backbone/scale"]).any()
    # The teacher is a constant: it learns from its labels alone.
    np.testing.assert_allclose(one["backbone/scale"], trees.flatten(gradient(2))["backbone/scale"], rtol=1e-4)
    assert (np.abs(one["backbone/scale_w0.5"] - trees.flatten(gradient(1))["backbone/scale_w0.5"]) > 1e-3).any()


def test_regression_draws_the_narrow_embedding_to_the_full_one():
    run, _ = once(regress=3.0)

    def loss(params):
        return 3.0 * jnp.mean((run.embedding(params, 0.5) - run.embedding(run.first.params, 1.0)) ** 2)

    expected = jax.tree.map(jnp.add, jax.jit(jax.grad(loss))(run.first.params), gradient(1))
    name = "backbone/scale_w0.5"
    np.testing.assert_allclose(run.moved[name], trees.flatten(expected)[name], rtol=1e-4)


def test_triplets_are_of_the_narrow_embeddings_and_the_full_ones():
    run, _ = once(triplet=2.0)

    def loss(params):
        full = run.embedding(run.first.params, 1.0)
        return 2.0 * losses.nested_triplet(run.embedding(params, 0.5), full, BATCH["label"], NESTING).total

    expected = jax.tree.map(jnp.add, jax.jit(jax.grad(loss))(run.first.params), gradient(1))
    name = "backbone/scale_w0.5"
    np.testing.assert_allclose(run.moved[name], trees.flatten(expected)[name], rtol=1e-4)
    assert (np.abs(run.moved[name] - trees.flatten(gradient(1))[name]) > 1e-3).any()


def test_uncertainty_weighs_the_losses():
    run, measured = once(loss="evidential", priority="uncertain")
    u = np.array([measured[f"train/{sub.prefix}uncertainty@{DIM}"] for sub in run.subs])
    weights = 3 * u / u.sum()
    np.testing.assert_allclose([measured[f"train/w{w:g}/weight"] for w in THREE], weights, rtol=1e-5)
    expected = weights[0] * trees.flatten(gradient(0, "evidential"))["backbone/scale_w0.25"]
    np.testing.assert_allclose(run.moved["backbone/scale_w0.25"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(widths.weights("certain", u, {}), 3 * (1 - u) / (1 - u).sum(), rtol=1e-5)


def test_kendall_s_weights_settle_at_the_inverse_of_the_losses():
    run = Run(priority="kendall", priority_rate=0.3)
    measured = run.update()
    losses = np.array([measured[f"train/w{w:g}/loss"] for w in THREE])
    s = run.state.batch_stats["switch"]["log_variance"]
    np.testing.assert_allclose(s, 0.3 * (losses - 1), rtol=1e-5)
    measured = run.update()
    np.testing.assert_allclose([measured[f"train/w{w:g}/weight"] for w in THREE], np.exp(-s), rtol=1e-5)


def test_gradient_norms_are_balanced():
    run = Run(priority="gradnorm", priority_rate=0.01, gradnorm_alpha=0.0)
    first = run.update()
    norms = np.array([first[f"train/w{w:g}/norm"] for w in THREE])
    expected = 1 - 0.01 * np.sign(norms - norms.mean()) * norms
    own = run.state.batch_stats["switch"]
    np.testing.assert_allclose(own["weight"], 3 * expected / expected.sum(), rtol=1e-4)
    np.testing.assert_allclose(own["first_loss"], [first[f"train/w{w:g}/loss"] for w in THREE], rtol=1e-6)
    # With alpha the width whose loss has fallen least is favoured.
    stats = {"switch": {"weight": np.ones(2), "first_loss": np.ones(2)}}
    given = (stats, np.array([1.0, 0.5]), np.ones(2), np.ones(2))
    for alpha, favoured in ((0.0, False), (1.0, True)):
        options = widths.Options(priority="gradnorm", gradnorm_alpha=alpha)
        slow, fast = widths.next_state(options, *given)["switch"]["weight"]
        assert bool(slow > fast) is favoured
    for _ in range(3):
        run.update()
    np.testing.assert_allclose(run.state.batch_stats["switch"]["weight"].sum(), 3, rtol=1e-5)
    np.testing.assert_array_equal(run.state.batch_stats["switch"]["first_loss"], own["first_loss"])


def test_another_loss_for_the_full_width():
    (_, one), (_, two) = once(full_loss="evidential"), once(reduction="mean")
    assert one["train/w0.5/loss"] == pytest.approx(two["train/w0.5/loss"])
    assert one["train/w1/loss"] != pytest.approx(two["train/w1/loss"])


def test_microbatches_freezing_and_the_average_are_those_of_every_update():
    whole, _ = once(projection="all", scope="whole")
    options = step.Options(microbatches=2, freeze="scale_w0.25$", ema=0.5)
    parted = Run(projection="all", options=options)
    parted.update()
    assert not parted.moved["backbone/scale_w0.25"].any()
    assert whole.moved["backbone/scale_w0.25"].any()
    close(parted.moved, {n: v for n, v in whole.moved.items() if n != "backbone/scale_w0.25"})
    seen = step.variables_of(parted.state)["params"]["backbone"]["w"]
    middle = (parted.first.params["backbone"]["w"] + parted.state.params["backbone"]["w"]) / 2
    np.testing.assert_allclose(seen, middle, rtol=1e-5)


def test_drawn_dims_are_drawn_for_all_widths_alike():
    run = Run(options=step.Options(sample=1, keep_full=False))
    measured = run.update()
    for sub in run.subs:
        parts = [measured[f"train/{sub.prefix}loss@{m}"] for m in NESTING.dims]
        assert measured[f"train/w{sub.width:g}/loss"] in [pytest.approx(2 * part) for part in parts]
    of_widths = [measured[f"train/w{width:g}/loss"] for width in THREE]
    np.testing.assert_allclose(measured["train/loss"], np.mean(of_widths), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "about", "message"),
    [
        (
            {"projection": "all"},
            {"number": 1},
            r"switch: \{'projection': 'all'\} is for several widths: set model\.wid",
        ),
        ({"sample": 5}, {}, r"switch\.sample=5 must be in 2\.\.4"),
        ({"sample": 1}, {}, r"switch\.sample=1"),
        ({"priority": "uncertain"}, {}, r"set loss\.name='evidential'"),
        ({"priority": "certain", "full_loss": "softmax"}, {"loss": "evidential"}, "leave switch.full_loss empty"),
        ({"priority": "kendall", "sample": 3}, {}, "set switch.sample=0"),
        ({"priority": "gradnrm"}, {}, "did you mean 'gradnorm'"),
        ({"projection": "alll"}, {}, "did you mean 'all'"),
        ({"classifier": "none"}, {}, r"switch\.classifier='none'"),
        ({"distill": 1.5}, {}, r"switch\.distill=1\.5 must be in 0\.\.1"),
        ({"distill": 0.5}, {"loss": "evidential"}, r"switch\.distill=0\.5 is for logits of loss\.name='softmax'"),
        ({"regress": 1.0}, {"equal": False}, r"set model\.embedding='equal'"),
        ({"regress": -1.0}, {}, r"switch\.regress=-1\.0"),
        ({"triplet": 1.0}, {"equal": False}, r"set model\.embedding='equal'"),
        ({"triplet": 1.0}, {"loss": "binary"}, r"switch\.triplet=1\.0 needs one label a row"),
        ({"triplet": 1.0}, {"mixed": True}, r"switch\.triplet=1\.0 needs one label a row.*mix\.name='none'"),
        ({}, {"equal": False, "dims_sampled": True}, r"nesting\.sample"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, about, message):
    known = {"number": 4, "loss": "softmax", "dims_sampled": False, "mixed": False, "equal": True} | about
    with pytest.raises(ValueError, match=message):
        widths.check(widths.Options(**options), known.pop("number"), **known)
