"""What the augmentations change, and that they leave the image they are given alone."""

import numpy as np
import pytest
from PIL import Image
from test_images import rng, smooth

from mrl_jax.data import augment

IMAGE = smooth(40, 60)
IMAGE.flags.writeable = False
GREY = IMAGE[:, :, :1]
ALL = {
    "color_jitter": lambda image, seed: augment.color_jitter(image, rng(seed), 0.5, 0.5, 0.5, 0.3),
    "rand_augment": lambda image, seed: augment.rand_augment(image, rng(seed), 2, 10),
    "random_erasing": lambda image, seed: augment.random_erasing(image, rng(seed), 1.0),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("image", [IMAGE, GREY], ids=["colour", "grey"])
def test_the_seed_decides_and_the_image_stays(name, image):
    before = image.copy()
    found = [ALL[name](image, seed) for seed in range(8)]
    for seed, one in enumerate(found):
        assert (one.shape, one.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(ALL[name](image, seed), one)
    assert len({one.tobytes() for one in found}) >= 6
    np.testing.assert_array_equal(image, before)


def test_jitter_of_nothing_is_nothing():
    np.testing.assert_array_equal(augment.color_jitter(IMAGE, rng(), 0, 0, 0, 0), IMAGE)


@pytest.mark.parametrize(
    ("name", "change", "formula"),
    [
        ("brightness", 1.3, lambda x, grey: 1.3 * x),
        ("contrast", 0.6, lambda x, grey: 0.6 * x + 0.4 * grey.mean()),
        ("saturation", 1.7, lambda x, grey: 1.7 * x - 0.7 * grey),
        ("saturation", 0.0, lambda x, grey: grey + 0 * x),
    ],
)
def test_jitter_follows_its_formula(name, change, formula):
    x = IMAGE.astype(float)
    grey = x @ np.array([[0.299], [0.587], [0.114]])
    expected = np.clip(formula(x, grey), 0, 255)
    np.testing.assert_allclose(augment.JITTERS[name](IMAGE, change), expected, atol=2)


def test_hue_goes_around():
    full = augment.JITTERS["hue"](IMAGE, 1.0)
    np.testing.assert_allclose(full.astype(int), IMAGE, atol=6)
    third = augment.JITTERS["hue"](np.array([[[200, 0, 0]]], np.uint8), 1 / 3)
    assert third[0, 0].argmax() == 1


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_each_jitter_argument_has_an_effect(kind):
    none = {"brightness": 0, "contrast": 0, "saturation": 0}
    assert (augment.color_jitter(IMAGE, rng(), **(none | {kind: 0.5})) != IMAGE).any()


def test_erasing_replaces_one_box_of_the_stated_size():
    for seed in range(20):
        changed = (augment.random_erasing(IMAGE, rng(seed), 1.0, (0.1, 0.2), (0.5, 2.0)) != IMAGE).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.95
        assert 0.08 < h * w / changed.size < 0.22
        assert 0.4 < w / h < 2.3
    assert (augment.random_erasing(IMAGE, rng(), 0.0) == IMAGE).all()
    erased = sum((augment.random_erasing(IMAGE, rng(seed)) != IMAGE).any() for seed in range(200))
    assert 30 < erased < 70


@pytest.mark.parametrize("name", sorted(augment.OPERATIONS))
@pytest.mark.parametrize("image", [IMAGE, GREY[:, :, 0]], ids=["colour", "grey"])
def test_operations_change_more_from_a_magnitude_of_nothing_on(name, image):
    def change(share):
        return np.abs(np.asarray(augment.OPERATIONS[name](Image.fromarray(image), share, 1)).astype(int) - image).mean()

    if name == "identity" or (name == "color" and image.ndim == 2):
        assert change(1.0) == 0
    elif name in ("auto_contrast", "equalize"):
        assert change(0.0) == change(1.0)
    else:
        assert change(0.0) == 0 < change(0.25) < change(0.5)


def test_translation_moves_as_far_as_it_says():
    moved = np.asarray(augment.OPERATIONS["translate_x"](Image.fromarray(IMAGE), 1 / 2.7, 1))
    np.testing.assert_array_equal(moved[:, :50], IMAGE[:, 10:])
    assert (moved[:, 51:] == 128).all()


def test_rand_augment_draws_all_operations_and_layers_add_up(monkeypatch):
    drawn = []
    spies = {name: lambda p, share, sign, name=name: drawn.append((name, share, sign)) or p for name in "abc"}
    monkeypatch.setattr(augment, "OPERATIONS", spies)
    for seed in range(40):
        augment.rand_augment(IMAGE, rng(seed), layers=3, magnitude=5)
    assert len(drawn) == 120
    assert {share for _, share, _ in drawn} == {0.5}
    assert {(name, sign) for name, _, sign in drawn} == {(n, s) for n in "abc" for s in (-1, 1)}
