"""Logits of converted weights."""

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax import models
from mrl_jax.models import heads
from mrl_jax.nesting import Nesting


def images(size, batch=2):
    """Standardised images (B, H, W, 3), and the same in torch's order."""
    x = np.random.default_rng(1).normal(size=(batch, size, size, 3)).astype(np.float32)
    return x, np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def logits(variables, about, x):
    """By dim, what the model that `about` describes makes of the images."""
    options, nesting = dict(about["model"]), Nesting(tuple(about["nesting"]["dims"]))
    model = models.build(
        options.pop("name"), options, head=about["head"], nesting=nesting, num_classes=about["num_classes"]
    )
    z, out = jax.jit(lambda v, x: model.apply(v, {"image": x}, train=False))(variables, jnp.asarray(x))
    return {m: np.asarray(heads.logits(z, out, nesting, m)) for m in nesting.dims}


def assert_close(ours, theirs):
    """Equal to 1e-4, where that means something."""
    for value, expected in zip(ours.values(), theirs, strict=True):
        assert np.std(expected) > 0.05
        np.testing.assert_allclose(value, expected, atol=1e-4, rtol=1e-4)
