"""Grad-CAM: closed forms where the pooling is a mean, finite differences where it is not; nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax import models
from mrl_jax.evals import gradcam
from mrl_jax.evals.linear_heads import Heads
from mrl_jax.nesting import Nesting

RESNET = {"variant": "10", "stem": "small", "base_width": 4}


def model(name="resnet", full=32, **options):
    found = models.build(
        name, RESNET | options if name == "resnet" else options, head="mrl_e", nesting=Nesting((8, full)), num_classes=5
    )
    image = jnp.asarray(np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3)), jnp.uint8)
    variables = jax.jit(found.init)(jax.random.key(0), {"image": image})
    return found._replace(apply=jax.jit(found.apply, static_argnames="train")), variables, image


@pytest.mark.parametrize(
    ("name", "options", "tokens"),
    [
        ("resnet", {}, None),
        ("vit", {"variant": "mu/8"}, 4),
        ("vit", {"variant": "mu/8", "pool": "map"}, 4),
        ("vit", {"variant": "mu/8", "pool": "tok"}, 5),
    ],
)
def test_an_offset_of_zero_changes_nothing_and_shows_the_last_stage(name, options, tokens):
    found, variables, image = model(name, **options)
    z, out = found.apply(variables, {"image": image}, train=False)
    same, seen = found.apply(variables, {"image": image, "offset": jnp.zeros(())}, train=False)
    np.testing.assert_array_equal(z, same)
    assert set(seen) - set(out) == {"last_stage"}
    assert seen["last_stage"].shape == ((3, 2, 2, 32) if tokens is None else (3, tokens, 32))
    if options.get("pool", "gap") == "gap":
        mean = seen["last_stage"].reshape(3, -1, 32).mean(axis=1)
        np.testing.assert_allclose(mean, z, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="train=False"):
        found.apply(variables, {"image": image, "offset": jnp.zeros(())}, train=True)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_maps_of_mean_pooling_are_the_weighted_sum_of_the_channels(name):
    found, variables, image = model(name, **({"variant": "mu/8"} if name == "vit" else {}))
    rng = np.random.default_rng(1)
    heads = Heads([rng.normal(size=(m, 5)).astype(np.float32) for m in (8, 32)], [np.zeros(5, np.float32)] * 2)
    classes = np.array([[0, 1, 2], [4, 3, 2]])
    maps = gradcam.maps(found.apply, variables, image, heads, classes)
    _, out = found.apply(variables, {"image": image, "offset": jnp.zeros(())}, train=False)
    activations = np.asarray(out["last_stage"]).reshape(3, 2, 2, 32)
    for g, m in enumerate((8, 32)):
        for b in range(3):
            plain = np.maximum(activations[b, :, :, :m] @ heads.kernels[g][:, classes[g, b]], 0)
            np.testing.assert_allclose(maps[g, b], plain / max(plain.max(), 1e-30), rtol=1e-3, atol=1e-4)
    assert maps.max() == 1.0


@pytest.mark.parametrize("pool", ["map", "tok"])
def test_maps_through_attention_follow_the_gradient(pool):
    found, variables, image = model("vit", variant="mu/8", pool=pool)
    # The norm of a class token of zeros, as it starts, has no slope to speak of.
    variables = jax.tree.map(lambda x: x + 0.1 * np.random.default_rng(3).normal(size=x.shape), variables)
    kernel = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    maps = gradcam.maps(
        found.apply, variables, image, Heads([kernel], [np.zeros(5, np.float32)]), np.array([[0, 1, 2]])
    )
    assert maps.shape == (1, 3, 2, 2)

    def score(offset):
        z, out = found.apply(variables, {"image": image, "offset": offset}, train=False)
        return jnp.vdot(z[1, :8], kernel[:, 1]), out["last_stage"]

    zeros = jnp.zeros_like(score(jnp.zeros(()))[1])
    gradient, activations = jax.grad(score, has_aux=True)(zeros)
    skip = int(pool == "tok")
    # By a difference along one direction, so that the gradient itself is not taken on trust.
    step = jnp.asarray(np.random.default_rng(2).normal(size=zeros.shape), jnp.float32) * 1e-2
    slope = (score(step)[0] - score(-step)[0]) / 2
    np.testing.assert_allclose(jnp.vdot(gradient, step), slope, rtol=2e-2, atol=1e-5)
    weight = np.asarray(gradient)[1, skip:].mean(axis=0)
    plain = np.maximum(np.asarray(activations)[1, skip:] @ weight, 0).reshape(2, 2)
    np.testing.assert_allclose(maps[0, 1], plain / max(plain.max(), 1e-30), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_looked_into_says_so():
    found, variables, image = model("vit", variant="mu/8", pool="tok", scan=True)
    with pytest.raises(ValueError, match="the last layer of a scan"):
        found.apply(variables, {"image": image, "offset": jnp.zeros(())}, train=False)
    found, variables, image = model("resnet", stem="imagenet")
    heads = Heads([np.ones((8, 5), np.float32)], [np.zeros(5, np.float32)])
    with pytest.raises(ValueError, match="one place for the whole image of 16x16"):
        gradcam.maps(found.apply, variables, image, heads, np.zeros((1, 3), int))
