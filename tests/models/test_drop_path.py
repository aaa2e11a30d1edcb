import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import models, trees
from mrl_jax.models import resnet, vit
from mrl_jax.models.drop_path import drop_path, rates
from mrl_jax.nesting import Nesting

IMAGE = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))


def test_each_example_is_kept_and_scaled_or_dropped_whole():
    x = jnp.ones((2000, 3, 2))
    dropped = np.asarray(drop_path(x, 0.25, jax.random.key(1)))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert (dropped == dropped[:, :1, :1]).all()
    np.testing.assert_allclose(dropped.mean(), 1.0, rtol=0.05)
    assert drop_path(x.astype(jnp.bfloat16), 0.5, jax.random.key(1)).dtype == jnp.bfloat16


def test_the_rate_grows_linearly_with_depth():
    np.testing.assert_allclose(rates(0.3, 4), [0.0, 0.1, 0.2, 0.3])
    assert rates(0.3, 1) == [0.3]


def backbone(name, rate):
    if name == "resnet":
        return resnet.build(variant="10", stem="small", base_width=2, drop_path=rate)
    forms = {"vit": (False, False), "remat and scan": (True, True)}
    return vit.ViT(8, vit.Size(8, 2, 16, 2), drop_path=rate, remat=forms[name][0], scan=forms[name][1])


def init(module):
    return jax.jit(functools.partial(module.init, train=False))(jax.random.key(0), IMAGE)


@pytest.mark.parametrize("name", ["resnet", "vit", "remat and scan"])
def test_at_a_rate_near_one_the_last_layer_is_always_left_out_and_the_first_never(name):
    module = backbone(name, 0.9999)
    variables = init(module)
    stats = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def gradient(params):
        def loss(params):
            key = {"dropout": jax.random.key(2)}
            z, _ = module.apply({"params": params, **stats}, IMAGE, train=True, rngs=key, mutable=["batch_stats"])
            return jnp.square(z - 1).sum()

        return jax.grad(loss)(params)

    found = trees.flatten(gradient(variables["params"]))
    layers = {"first": [], "last": []}
    for path, value in found.items():
        if path.startswith("Transformer/encoderblock/"):
            layers["first"].append(value[0])
            layers["last"].append(value[1])
        elif path.startswith(("Transformer/encoderblock_0", "layer1_0/")):
            layers["first"].append(value)
        elif path.startswith(("Transformer/encoderblock_1", "layer4_0/conv", "layer4_0/bn")):
            layers["last"].append(value)
    assert not any(value.any() for value in layers["last"])
    assert any(value.any() for value in layers["first"])


@pytest.mark.parametrize("name", ["resnet", "remat and scan"])
def test_evaluation_drops_nothing(name):
    plain, dropping = backbone(name, 0.0), backbone(name, 0.5)
    variables = init(plain)
    found = [jax.jit(functools.partial(m.apply, train=False))(variables, IMAGE) for m in (plain, dropping)]
    np.testing.assert_array_equal(*found)


def test_the_distance_of_every_parameter_from_the_head():
    options = {"head": "mrl_e", "num_classes": 3}
    model = models.build("vit", {"variant": "Ti/8"}, nesting=Nesting((192,)), **options)
    expected = {
        "head/kernel": 0,
        "backbone/Transformer/encoder_norm/scale": 0,
        "backbone/Transformer/encoderblock_11/LayerNorm_0/scale": 1,
        "backbone/Transformer/encoderblock_0/LayerNorm_0/scale": 12,
        "backbone/embedding/kernel": 13,
        "backbone/pos_embedding": 13,
    }
    assert {name: int(model.distance(name)) for name in expected} == expected
    stacked = models.build("vit", {"variant": "Ti/8", "scan": True}, nesting=Nesting((192,)), **options)
    np.testing.assert_array_equal(
        stacked.distance("backbone/Transformer/encoderblock/LayerNorm_0/scale"), np.arange(12, 0, -1)
    )
    model = models.build("resnet", {"variant": "50"}, nesting=Nesting((2048,)), **options)
    names = ("head/kernel", "backbone/layer4_2/conv1/kernel", "backbone/layer1_0/bn1/scale", "backbone/conv1/kernel")
    assert [model.distance(name) for name in names] == [0, 1, 4, 5]


def test_position_embeddings_fit_another_grid():
    smooth = np.linspace(0, 1, 4)[:, None] + np.linspace(0, 1, 4)[None]
    stored = np.repeat(smooth.reshape(1, 16, 1), 3, axis=2).astype(np.float32)
    found = models.fit("backbone/pos_embedding", stored, (1, 64, 3))
    assert found.shape == (1, 64, 3)
    grid = found[0, :, 0].reshape(8, 8)
    np.testing.assert_allclose(grid, grid.T, atol=1e-6)
    assert (np.diff(grid, axis=0) >= 0).all()
    np.testing.assert_allclose(models.fit("backbone/pos_embedding", found, (1, 16, 3)), stored, atol=0.15)
    assert models.fit("backbone/pos_embedding", stored, (1, 15, 3)) is None
    assert models.fit("backbone/pos_embedding", stored, (1, 64, 5)) is None
    assert models.fit("head/kernel", stored, (1, 64, 3)) is None
