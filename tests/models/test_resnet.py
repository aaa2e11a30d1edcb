import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrl_jax import models, trees
from mrl_jax.models import resnet
from mrl_jax.nesting import Nesting

TINY = {"variant": "18", "base_width": 4, "stem": "small"}
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 1), dtype=np.uint8)


def tiny(head="mrl_e", nesting=None, dtype="float32", **options):
    options = {**TINY, **options}
    model = models.build(
        "resnet", options, head=head, nesting=nesting or Nesting((8, 32)), num_classes=7, dtype=dtype, mean=0.4, std=0.3
    )
    # Weights drawn by numpy, which has nothing to compile; BatchNorm as it starts.
    variables = jax.eval_shape(model.init, jax.random.key(0), {"image": IMAGES})
    rng = np.random.default_rng(1)

    def draw(name, x):
        if name.rsplit("/")[-1] in ("scale", "var"):
            return jnp.ones(x.shape)
        return jnp.asarray(rng.normal(scale=0.2, size=x.shape), x.dtype) if x.ndim > 1 else jnp.zeros(x.shape)

    return model, trees.map_named(draw, variables)


@pytest.mark.parametrize(
    ("variant", "dim", "parameters"),
    [("18", 512, 11_689_512), ("34", 512, 21_797_672), ("50", 2048, 25_557_032), ("101", 2048, 44_549_160)],
)
def test_parameter_counts_are_torchvisions(variant, dim, parameters):
    model = models.build("resnet", {"variant": variant}, head="ff", nesting=Nesting.fixed(dim), num_classes=1000)
    variables = jax.eval_shape(model.init, jax.random.key(0), {"image": jnp.zeros((1, 64, 64, 3), jnp.uint8)})
    assert trees.count(variables["params"]) == parameters


@pytest.mark.parametrize(("stem", "expected"), [("imagenet", 2), ("small", 8)])
def test_the_stem_sets_the_resolution_of_the_last_stage(stem, expected):
    backbone = resnet.ResNet(bottleneck=False, depths=(1, 1, 1, 1), base_width=4, stem=stem)
    features = jax.eval_shape(
        lambda key: backbone.init_with_output(
            key,
            jnp.zeros((1, 64, 64, 3)),
            train=False,
            capture_intermediates=lambda m, _: m.name == "layer4_0",
            mutable=True,
        ),
        jax.random.key(0),
    )[1]["intermediates"]["layer4_0"]["__call__"][0]
    assert features.shape == (1, expected, expected, 32)


def test_zero_init_residual_makes_every_block_without_shortcut_the_identity():
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 8))
    for zero in (True, False):
        block = resnet.Block(8, 8, stride=1, bottleneck=False, blurpool=False, zero_init_residual=zero)
        y, _ = block.init_with_output(jax.random.key(1), x, train=False)
        assert bool(jnp.allclose(y, x)) is zero


def test_convolutions_start_with_the_variance_of_kaiming_fan_out():
    kernel = np.asarray(resnet.KAIMING_NORMAL(jax.random.key(0), (3, 3, 64, 128), jnp.float32))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (3 * 3 * 128)), rtol=0.02)


def test_bfloat16_computes_in_bfloat16_and_keeps_state_in_float32():
    model, variables = tiny(dtype="bfloat16")
    z, out = jax.jit(lambda v: model.apply(v, {"image": IMAGES}, train=True))(variables)
    assert z.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, out))} == {jnp.dtype("float32")}
    exact, _ = jax.jit(lambda v: tiny()[0].apply(v, {"image": IMAGES}, train=True))(variables)
    np.testing.assert_allclose(z.astype(jnp.float32), exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_training_returns_the_new_running_statistics_under_flat_names():
    model, variables = tiny()
    _, out = jax.jit(lambda v: model.apply(v, {"image": IMAGES}, train=True))(variables)
    updated = trees.unflatten(out, "batch_stats")
    assert jax.tree.structure(updated) == jax.tree.structure(variables["batch_stats"])
    assert all(isinstance(v, jax.Array) and "/" in k for k, v in out.items())
    x = IMAGES / 255.0
    first = jax.lax.conv_general_dilated(
        jnp.asarray((x - 0.4) / 0.3, jnp.float32),
        variables["params"]["backbone"]["conv1"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    statistics = updated["backbone"]["bn1"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * first.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * first.var((0, 1, 2)), atol=1e-4)


def test_evaluation_depends_on_its_own_example_only_and_returns_no_statistics():
    model, variables = tiny()
    apply = jax.jit(lambda v, x: model.apply(v, {"image": x}, train=False))
    z, out = apply(variables, IMAGES)
    assert set(out) == {"head/kernel", "head/bias"}
    np.testing.assert_allclose(apply(variables, IMAGES[:4])[0], z[:4], atol=1e-5)


def test_a_sharded_batch_gives_the_statistics_of_the_global_batch():
    model, variables = tiny()
    apply = jax.jit(lambda v, x: model.apply(v, {"image": x}, train=True))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharded = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("data")))
    replicated = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    (z, out), (z_sharded, out_sharded) = apply(variables, IMAGES), apply(replicated, sharded)
    assert len(mesh.devices) > 1
    np.testing.assert_allclose(z, z_sharded, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), out, out_sharded)


def test_features_beyond_the_fixed_dim_get_no_gradient():
    model, variables = tiny("ff", Nesting.fixed(8))
    assert model.embed_dim == 8

    def loss(params):
        z, _ = model.apply({**variables, "params": params}, {"image": IMAGES}, train=True)
        assert z.shape == (16, 8)
        return jnp.sum(jnp.sin(z))

    gradient = jax.jit(jax.grad(loss))(variables["params"])["backbone"]["layer4_1"]
    for leaf in (gradient["bn2"]["scale"], gradient["conv2"]["kernel"]):
        np.testing.assert_array_equal(leaf[..., 8:], 0)
        assert float(jnp.abs(leaf[..., :8]).max()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": 50}, r"model\.variant=50 is not one of .*did you mean '50'"),
        ({"stem": "smal"}, r"model\.stem='smal' .*did you mean 'small'"),
        ({"base_width": 0}, "base_width=0 must be positive"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        resnet.build(**options)
