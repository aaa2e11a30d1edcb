import io
import pickle

import numpy as np
import pytest
from PIL import Image

from mrl_jax.data import cropping, images

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def run(spec, image=PHOTO, seed=0):
    return images.parse(spec)({"image": image, "label": 3}, rng(seed))["image"]


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("decode", (40, 60, 3)),
        ("decode(1)", (40, 60, 1)),
        ("decode|resize_small(20)", (20, 30, 3)),
        ("decode|resize_small(80)|center_crop(64)", (64, 64, 3)),
        ("decode(channels=1)|resize_small(size=33)", (33, 49, 1)),
        ("decode|random_resized_crop(16)|flip_lr", (16, 16, 3)),
        ("decode|random_resized_crop(50, scale=(0.5, 1), ratio=(1, 1))", (50, 50, 3)),
        ("decode | random_crop(48, padding=4) | random_shift(2)", (48, 48, 3)),
        ("decode(1)|random_resized_crop(8)|random_shift(1)|flip_lr(1)", (8, 8, 1)),
        ("decode|flip_lr(1)|random_shift(1)|random_resized_crop(8)", (8, 8, 3)),
        ("decode|rand_augment(3, 10)|color_jitter(0.5, hue=0.2)|random_erasing(1)", (40, 60, 3)),
        ("decode(1)|rand_augment|color_jitter(hue=0.5)|random_erasing(1, ratio=(1, 1))", (40, 60, 1)),
    ],
)
def test_shape_type_and_determinism(spec, shape):
    transform = images.parse(spec)
    record = transform({"image": PHOTO, "label": 3}, rng())
    assert (record["image"].shape, record["image"].dtype, record["label"]) == (shape, np.uint8, 3)
    np.testing.assert_array_equal(run(spec), record["image"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(transform))({"image": PHOTO}, rng())["image"], run(spec))
    two_parts = transform.finish(transform.begin({"image": PHOTO, "label": 3}), rng())
    np.testing.assert_array_equal(two_parts["image"], record["image"])


def test_the_fixed_part_ends_at_the_first_random_operation():
    transform = images.parse("decode|resize_small(20)|flip_lr|center_crop(8)")
    assert transform.begin({"image": PHOTO})["image"].shape == (20, 30, 3)
    assert images.parse("decode|center_crop(8)").begin({"image": PHOTO})["image"].shape == (8, 8, 3)


def test_decode_reads_files_and_leaves_arrays():
    np.testing.assert_array_equal(run("decode", png(PHOTO)), PHOTO)
    grey = PHOTO[:, :, :1]
    np.testing.assert_array_equal(run("decode", grey), grey)
    np.testing.assert_array_equal(run("decode", grey[:, :, 0]), grey)
    np.testing.assert_array_equal(run("decode(1)", png(grey[:, :, 0])), grey)
    for image in (grey, png(grey[:, :, 0])):
        np.testing.assert_array_equal(run("decode(3)", image), np.repeat(grey, 3, axis=2))


def test_flip_is_an_involution_and_happens_half_of_the_time():
    flip = cropping.flip_lr
    np.testing.assert_array_equal(flip(flip(PHOTO, rng(), 1), rng(), 1), PHOTO)
    np.testing.assert_array_equal(flip(PHOTO, rng(), 0), PHOTO)
    np.testing.assert_array_equal(flip(PHOTO, rng(), 1)[:, 0], PHOTO[:, -1])
    generator = rng()
    flipped = sum(not np.array_equal(flip(PHOTO, generator), PHOTO) for _ in range(1000))
    assert 430 < flipped < 570


def test_resizing_keeps_a_constant_and_the_orientation():
    assert (run("decode|resize_small(7)", np.full((40, 60, 3), 200, np.uint8)) == 200).all()
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, :, None], (40, 60, 1))
    small = run("decode|resize_small(20)", np.ascontiguousarray(ramp))
    np.testing.assert_allclose(small[:, :, 0], np.broadcast_to(np.arange(30) * 2.0 + 0.5, (20, 30)), atol=1)


def test_center_crop_is_central():
    np.testing.assert_array_equal(run("decode|center_crop(20)"), PHOTO[10:30, 20:40])


def pillow(image, size, box=None):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)).astype(int)


def smooth(height, width, channels=3):
    """An image without fine detail: resizing it well has one answer."""
    small = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8).squeeze()
    large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    return large.reshape(height, width, channels)


@pytest.mark.parametrize("shape", [(40, 60), (250, 250), (400, 400), (1000, 900), (3000, 2100)])
def test_random_resized_crop_of_the_whole_image_is_a_resize(shape):
    image = smooth(*shape)
    height, width = shape
    spec = f"decode|random_resized_crop(224, scale=(1, 1), ratio=({width / height}, {width / height}))"
    np.testing.assert_allclose(run(spec, image), pillow(image, 224), atol=2)


