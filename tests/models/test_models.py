import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax.models import heads
from mrl_jax.nesting import Nesting

BATCH = {"image": np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)}
BACKBONES = {
    "resnet": ({"variant": "18", "base_width": 2, "stem": "small"}, Nesting((4, 16))),
    "vit": ({"variant": "mu/4"}, Nesting((8, 32))),
}


def build(name, head="mrl", nesting=None, num_classes=5, **arguments):
    options, nested = BACKBONES[name]
    options = {**options, **arguments.pop("options", {})}
    return models.build(name, options, head=head, nesting=nesting or nested, num_classes=num_classes, **arguments)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("train", [False, True])
def test_the_seam(name, train):
    model, nesting = build(name), BACKBONES[name][1]
    variables = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    z, out = jax.eval_shape(lambda v: model.apply(v, BATCH, train=train), variables)
    assert (z.shape, z.dtype) == ((2, model.embed_dim), jnp.float32)
    assert model.embed_dim == nesting.full
    assert set(variables) == ({"params", "batch_stats"} if name == "resnet" else {"params"})
    expected = {f"head/kernel_{m}": (m, 5) for m in nesting.dims} | {f"head/bias_{m}": (5,) for m in nesting.dims}
    assert {k: v.shape for k, v in out.items() if not k.startswith("batch_stats/")} == expected
    assert any(k.startswith("batch_stats/backbone/") for k in out) is (train and name == "resnet")
    assert all(isinstance(v, jax.ShapeDtypeStruct) for v in out.values())


def test_out_holds_the_head_parameters_so_that_a_loss_trains_them():
    model = build("vit", head="mrl_e")
    variables = model.init(jax.random.key(0), BATCH)

    def loss(variables):
        z, out = model.apply(variables, BATCH, train=False)
        return jnp.sum(heads.logits(z, out, BACKBONES["vit"][1], 4))

    gradient = jax.jit(jax.grad(loss))(variables)["params"]
    np.testing.assert_allclose(gradient["head"]["bias"], 2.0, rtol=1e-6)
    assert float(jnp.abs(gradient["head"]["kernel"][:4]).max()) > 0
    np.testing.assert_array_equal(gradient["head"]["kernel"][4:], 0)
    assert float(jnp.abs(gradient["backbone"]["embedding"]["kernel"]).max()) > 0


def test_the_start_depends_on_the_key_and_not_on_the_images():
    init = jax.jit(build("vit").init)
    first, same = init(jax.random.key(0), BATCH), init(jax.random.key(0), {"image": BATCH["image"] // 2})
    jax.tree.map(np.testing.assert_array_equal, first, same)
    other = init(jax.random.key(1), BATCH)["params"]["backbone"]["embedding"]["kernel"]
    assert float(jnp.abs(first["params"]["backbone"]["embedding"]["kernel"] - other).max()) > 0.1


def test_uint8_images_equal_their_standardised_floats():
    model = build("vit", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    variables = model.init(jax.random.key(0), BATCH)
    floats = (BATCH["image"] / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    apply = jax.jit(lambda x: model.apply(variables, {"image": x}, train=False)[0])
    np.testing.assert_allclose(apply(BATCH["image"]), apply(jnp.asarray(floats, jnp.float32)), atol=1e-5)


@pytest.mark.parametrize("init", heads.INITS)
def test_the_option_for_the_start_of_the_head_reaches_it(init):
    model = build("vit", options={"head_init": init})
    head = model.init(jax.random.key(0), BATCH)["params"]["head"]
    assert all(np.any(leaf) == (init == "uniform" or (init, leaf.ndim) == ("simplex", 2)) for leaf in head.values())


def test_the_corners_of_a_simplex_are_unit_vectors_equally_apart():
    model = build("vit", head="mrl_e", options={"head_init": "simplex"})
    kernel = np.asarray(jax.jit(model.init)(jax.random.key(0), BATCH)["params"]["head"]["kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, np.full((5, 5), -1 / 4) + np.eye(5) * 5 / 4, atol=1e-6)
    short = build("vit", head="ff", nesting=Nesting.fixed(3), options={"head_init": "simplex"})
    with pytest.raises(ValueError, match=r"'simplex' puts 5 classes into 4 dims, and a head has 3 only"):
        jax.eval_shape(short.init, jax.random.key(0), BATCH)


@pytest.mark.parametrize("name", BACKBONES)
def test_these_backbones_have_one_width(name):
    model = build(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    with pytest.raises(ValueError, match=rf"width=0\.5: model\.name='{name}' has one width only"):
        model.apply(variables, BATCH, train=False, width=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"blurpol": True}}, r"model\.blurpol=True is not an option of 'resnet'.*did you mean 'blurpool'"),
        ({"options": {"head_init": "zero"}}, r"model\.head_init='zero' .*did you mean 'zeros'"),
        ({"head": "mrle"}, r"head='mrle' .*did you mean 'mrl_e'"),
        ({"nesting": Nesting((4, 8))}, r"ends at 8, but the embedding has 16 features"),
        ({"head": "ff"}, "exactly one dim"),
        ({"dtype": "bf16"}, r"dtype='bf16' is not one of \['float32', 'bfloat16'\]"),
        ({"num_classes": 0}, "num_classes=0 must be positive"),
        ({"std": (0.5, 0.0, 0.5)}, r"std=\(0\.5, 0\.0, 0\.5\) must be positive"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("resnet", **arguments)


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"model\.name='resnets' is not one of .*did you mean 'resnet'"):
        models.build("resnets", {}, head="mrl", nesting=Nesting((4, 16)), num_classes=5)
