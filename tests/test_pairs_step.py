"""Updates on pairs: gradient caching, the temperature in the log, duplicates, devices, a frozen tower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import config as defaults
from mrl_jax import objectives, parts, sharding, trees
from mrl_jax.data import images, sources
from mrl_jax.data.text.transforms import Captioned
from mrl_jax.nesting import Nesting

DATA = "synthetic:size=8,channels=1,classes=20,examples=48,context=8,vocabulary=40"


def config(**overrides):
    own = {
        "data__name": DATA,
        "data__kind": "image_text",
        "head": "none",
        "model": defaults.dual_encoder(defaults.vit("mu/8"), defaults.bert("mu") | {"dropout": 0.0}),
        "loss": {"name": "contrastive", "chunk": 0, "duplicates": "masked"},
        "evals": {},
    }
    return tiny.config(**own | overrides)


def update(run, count=1):
    """The parameters before and after so many updates, and the last measurements."""
    with jax.set_mesh(run.mesh):
        state, batches = parts.init_state(run), parts.train_batches(run, 0)
        before = jax.device_get(trees.flatten(state.params))
        step = parts.jit_train_step(run)
        for _ in range(count):
            state, measured = step(state, sharding.to_devices(next(batches), run.mesh))
        batches.close()
    return before, jax.device_get(trees.flatten(state.params)), jax.device_get(measured)


def one_device():
    return sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def plain():
    """On one device."""
    return update(parts.assemble(config(optim=defaults.sgd(0.1)), one_device()))


def test_microbatches_give_the_update_of_the_whole_batch(plain):
    _, after, measured = update(parts.assemble(config(optim=defaults.sgd(0.1), accumulate=4), one_device()))
    assert measured.keys() == plain[2].keys()
    for name, value in plain[2].items():
        np.testing.assert_allclose(measured[name], value, rtol=1e-4, err_msg=name)
    for name, value in plain[1].items():
        np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    moved = [name for name in after if np.abs(after[name] - plain[0][name]).max() > 1e-6]
    assert {"image/embedding/kernel", "text/word/embedding", "temperature/log_scale"} <= set(moved)


def test_microbatches_know_that_temperatures_of_the_dims_are_no_rows():
    model = config().model.to_dict() | {"scale_per_dim": True}
    runs = [config(model=model, optim=defaults.sgd(0.1), accumulate=n) for n in (1, 4)]
    (before, whole, _), (_, after, measured) = (update(parts.assemble(run, one_device())) for run in runs)
    assert whole["temperature/log_scale"].shape == (len(runs[0].nesting.dims),)
    assert (whole["temperature/log_scale"] != before["temperature/log_scale"]).all()
    assert {f"train/temperature@{dim}" for dim in runs[0].nesting.dims} <= measured.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_pairs_of_one_image_are_no_negatives_of_each_other():
    image = np.full((8, 8, 1), 7, np.uint8)
    transform = Captioned(images.parse("decode"), sources.load(DATA, "train", data_dir="").vocabulary, 8)
    rows = [(image, [5]), (image.copy(), [6]), (image + 1, [7])]
    found = [transform.begin({"image": x, "tokens": tokens, "label": 0}) for x, tokens in rows]
    batch = {name: jnp.stack([record[name] for record in found]) for name in ("caption", "picture")}
    rng = np.random.default_rng(0)
    z, pair = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    out = {"pair/z": pair, "pair/scale": jnp.float32(2), "pair/bias": jnp.float32(0)}
    nesting = Nesting((2, 4))
    for name in ("contrastive", "sigmoid"):
        loss = objectives.OBJECTIVES[name](nesting)
        same = loss(z, out, {"caption": jnp.asarray([0, 0, 1])})
        np.testing.assert_allclose(loss(z, out, batch).per_dim, same.per_dim, rtol=1e-6)
        assert loss(z, out, {"caption": batch["caption"]}).total > same.total


def test_eight_devices_give_the_update_of_one_and_a_frozen_tower_stays(plain):
    optim = defaults.sgd(0.1) | {"freeze": "^image/"}
    before, after, measured = update(parts.assemble(config(optim=optim)))
    np.testing.assert_allclose(measured["train/loss"], plain[2]["train/loss"], rtol=1e-5)
    for name, value in after.items():
        expected = before[name] if name.startswith("image/") else plain[1][name]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_log_has_the_temperature_and_the_accuracy_of_retrieval(plain):
    measured = plain[2]
    np.testing.assert_allclose(measured["train/temperature"], 1 / 14.3, rtol=1e-5)
    assert all(0 <= measured[f"train/accuracy@{m}"] <= 1 for m in (4, 8, 32))
    assert all(measured[f"train/loss@{m}"] > 0 for m in (4, 8, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"name": "softmax", "label_smoothing": 0.0, "chunk": 0}}, r"is for data\.kind in \('image',\)"),
        ({"data__kind": "image_txt"}, r"data\.kind|is for data\.kind"),
        ({"data__name": "synthetic:size=8,channels=1"}, r"needs records with \['image', 'tokens'\]"),
        ({"model": defaults.dual_encoder(defaults.vit("mu/8"), defaults.bert("Tiny"))}, "image 32, text 128"),
        ({"model": defaults.dual_encoder(defaults.vit("mu/8"), {"variant": "nu"})}, r"model\.variant='nu'"),
        ({"nesting__dims": (4, 16)}, "ends at 16, but the embedding has 32"),
        ({"loss__duplicates": "none"}, r"loss\.duplicates='none'"),
        ({"batch_size": 12}, r"not divisible by the 8 devices"),
        (
            {"model": defaults.dual_encoder(defaults.vit("mu/8"), defaults.bert("mu") | {"positions": 7})},
            r"texts of 8 tokens are longer than model\.text\.positions=7",
        ),
        ({"data__text__context": 2}, r"data\.text\.context=2"),
        ({"head": "mrl"}, "head='mrl' is not one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(config(**change))


def test_a_pair_alone_is_no_batch_of_training():
    with pytest.raises(ValueError, match=r"batch_size=1: loss\.name='contrastive' .* set it to 2 or more"):
        parts.assemble(config(batch_size=1), one_device())
    parts.assemble(config(batch_size=1), one_device(), num_classes=20)  # of a trained model: pairs to embed