def test_averaging_leaves_no_pattern_of_fine_detail():
    """Stripes of one pixel become grey, and not other stripes."""
    stripes = np.zeros((960, 960, 3), np.uint8)
    stripes[::2] = 255
    found = run("decode|random_resized_crop(224, scale=(1, 1), ratio=(1, 1))", stripes)
    assert np.abs(found.astype(int) - 127).max() <= 2


def test_random_resized_crop_falls_back_to_the_centre():
    # No box of half the area and ratio 10 fits: the widest one of that ratio is 60 x 6, in the middle.
    crop = run("decode|random_resized_crop(60, scale=(0.5, 0.5), ratio=(10, 10))", smooth(40, 60))
    np.testing.assert_allclose(crop, pillow(smooth(40, 60)[17:23], 60), atol=2)


def test_random_resized_crop_draws_the_stated_areas_and_ratios():
    generator = rng()
    left, top, right, bottom = np.array([cropping.random_box(400, 400, generator) for _ in range(500)]).T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 400 and bottom.max() <= 400  # noqa: PT018
    area, ratio = (right - left) * (bottom - top) / 400**2, (right - left) / (bottom - top)
    assert area.min() == pytest.approx(0.08, abs=0.01)
    assert area.max() > 0.9
    assert ratio.min() == pytest.approx(3 / 4, abs=0.01)
    assert ratio.max() == pytest.approx(4 / 3, abs=0.01)
    assert np.median(np.log(ratio)) == pytest.approx(0, abs=0.04)


def test_random_shift_moves_by_every_offset_and_repeats_the_border():
    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    generator, seen = rng(), set()
    for _ in range(300):
        shifted = cropping.random_shift(image, generator, 2)
        dy, dx = divmod(int(shifted[2, 2, 0]), 6)
        seen.add((dy - 2, dx - 2))
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        np.testing.assert_array_equal(shifted, padded[dy : dy + 6, dx : dx + 6])
    assert seen == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_random_crop_takes_every_place_of_the_padded_image():
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    places = {padded[y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(3)}
    assert {cropping.random_crop(image, rng(seed), 4, 1).tobytes() for seed in range(200)} == places


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "decode|flip_rl",
            r"operation 'flip_rl' .*'center_crop', .*'flip_lr'.*did you mean 'flip_lr'",
        ),
        ("", "cannot be read"),
        ("decode|", "cannot be read"),
        ("decode|center_crop(", "cannot be read"),
        ("flip_lr", "must begin with 'decode'"),
        ("decode + flip_lr", r"'decode \+ flip_lr' .* is no operation"),
        ("decode|images.decode", "is no operation"),
        ("decode|center_crop", r"missing a required argument: 'size'; it is center_crop\(size\)"),
        ("decode|center_crop(2, 3)", r"too many positional arguments; it is center_crop\(size\)"),
        ("decode|random_crop(8, pading=2)", "'pading'"),
        ("decode|center_crop(0)", "size=0 of 'center_crop' .* must be a positive integer"),
        ("decode|center_crop('2')", "size='2'"),
        ("decode|center_crop(True)", "size=True"),
        ("decode|center_crop(__import__('os').getpid())", "malformed node"),
        ("decode(2)", "channels=2 of 'decode' .* must be 1 or 3"),
        ("decode|random_resized_crop(8, scale=(1, 0.5))", "scale=.*the smaller one first"),
        ("decode|random_resized_crop(8, scale=0.5)", "scale=0.5"),
        ("decode|random_resized_crop(8, scale=(0.5, 2))", r"scale=\(0.5, 2\)"),
        ("decode|random_resized_crop(8, ratio=(0, 1))", r"ratio=\(0, 1\)"),
        ("decode|flip_lr(1.5)", "probability=1.5"),
        ("decode|random_shift(-1)", "pixels=-1"),
        ("decode|random_crop(8, padding=-1)", "padding=-1"),
        ("decode|rand_augment(0)", "layers=0 .* must be a positive integer"),
        ("decode|rand_augment(2, 11)", r"magnitude=11 .* a number in \[0, 10\]"),
        ("decode|color_jitter(-0.1)", "brightness=-0.1"),
        ("decode|color_jitter(hue=0.6)", r"hue=0.6 .* a number in \[0, 0.5\]"),
        ("decode|random_erasing(2)", "probability=2"),
    ],
)
def test_bad_specs_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        images.parse(spec)


def test_too_small_images_are_named():
    for spec in ("decode|center_crop(41)", "decode|random_crop(41)"):
        with pytest.raises(ValueError, match=r"crop\(41\) of .*40x60 pixels.*put resize_small before it"):
            run(spec)
