import io

import numpy as np
import pytest
from PIL import Image

from mrl_jax.data import decoding, images, pictures

RAMP = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :], (4, 256))
SMOOTH = np.stack([np.add.outer(np.arange(48), k * np.arange(64)) % 256 for k in (1, 2, 3)], -1).astype(np.uint8) // 2


def encoded(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_cut_off(form):
    data = encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), form)
    np.testing.assert_array_equal(pictures.read(data), np.repeat(RAMP[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(pictures.read(data, 1), RAMP[:, :, None])
    odd = encoded(Image.fromarray(np.array([[128, 129, 300, 65535]], np.uint16)), form)
    assert pictures.read(odd, 1).ravel().tolist() == [0, 1, 1, 255]


def test_numbers_without_a_range_are_refused():
    for values, message in ((np.float32([[0.5]]), "floating-point"), (np.int32([[-1, 70000]]), "from -1 to 70000")):
        with pytest.raises(ValueError, match=message):
            pictures.read(encoded(Image.fromarray(values), "TIFF"))


def test_palettes_give_their_colours():
    picture = Image.fromarray(SMOOTH).quantize(32)
    np.testing.assert_array_equal(pictures.read(encoded(picture)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "L", "RGB"])
def test_what_is_transparent_shows_white(mode):
    """Left pixel opaque, right one transparent over a dark colour that must not show."""
    grey = mode in ("LA", "L")
    if mode in ("RGBA", "LA"):
        pixels = [[(10, 255), (40, 0)]] if grey else [[(10, 10, 10, 255), (40, 40, 40, 0)]]
        data = encoded(Image.fromarray(np.array(pixels, np.uint8)))
    else:
        picture = Image.fromarray(np.array([[10, 40]] if grey else [[(10,) * 3, (40,) * 3]], np.uint8))
        picture = picture.quantize(4) if mode == "P" else picture
        hidden = picture.getpixel((1, 0))
        data = encoded(picture, transparency=hidden)
    assert Image.open(io.BytesIO(data)).mode == mode
    for channels in (1, 3):
        assert pictures.read(data, channels)[0, :, 0].tolist() == [10, 255]


def test_half_transparent_is_mixed_with_white():
    data = encoded(Image.fromarray(np.array([[(0, 100, 255, 128)]], np.uint8)))
    assert np.abs(pictures.read(data)[0, 0] - np.array([127, 177, 255])).max() <= 1


def test_cmyk_keeps_its_colours():
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(pictures.read(data).astype(int) - SMOOTH).mean() < 8
    inverted = np.abs(255 - pictures.read(data).astype(int) - SMOOTH).mean()
    assert inverted > 40


def test_black_and_white_and_one_pixel():
    assert pictures.read(encoded(Image.fromarray(np.array([[True, False]]))))[0, :, 0].tolist() == [255, 0]
    one = encoded(Image.new("RGB", (1, 1), (1, 2, 3)))
    np.testing.assert_array_equal(pictures.read(one), [[[1, 2, 3]]])
    crop = images.parse("decode|random_resized_crop(8)|flip_lr")
    np.testing.assert_array_equal(
        crop({"image": one}, np.random.default_rng(0))["image"], np.broadcast_to(np.uint8([1, 2, 3]), (8, 8, 3))
    )
    np.testing.assert_array_equal(
        images.parse("decode|resize_small(8)|center_crop(8)")({"image": one}, None)["image"][0, 0], [1, 2, 3]
    )


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_an_error_wherever_it_is_cut(progressive):
    data = encoded(Image.fromarray(SMOOTH), "JPEG", progressive=progressive)
    for length in [*range(len(data) - 60, len(data)), len(data) // 2, 3, 0]:
        with pytest.raises(Exception, match=r"(?i)truncated|identify|broken"):
            pictures.read(data[:length])


def test_training_decodes_the_same():
    data = encoded(Image.fromarray(RAMP.astype(np.uint16) * 257))
    np.testing.assert_array_equal(decoding.decode(data, 1)[:, :, 0], RAMP)
