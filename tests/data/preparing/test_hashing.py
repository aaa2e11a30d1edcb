import io

import numpy as np
import pytest
import raw
from PIL import Image

from mrl_jax.data import pictures
from mrl_jax.data.preparing.hashing import Index, perceptual_hash


def distance(a, b):
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


def scene(number, size=160):
    """Coarse and fine structure, as photographs have."""
    rng = np.random.default_rng(number)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((size, size)), np.float32) / n
        for n in (3, 5, 9, 17)
    ]
    total = sum(layers)
    return (255 * (total - total.min()) / np.ptp(total)).astype(np.uint8)


@pytest.mark.parametrize("number", range(12))
def test_copies_are_near_and_others_far(number):
    image = scene(number)
    picture = Image.fromarray(image)
    copies = [
        np.asarray(picture.resize((97, 64), Image.Resampling.BILINEAR)),
        np.asarray(picture.resize((320, 320), Image.Resampling.BICUBIC)),
        pictures.read(raw.jpeg(image, quality=30)),
        pictures.read(webp(picture)),
        np.asarray(picture.convert("L"))[:, :, None],
        (image * 0.8 + 20).astype(np.uint8),
    ]
    assert max(distance(image, copy) for copy in copies) <= 6
    assert min(distance(image, scene(other)) for other in range(100, 140)) > 10


def webp(picture):
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=50)
    return file.getvalue()


def test_flat_images_have_no_hash():
    assert perceptual_hash(np.full((20, 30, 3), 77, np.uint8)) is None
    assert perceptual_hash(np.zeros((1, 1, 1), np.uint8)) is None


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 6, 10, 15])
def test_the_index_finds_what_comparing_all_finds(bits, monkeypatch):
    monkeypatch.setattr("mrl_jax.data.preparing.hashing._PAIRS", 64)
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**64, 500, np.uint64)
    hashes[10] = hashes[20]
    queries = hashes[rng.integers(0, 500, 200)]
    for i in range(200):
        for place in rng.choice(64, i % 20, replace=False):
            queries[i] ^= np.uint64(1 << int(place))
    queries[0] = hashes[20]
    distances = np.bitwise_count(queries[:, None] ^ hashes[None, :]).astype(int)
    nearest, found = Index(hashes, bits).nearest(queries)
    within = distances.min(axis=1) <= bits
    np.testing.assert_array_equal(nearest, np.where(within, distances.argmin(axis=1), -1))
    np.testing.assert_array_equal(found, np.where(within, distances.min(axis=1), -1))
    assert nearest[0] == 10


def test_an_empty_index_finds_nothing():
    nearest, _ = Index(np.zeros(0, np.uint64), 6).nearest(np.arange(3, dtype=np.uint64))
    assert nearest.tolist() == [-1, -1, -1]


def test_training_examples_near_to_evaluation_images_are_left_out(tmp_path):
    evaluation = [scene(i) for i in range(6)]
    for split, images in (
        ("train", [scene(50), evaluation[4][::2, ::2], scene(51), evaluation[1], np.full((9, 9, 3), 5, np.uint8)]),
        ("val", [evaluation[2]]),
    ):
        (tmp_path / "s" / split / "a").mkdir(parents=True)
        for i, image in enumerate(images):
            (tmp_path / "s" / split / "a" / f"{i}.jpg").write_bytes(raw.jpeg(image, quality=60))
    flat = np.full((160, 160, 3), 9, np.uint8)
    np.savez(tmp_path / "e.npz", images=np.stack([flat, *evaluation]), labels=np.arange(7))
    raw.prepare(tmp_path / "e.npz", tmp_path / "e", splits={"train": 2 / 7, "test": 5 / 7})
    raw.prepare(tmp_path / "e.npz", tmp_path / "all")
    result = raw.prepare(tmp_path / "s", tmp_path / "d", exclude_near=(str(tmp_path / "all"),))
    assert len(raw.found(tmp_path / "d")) == 3
    assert len(raw.found(tmp_path / "d", "val")) == 1, "evaluation splits stay as they are"
    assert result["dropped"] == {"train": {"near": 2}, "val": {}}
    first, second = raw.dropped(tmp_path / "d")
    assert (first["key"], second["key"]) == ("train/a/1.jpg", "train/a/3.jpg")
    assert first["detail"].endswith(f"bits from record 5 of {tmp_path / 'all'}, split train")
    assert second["detail"].endswith("record 2 of " + f"{tmp_path / 'all'}, split train")
    some = raw.prepare(tmp_path / "s", tmp_path / "f", exclude_near=(f"{tmp_path / 'e'}:test",), hash_distance=4)
    assert some["dropped"]["train"].get("near", 0) < 3
    for options, message in (
        ({"exclude_near": (f"{tmp_path / 'e'}:tests",)}, "split='tests' is not one of .*did you mean 'test'"),
        ({"exclude_near": (str(tmp_path / "e"),), "exclude_from": ("trian",)}, "--exclude_from=trian"),
    ):
        with pytest.raises(ValueError, match=message):
            raw.prepare(tmp_path / "s", tmp_path / "g", **options)
    with pytest.raises(ValueError, match="exclude_near"):
        raw.prepare(tmp_path / "s", tmp_path / "d")
