import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.models.pixels import standardize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image(channels=3):
    return np.random.default_rng(0).integers(0, 256, (2, 4, 5, channels), dtype=np.uint8)


def test_uint8_is_scaled_then_standardised_per_channel():
    expected = (image().astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(standardize(jnp.asarray(image()), MEAN, STD, "float32"), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_single_mean_serves_any_number_of_channels(channels):
    x = standardize(jnp.asarray(image(channels)), (0.5,), (0.5,), "float32")
    np.testing.assert_allclose(x, image(channels) / 127.5 - 1, atol=1e-6)


def test_the_arithmetic_is_float32_before_the_cast():
    x = jnp.asarray(image())
    expected = standardize(x, MEAN, STD, "float32").astype(jnp.bfloat16)
    actual = standardize(x, MEAN, STD, "bfloat16")
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_array_equal(actual, expected)


def test_floats_are_taken_as_standardised():
    x = jnp.linspace(-2, 2, 24).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(standardize(x, MEAN, STD, "float32"), x)


@pytest.mark.parametrize(
    ("x", "mean", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.int32), (0.5,), "int32"),
        (np.zeros((4, 4, 3), np.uint8), (0.5,), r"shape \(4, 4, 3\)"),
        (np.zeros((2, 4, 4, 1), np.uint8), MEAN, "does not fit 1 channels"),
    ],
)
def test_bad_images_are_refused(x, mean, message):
    with pytest.raises(ValueError, match=message):
        standardize(jnp.asarray(x), mean, STD[:1], "float32")
