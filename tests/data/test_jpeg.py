"""JPEG files: what is decoded of them is what Pillow sees in the whole of them, or it is Pillow that decodes."""

import io
import threading

import numpy as np
import pytest
from PIL import Image
from test_images import png, rng, smooth

from mrl_jax.data import cropping, decoding, images, jpeg, resizing

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def photo(height=300, width=401, channels=3):
    """Smooth, with some noise, so that a column out of place shows."""
    noise = np.random.default_rng(1).integers(-20, 20, (height, width, channels))
    return np.clip(smooth(height, width, channels).astype(int) + noise, 0, 255).astype(np.uint8)


def encode(image, **options):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", **({"quality": 90} | options))
    return file.getvalue()


def by_pillow(data, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode)).astype(int)


@pytest.fixture(params=["parts", "whole"])
def library(request, monkeypatch):
    """With the library that decodes parts, and without it."""
    if request.param == "whole":
        monkeypatch.setattr(jpeg, "_library", lambda: None)
    elif jpeg._library() is None:
        pytest.skip("there is no TurboJPEG library: pip install turbojpeg")


KINDS = {
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "420": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_those_of_the_whole_picture(library, kind):
    data = encode(photo(), **KINDS[kind])
    whole, generator = by_pillow(data), rng()
    edges = [(0, 0, 401, 300), (0, 0, 30, 40), (371, 260, 401, 300)]
    for box in [*edges, *(cropping.random_box(300, 401, generator) for _ in range(20))]:
        pixels, (left, top, right, bottom) = jpeg.decode_box(data, box, 224)
        np.testing.assert_array_equal(pixels[top:bottom, left:right], whole[box[1] : box[3], box[0] : box[2]])


@pytest.mark.parametrize(("target", "scale"), [(16, 8), (32, 8), (60, 4), (100, 2), (150, 2)])
@pytest.mark.parametrize("kind", ["444", "420"])
def test_large_boxes_are_decoded_small(library, kind, target, scale):
    data = encode(smooth(600, 500), **KINDS[kind])
    box = (101, 33, 452, 391)
    pixels, (left, top, right, bottom) = jpeg.decode_box(data, box, target)
    assert jpeg.factor(box, target) == scale
    assert target <= right - left <= -(-351 // scale)
    assert target <= bottom - top <= -(-358 // scale)
    found = resizing.resize_box(pixels, (left, top, right, bottom), target).astype(int)
    expected = resizing.resize_box(by_pillow(data).astype(np.uint8), box, target).astype(int)
    # The box is rounded to pixels of the small picture: half of one of those is all that an edge can move.
    assert np.abs(found - expected).mean() < 5
    assert np.abs(found - expected).max() <= np.abs(np.diff(expected, axis=0)).max()


def test_only_what_is_needed_is_decoded():
    if jpeg._library() is None:
        pytest.skip("there is no TurboJPEG library: pip install turbojpeg")
    pixels, _ = jpeg.decode_box(encode(photo()), (200, 100, 260, 150), 50)
    assert pixels.shape[0] <= 50 + 8
    assert pixels.shape[1] <= 60 + 8 + 16


@pytest.mark.parametrize("spec", ["decode|random_resized_crop(64)|flip_lr", "decode(1)|random_resized_crop(64)"])
@pytest.mark.parametrize("size", [(300, 401), (90, 70), (800, 1000)])
def test_the_fused_transform_is_the_unfused_one(library, spec, size):
    transform = images.parse(spec)
    record = {"image": encode(smooth(*size)), "label": 1}
    for seed in range(12):
        fused = transform(record, rng(seed))["image"].astype(int)
        plain = transform.finish(transform.begin(record), rng(seed))["image"]
        assert np.abs(fused - plain).mean() < 3
        assert np.abs(fused - plain).max() <= 24


def test_without_scaling_the_fused_transform_is_equal_to_the_bit(library):
    transform = images.parse("decode|random_resized_crop(224)|flip_lr|random_erasing(1)")
    record = {"image": encode(photo()), "label": 1}
    for seed in range(12):
        plain = transform.finish(transform.begin(record), rng(seed))["image"]
        np.testing.assert_array_equal(transform(record, rng(seed))["image"], plain)


@pytest.mark.parametrize("kind", ["png", "cmyk", "trailing", "grey"])
def test_other_files_go_the_slow_way(kind, library):
    image = photo()
    if kind == "cmyk":
        file = io.BytesIO()
        Image.fromarray(image).convert("CMYK").save(file, "JPEG", quality=90)
        data = file.getvalue()
    else:
        data = {"png": png(image), "trailing": encode(image) + b"\0" * 5, "grey": encode(photo(channels=1))}[kind]
    assert (jpeg.size(data) == (300, 401)) == (kind == "grey")
    np.testing.assert_array_equal(decoding.decode(data), by_pillow(data))
    transform = images.parse("decode|random_resized_crop(64)")
    plain = transform.finish(transform.begin({"image": data}), rng())["image"]
    # The box of a picture decoded at a fraction of its size is rounded to whole pixels of that.
    assert np.abs(transform({"image": data}, rng())["image"].astype(int) - plain).mean() < 5


def test_grey_from_colour_is_that_of_pillow():
    data = encode(photo())
    difference = decoding.decode(data, 1)[:, :, 0] - by_pillow(data, "L")
    # Pillow rounds twice: to RGB and back; colours outside of RGB are lost on the way.
    assert np.abs(difference).mean() < 0.6


@pytest.mark.parametrize("spec", ["decode", "decode|random_resized_crop(32)"])
@pytest.mark.parametrize("damage", ["cut", "no picture"])
def test_damage_is_an_error(library, spec, damage):
    whole = encode(photo())
    data = whole[: len(whole) // 2] if damage == "cut" else b"\xff\xd8\xff\xe0nothing\xff\xd9"
    with pytest.raises(OSError, match=r"[Tt]runcated|identify"):
        images.parse(spec)({"image": data}, rng())


def test_what_the_fast_way_refuses_is_for_pillow_to_decide(library):
    """Half of a file with an end put to it: Pillow shows the half, and so do we."""
    whole = encode(photo())
    data = whole[: len(whole) // 2] + whole[-2:]
    assert jpeg.size(data) == (300, 401)
    np.testing.assert_array_equal(images.parse("decode")({"image": data}, rng())["image"], by_pillow(data))
    transform = images.parse("decode|random_resized_crop(224)")
    for seed in range(5):
        plain = transform.finish(transform.begin({"image": data}), rng(seed))["image"]
        np.testing.assert_array_equal(transform({"image": data}, rng(seed))["image"], plain)


def test_one_pixel(library):
    data = encode(np.full((1, 1, 3), 200, np.uint8))
    found = images.parse("decode|random_resized_crop(8)")({"image": data}, rng())["image"]
    np.testing.assert_allclose(found, 200, atol=2)


def test_threads_do_not_share_a_decompressor(library):
    files = [encode(photo(200 + 10 * i, 300)) for i in range(4)]
    transform = images.parse("decode|random_resized_crop(64)")
    expected = [transform({"image": data}, rng())["image"] for data in files]
    wrong = []

    def work(i):
        for _ in range(30):
            if not np.array_equal(transform({"image": files[i]}, rng())["image"], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
