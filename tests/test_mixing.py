"""Mixup and CutMix: what they mix, by how much, and that it does not depend on where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mrl_jax import mixing, parts, sharding

OPTIONS = {"name": "both", "mixup_alpha": 0.4, "cutmix_alpha": 1.0, "probability": 1.0}


def batch(rows=64, size=16):
    """Images of one colour each, the row's number times 3."""
    value = np.arange(rows, dtype=np.uint8) * 3
    image = np.broadcast_to(value[:, None, None, None], (rows, size, size, 3))
    return {"image": jnp.asarray(image), "label": jnp.arange(rows) % 7}


def mixed(seed=0, **options):
    given = batch()
    return given, jax.jit(mixing.make(OPTIONS | options))(given, jax.random.key(seed))


def test_the_second_label_is_that_of_the_reversed_batch():
    given, out = mixed(name="mixup")
    np.testing.assert_array_equal(out["label"], given["label"])
    np.testing.assert_array_equal(out["label_2"], given["label"][::-1])
    assert out["mix"].shape == (64,)


def test_mixup_weighs_the_pixels_as_the_labels():
    given, out = mixed(name="mixup")
    assert out["image"].dtype == jnp.uint8
    first, second = (np.asarray(given["image"], np.float64)[::step, 0, 0, 0] for step in (1, -1))
    expected = out["mix"] * first + (1 - out["mix"]) * second
    np.testing.assert_allclose(out["image"], np.broadcast_to(expected[:, None, None, None], (64, 16, 16, 3)), atol=0.51)
    assert np.std(out["mix"]) > 0.1


def test_standardised_images_are_mixed_as_floats():
    given = {"image": jnp.linspace(-2, 2, 32).reshape(4, 2, 2, 2), "label": jnp.arange(4)}
    out = mixing.make(OPTIONS | {"name": "mixup"})(given, jax.random.key(0))
    w = out["mix"][:, None, None, None]
    np.testing.assert_allclose(out["image"], w * given["image"] + (1 - w) * given["image"][::-1], rtol=1e-6)


def test_cutmix_pastes_one_box_of_the_stated_share():
    given, out = mixed(name="cutmix")
    own = np.asarray(out["image"] == given["image"]).all(-1)
    other = np.asarray(out["image"] == given["image"][::-1]).all(-1)
    assert (own | other).all()
    np.testing.assert_allclose(own.mean((1, 2)), out["mix"], atol=1e-6)
    rows, columns = other.any(2), other.any(1)
    np.testing.assert_array_equal(other, rows[:, :, None] & columns[:, None, :])
    edges = np.abs(np.diff(rows.astype(int), axis=1)).sum(1)
    assert edges.max() <= 2, "the box is in one piece"
    assert 0.2 < np.mean(1 - out["mix"]) < 0.6


def test_weights_follow_the_alpha():
    near, even = (np.asarray(mixed(name="mixup", mixup_alpha=alpha)[1]["mix"]) for alpha in (0.05, 50.0))
    assert np.mean((near < 0.05) | (near > 0.95)) > 0.7
    assert np.abs(even - 0.5).max() < 0.25
    assert np.mean(mixed(name="cutmix", cutmix_alpha=50.0)[1]["mix"]) > 0.5


def test_both_and_the_probability_choose_by_batch():
    kinds, given = [], batch()
    mix = jax.jit(mixing.make(OPTIONS | {"probability": 0.5}))
    for seed in range(40):
        out = mix(given, jax.random.key(seed))
        weights = np.asarray(out["mix"])
        if (weights == 1).all():
            np.testing.assert_array_equal(out["image"], given["image"])
            kinds.append("none")
        else:
            own = np.asarray((out["image"] == given["image"]) | (out["image"] == given["image"][::-1]))
            kinds.append("cutmix" if own.all() else "mixup")
    assert 12 <= kinds.count("none") <= 28
    assert min(kinds.count("cutmix"), kinds.count("mixup")) >= 4


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_devices_do_not_change_the_mixture(name):
    """Rows are mixed across the devices, and drawn as on one."""
    mesh = sharding.make_mesh(4, 2, 1)
    given, out = mixed(name=name)
    mix = mixing.make(OPTIONS | {"name": name})
    with jax.set_mesh(mesh):
        spread = sharding.to_devices(jax.tree.map(np.asarray, given), mesh)
        found = jax.jit(mix, in_shardings=(sharding.of_batch(mesh), None))(spread, jax.random.key(0))
    for key, value in out.items():
        np.testing.assert_array_equal(found[key], value)


def test_no_mixing_is_no_function():
    assert mixing.make(dict(tiny.config().mix)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix__name": "mixupp"}, "mix.name='mixupp'.*did you mean 'mixup'"),
        ({"mix__mixup_alpha": 0.0}, r"mix\.mixup_alpha=0\.0 must be positive"),
        ({"mix__cutmix_alpha": -1.0}, r"mix\.cutmix_alpha=-1\.0"),
        ({"mix__probability": 1.5}, r"mix\.probability=1\.5 must be in 0..1"),
    ],
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        parts.assemble(tiny.config(**change))
