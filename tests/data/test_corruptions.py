"""Spoilt images: the same every time, worse with every severity, of the size and kind they were."""

import numpy as np
import pytest

from mrl_jax.data import corruptions, images


def picture(channels, size=48):
    """Smooth shapes with edges, as a photograph has."""
    rows, columns = np.mgrid[:size, :size] / size
    planes = [0.5 + 0.4 * np.sin(6 * rows + k) * np.cos(5 * columns - k) for k in range(channels)]
    image = np.stack(planes, axis=2)
    image[size // 4 : size // 2, size // 3 : size // 2] = 0.05
    return np.rint(255 * image).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_every_severity_is_worse_than_the_one_before_and_repeats_itself(kind, channels):
    image = picture(channels)
    before, distances = image.copy(), []
    for severity in corruptions.SEVERITIES:
        found = [corruptions.corrupt(image, np.random.default_rng(3), kind, severity) for _ in range(2)]
        assert found[0].shape == image.shape
        assert found[0].dtype == np.uint8
        np.testing.assert_array_equal(*found)
        distances.append(np.abs(found[0].astype(float) - image).mean())
    np.testing.assert_array_equal(image, before)
    assert distances[0] > 0
    # Where coarse pixels fall beside edges, a little coarser ones may fall better.
    pairs = [(distances[0], distances[-1])] if kind == "pixelate" else zip(distances, distances[1:])
    assert all(a < b for a, b in pairs), distances


@pytest.mark.parametrize("kind", ["gaussian_noise", "fog", "elastic", "motion_blur"])
def test_another_generator_spoils_another_way(kind):
    image = picture(3)
    one, other = (corruptions.corrupt(image, np.random.default_rng(seed), kind, 3) for seed in (1, 2))
    assert (one != other).mean() > 0.05


def test_blurs_keep_the_mean_and_reach_as_far_at_any_size():
    for kind in ("defocus_blur", "motion_blur"):
        for size in (32, 96):
            image = np.zeros((size, size, 1), np.uint8)
            image[size // 2, size // 2] = 255
            found = corruptions.corrupt(image, np.random.default_rng(0), kind, 5).astype(float)
            assert found.sum() == pytest.approx(255, rel=0.3)  # rounding to whole values
            reach = np.abs(np.argwhere(found[..., 0] > 0) - size // 2).max() / size
            assert 0.02 < reach < 0.12, (kind, size, reach)


def test_corruptions_are_transforms_by_name():
    record = {"image": picture(3), "label": 1}
    transform = images.parse("decode|corrupt('contrast', 4)")
    found = transform(record, np.random.default_rng(0))["image"]
    expected = corruptions.corrupt(record["image"], np.random.default_rng(0), "contrast", 4)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"kind='contrst'.*'gaussian_noise'"):
        images.parse("decode|corrupt('contrst', 4)")
    with pytest.raises(ValueError, match=r"severity=6.*1 to 5"):
        images.parse("decode|corrupt('fog', 6)")
