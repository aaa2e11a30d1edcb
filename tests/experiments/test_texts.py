"""Cuts of a masked language model that was not nested."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import linear_maps
from mrl_jax.evals.masked_lm import MaskedLanguageModel
from mrl_jax.nesting import Nesting

DIM, PIECES = 8, 30
NESTING = Nesting((2, 4, DIM))


class Store:
    """Texts of four gaps each, some unused; the head has a bias, the features a mean far from 0 and a plane."""

    nesting = Nesting((DIM,))

    def __init__(self):
        rng = np.random.default_rng(0)
        plane_2xD = np.linalg.qr(rng.normal(size=(DIM, 2)))[0].T
        z_BxSxD = 3 + rng.normal(size=(32, 4, 2)) @ plane_2xD + 0.01 * rng.normal(size=(32, 4, DIM))
        kernel_DxV, bias_V = rng.normal(size=(DIM, PIECES)), rng.normal(size=PIECES)
        logits = z_BxSxD @ kernel_DxV + bias_V
        targets = np.where(np.arange(4) < 3, logits.argmax(-1), -1)
        out = {"masked/z": z_BxSxD, "head/kernel": kernel_DxV, "head/bias": bias_V}
        self.out = {name: jnp.asarray(x, jnp.float32) for name, x in out.items()}
        self.batch = {"targets": jnp.asarray(targets), "mask": jnp.arange(32) < 30}

    def outputs(self, split):
        yield self.batch, self.out


@pytest.mark.parametrize("name", ["prefix", "random", "pca"])
def test_a_cut_keeps_the_logits_at_full_size(name):
    store = Store()
    [(_, out)] = linear_maps.of_gaps(store, NESTING, 0)[name].outputs("test")

    def logits(out):
        return out["masked/z"] @ out["head/kernel"] + out["head/bias"][None, None]

    np.testing.assert_allclose(logits(out), logits(store.out), atol=1e-4)


def test_the_evaluator_finds_in_two_components_what_lies_in_a_plane():
    found = {
        name: dict(MaskedLanguageModel().run(cut)) for name, cut in linear_maps.of_gaps(Store(), NESTING, 0).items()
    }
    assert all(values[f"top1@{DIM}"] == 1.0 for values in found.values())
    assert found["pca"]["top1@2"] > 0.95
    assert found["prefix"]["top1@2"] < 0.6
    assert found["prefix"] != found["random"]
