"""Sub-models of several widths: each is the narrow network on slices, and touches nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import flops, models, trees
from mrl_jax.models import elastic
from mrl_jax.nesting import Nesting

BATCH = {"image": np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)}
RESNET = {"variant": "10", "base_width": 4, "stem": "small"}
VIT = {"variant": "mu/4"}
KINDS = {
    "resnet": ("resnet", {**RESNET, "widths": (0.5, 1.0)}, "mrl", Nesting((8, 32))),
    "projected": ("resnet", {**RESNET, "widths": (0.25, 0.5, 1.0), "projection": 16}, "mrl_e", Nesting((8, 16))),
    "slimmable": ("resnet", {**RESNET, "widths": (0.5, 1.0), "embedding": "scaled"}, "mrl_e", Nesting((16, 32))),
    "vit": ("vit", {**VIT, "widths": (0.5, 1.0), "private_norm": True}, "mrl", Nesting((8, 32))),
    "scaled vit": ("vit", {**VIT, "widths": (0.5, 1.0), "embedding": "scaled"}, "mrl", Nesting((16, 32))),
}


@functools.cache
def made(kind):
    """The model and variables drawn by numpy, which has nothing to compile."""
    name, options, head, nesting = KINDS[kind]
    model = models.build(name, options, head=head, nesting=nesting, num_classes=5)
    rng = np.random.default_rng(1)

    def draw(name, x):
        spread = rng.normal(scale=0.2, size=x.shape).astype(x.dtype)
        return 1 + abs(spread) if name.endswith(("scale", "var")) else spread

    return model, trees.map_named(draw, jax.eval_shape(model.init, jax.random.key(0), BATCH))


def alone(kind, width):
    """The network of this width, built without the others."""
    name, options, head, _ = KINDS[kind]
    own = {k: v for k, v in options.items() if k != "widths"} | {"width": width}
    return models.build(name, own, head=head, nesting=made(kind)[0].nestings[width], num_classes=5)


def work(model, variables, **arguments):
    return flops.count(lambda v: model.apply(v, BATCH, train=False, **arguments)[0], variables)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sub_model_is_the_narrow_network_with_the_sliced_weights(kind):
    model, variables = made(kind)
    for width in model.widths[:-1]:
        own, narrow = model.narrow(variables, BATCH, width), alone(kind, width)
        expected = jax.eval_shape(narrow.init, jax.random.key(0), BATCH)
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, expected)
        assert work(model, variables, width=width) == work(narrow, own) < 0.75 * work(model, variables)
    z, out = jax.jit(functools.partial(model.apply, train=False, width=width))(variables, BATCH)
    z_alone, out_alone = jax.jit(functools.partial(narrow.apply, train=False))(own, BATCH)
    np.testing.assert_allclose(z, z_alone, atol=1e-6)
    assert {n: x.shape for n, x in out.items()} == {n: x.shape for n, x in out_alone.items()}
    assert z.shape[1] == model.nestings[width].full


def test_the_embedding_has_one_size_at_every_width_or_the_share_of_each():
    for kind, dims in (("resnet", (32, 32)), ("projected", (16, 16, 16)), ("slimmable", (16, 32)), ("vit", (32, 32))):
        model, variables = made(kind)
        for width, dim in zip(model.widths, dims):
            z, _ = jax.eval_shape(lambda v, w=width, m=model: m.apply(v, BATCH, train=False, width=w), variables)
            assert z.shape == (4, dim)


def test_the_work_of_half_the_width_is_about_a_quarter_where_every_layer_is_sliced():
    model, variables = made("projected")
    half, quarter = (work(model, variables, width=w) / work(model, variables) for w in (0.5, 0.25))
    assert 0.25 < half < 0.3
    assert 1 / 16 < quarter < 0.1


@pytest.mark.parametrize("kind", ["projected", "vit"])
def test_training_a_width_touches_its_own_norms_and_the_leading_weights_only(kind):
    model, variables = made(kind)

    def loss(params):
        z, out = model.apply({**variables, "params": params}, BATCH, train=True, width=0.5)
        statistics = {name for name in out if name.startswith("batch_stats/")}
        assert all("_w0.5/" in name for name in statistics)
        assert bool(statistics) is (kind == "projected")
        return jnp.sum(jnp.sin(z)) + sum(jnp.sum(out[f"head/{n}"]) for n in variables["params"]["head"])

    gradient = trees.flatten(jax.jit(jax.grad(loss))(variables["params"]))
    owned = model.owned(BATCH, 0.5)
    for name, value in gradient.items():
        inside = tuple(slice(n) for n in owned.get(name, (0,) * value.ndim))
        assert np.asarray(value)[inside].any() == (name in owned), name
        rest = np.array(value)
        rest[inside] = 0
        assert not rest.any(), name
    norms = {name for name in gradient if name.endswith(("scale",))}
    assert {name for name in norms if "_w0.5/" in name} == norms & set(owned) != norms


def test_the_full_width_is_the_plain_network_under_the_same_names():
    model, variables = made("resnet")
    plain = alone("resnet", 1.0)
    expected = trees.flatten(jax.eval_shape(plain.init, jax.random.key(0), BATCH))
    flat = trees.flatten(variables)
    assert {name for name in flat if "_w" not in name} == set(expected)
    own = trees.unflatten({name: flat[name] for name in expected})
    apply = jax.jit(functools.partial(plain.apply, train=False))
    whole = jax.jit(functools.partial(model.apply, train=False))
    np.testing.assert_allclose(whole(variables, BATCH)[0], apply(own, BATCH)[0], atol=1e-6)
    assert plain.widths == (1.0,)


def test_every_bank_starts_as_the_leading_part_of_the_full_one():
    full = {"params": {"backbone": {"bn1": {"scale": np.arange(4.0)}}}}
    private = elastic.Private("scale$")
    own = {w: {"params/backbone/bn1/scale": (int(4 * w),)} for w in (0.25, 0.5, 1.0)}
    found = trees.flatten(elastic.add_banks(full, own, private))
    assert {name: list(v) for name, v in found.items()} == {
        "params/backbone/bn1/scale": [0, 1, 2, 3],
        "params/backbone/bn1_w0.25/scale": [0],
        "params/backbone/bn1_w0.5/scale": [0, 1],
    }
    model = made("resnet")[0]
    variables = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, made("resnet")[1])


def test_an_elastic_depth_takes_the_first_layers():
    for scan in (False, True):
        options = {"variant": "S/4", "widths": (0.5, 1.0), "elastic_depth": True, "scan": scan}
        model = models.build("vit", options, head="ff", nesting=Nesting.fixed(8), num_classes=5)
        owned = model.owned(BATCH, 0.5)
        blocks = {name.split("/")[2] for name in owned if "encoderblock" in name}
        query = next(shape for name, shape in owned.items() if name.endswith("query/kernel"))
        expected = {"encoderblock"} if scan else {f"encoderblock_{i}" for i in range(6)}
        assert (blocks, query) == (expected, (*((6,) if scan else ()), 384, 3, 64))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("resnet", {"widths": (0.5, 0.75)}, r"model\.widths=\(0\.5, 0\.75\) must rise and end at 1\.0"),
        ("resnet", {"widths": (0.5, 0.25, 1.0)}, "must rise"),
        ("resnet", {"widths": (0.0, 1.0)}, r"a width of model\.widths=0\.0 must be a number above 0"),
        ("resnet", {"widths": (0.1, 1.0)}, r"width 0\.1 of model\.base_width=4 channels .* leaves none"),
        ("resnet", {"width": 0.5}, r"model\.width=0\.5 is for one network, and model\.widths=\(0\.5, 1\.0\) for sev"),
        ("resnet", {"embedding": "same"}, r"model\.embedding='same' is not one of"),
        ("resnet", {"embedding": "scaled"}, r"nesting\.dims=\(8, 32\).*\(16, 32\) for the widths \(0\.5, 1\.0\)"),
        ("resnet", {"projection": -1}, r"model\.projection=-1"),
        ("vit", {"widths": (0.25, 1.0)}, r"width 0\.25 of 2 attention heads is 0\.5 of them: .* such as 0\.5"),
        ("vit", {"widths": (), "width": 1.5}, r"model\.width=1\.5 must be a number above 0, at most 1"),
    ],
    ids=str,
)
def test_bad_widths_are_refused(kind, options, message):
    name, own, head, nesting = KINDS[kind]
    with pytest.raises(ValueError, match=message):
        models.build(name, {**own, **options}, head=head, nesting=nesting, num_classes=5)


def test_a_width_that_was_not_trained_is_refused():
    model, variables = made("resnet")
    with pytest.raises(ValueError, match=r"width=0\.3: model\.name='resnet' was trained at \(0\.5, 1\.0\) only"):
        model.apply(variables, BATCH, train=False, width=0.3)
