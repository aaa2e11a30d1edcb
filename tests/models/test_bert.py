"""The text encoder: padding, pooling, both places of the norm, and what a model of texts gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import config as defaults
from mrl_jax import models
from mrl_jax.models import bert
from mrl_jax.nesting import Nesting

NESTING = Nesting((8, 32))
TEXTS = np.array([[2, 9, 8, 7, 3, 0, 0, 0], [2, 11, 12, 3, 0, 0, 0, 0]], np.int32)


def build(head="mrl_e", nesting=NESTING, **options):
    own = defaults.bert("mu") | options
    return models.build(own.pop("name"), own, head=head, nesting=nesting, num_classes=1, vocabulary=20, pad=0)


def embed(model, variables, tokens):
    return model.apply(variables, {"tokens": tokens}, train=False)[0]


@pytest.mark.parametrize("norm", bert.NORMS)
@pytest.mark.parametrize("pool", bert.POOLS)
def test_what_fills_up_a_text_changes_nothing(norm, pool):
    model = build(norm=norm, pool=pool)
    variables = jax.jit(model.init)(jax.random.key(0), {"tokens": TEXTS})
    assert ("final_norm" in variables["params"]["encoder"]) == (norm == "pre")
    whole, cut = embed(model, variables, TEXTS), embed(model, variables, TEXTS[:, :5])
    assert whole.shape == (2, 32)
    np.testing.assert_allclose(whole, cut, rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole, embed(model, variables, np.where(TEXTS == 8, 9, TEXTS)), atol=1e-3)
    assert np.isfinite(embed(model, variables, np.zeros_like(TEXTS))).all()


def test_pools_are_what_their_names_say():
    x = jax.random.normal(jax.random.key(0), (1, 4, 3))
    mask = jnp.array([[True, True, True, False]])
    np.testing.assert_allclose(bert.pool(x, mask, "mean")[0], x[0, :3].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(bert.pool(x, mask, "max")[0], x[0, :3].max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(bert.pool(x, mask, "cls")[0], x[0, 0], rtol=1e-6)


def test_the_head_over_the_vocabulary_is_the_table_of_token_embeddings():
    batch = {"tokens": TEXTS, "positions": np.array([[1, 3], [1, 0]], np.int32)}
    for head, nesting in (("mrl_e", NESTING), ("ff", Nesting((8,)))):
        model = build(head, nesting)
        variables = jax.jit(model.init)(jax.random.key(0), batch)
        z, out = model.apply(variables, batch, train=True, rngs={"dropout": jax.random.key(0)})
        table = variables["params"]["encoder"]["word"]["embedding"]
        np.testing.assert_array_equal(out["head/kernel"], table.T[: nesting.full])
        assert (z.shape, out["masked/z"].shape) == ((2, nesting.full), (2, 2, nesting.full))
        assert out["head/bias"].shape == (20,)


def test_both_texts_of_a_pair_pass_through_one_tower():
    model = build("none", scale=90.0, bias=-3.0)
    batch = {"tokens": TEXTS, "tokens_2": TEXTS[::-1]}
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    z, out = model.apply(variables, batch, train=False)
    np.testing.assert_allclose(z, out["pair/z"][::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([out["pair/scale"], out["pair/bias"]], [90.0, -3.0], rtol=1e-5)
    variables["params"]["temperature"]["log_scale"] += 1.0
    np.testing.assert_allclose(model.apply(variables, batch, train=False)[1]["pair/scale"], 100.0, rtol=1e-5)

    def gradient(sign):
        def loss(temperature):
            params = variables["params"] | {"temperature": temperature}
            return sign * model.apply({"params": params}, batch, train=False)[1]["pair/scale"]

        return float(jax.grad(loss)(variables["params"]["temperature"])["log_scale"])

    assert gradient(1.0) == pytest.approx(100.0, rel=1e-5), "descent leads back below the limit"
    assert gradient(-1.0) == 0.0, "and no further beyond it"
    variables["params"]["temperature"]["log_scale"] -= 1.0
    assert gradient(-1.0) == pytest.approx(-90.0, rel=1e-5)


def test_every_dim_may_have_a_temperature_of_its_own():
    model = build("none", nesting=Nesting((8, 32)), scale=20.0, bias=-3.0, scale_per_dim=True)
    batch = {"tokens": TEXTS, "tokens_2": TEXTS[::-1]}
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    variables["params"]["temperature"]["log_scale"] += np.log([1.0, 2.0])
    out = model.apply(variables, batch, train=False)[1]
    np.testing.assert_allclose(out["pair/scale"], [20.0, 40.0], rtol=1e-5)
    np.testing.assert_allclose(out["pair/bias"], [-3.0, -3.0])
    logged = {name: float(value) for name, value in out.items() if name.startswith("log/")}
    assert logged == pytest.approx({"log/temperature@8": 1 / 20, "log/temperature@32": 1 / 40}, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "Bas"}, "did you mean 'Base'"),
        ({"pool": "first"}, r"model\.pool='first'"),
        ({"norm": "none"}, r"model\.norm='none'"),
        ({"dropout": 1.0}, r"model\.dropout=1\.0"),
        ({"head": "mrl"}, "head='mrl' is not one of"),
        ({"nesting": Nesting((8, 16))}, "ends at 16, but the embedding has 32"),
        ({"scale": 200.0}, r"at most model\.max_scale=100"),
        ({"scale_per_dim": 1}, r"model\.scale_per_dim=1 must be"),
        ({"size": 3}, "'size' is not an option|size=3 is not an option"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)


def test_a_text_longer_than_the_positions_is_named():
    model = build(positions=6)
    with pytest.raises(ValueError, match=r"texts of 8 tokens are longer than model\.positions=6"):
        jax.eval_shape(model.init, jax.random.key(0), {"tokens": TEXTS})
