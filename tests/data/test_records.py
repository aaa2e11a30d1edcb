import json

import numpy as np
import pytest

from mrl_jax.data import array_records, records

RAW = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


@pytest.mark.parametrize("image", [RAW, RAW[:, ::-1], np.full((3, 2, 1), 10, np.uint8)])
def test_raw_image_survives(image):
    found = records.decode(records.encode({"image": image, "label": np.int64(7), "family": 2}))
    np.testing.assert_array_equal(found.pop("image"), image)
    assert found == {"label": 7, "family": 2}


@pytest.mark.parametrize("image", [b"", b"\n\n{}", bytes(range(256))])
def test_encoded_image_survives(image):
    assert records.decode(records.encode({"image": image, "label": 0})) == {"image": image, "label": 0}


@pytest.mark.parametrize("bad", [RAW.astype(np.float32), RAW[0], [1, 2]])
def test_other_images_are_refused(bad):
    with pytest.raises(ValueError, match=r"'image'.*uint8 array \(H, W, C\)"):
        records.encode({"image": bad, "label": 0})


@pytest.mark.parametrize("labels", [[3], (4, 0), np.array([7, 2, 5])])
def test_several_labels_survive(labels):
    assert records.decode(records.encode({"image": b"", "label": labels}))["label"] == list(labels)


@pytest.mark.parametrize("label", ["cat", ["cat"], [1.0], None])
def test_fields_that_are_no_integers_are_refused(label):
    with pytest.raises(ValueError, match=r"'label' is .*must be an integer, or several"):
        records.encode({"image": RAW, "label": label})


def test_damaged_bytes_are_refused():
    whole = records.encode({"image": RAW, "label": 0})
    with pytest.raises(ValueError, match=r"23 bytes for an image of shape \(2, 4, 3\)"):
        records.decode(whole[:-1])
    for data in (b"", b"\x80\x04\x95\n", b"[1]\n", b"{}\n", whole[:5]):
        with pytest.raises(ValueError, match="no record"):
            records.decode(data)


@pytest.fixture
def dataset(tmp_path):
    """Two shards of 3 + 2 records, whose labels count up."""
    parts = [range(3), range(3, 5)]
    shards = [
        array_records.write_shard(
            tmp_path / f"train-{i}.array_record", ({"image": RAW + np.uint8(n), "label": n} for n in part)
        )
        for i, part in enumerate(parts)
    ]
    manifest = {"name": "five", "num_classes": 5, "label_names": None, "splits": {"train": shards}}
    array_records.write_manifest(tmp_path, manifest)
    return tmp_path


def open_train(directory, **kwargs):
    return array_records.open_split(directory, array_records.read_manifest(directory)["splits"]["train"], **kwargs)


def test_shards_are_read_in_order(dataset):
    found = open_train(dataset, checksums=True)
    assert [found[i]["label"] for i in range(len(found))] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(found[4]["image"], RAW + 4)


def test_truncated_and_missing_shards_are_named(dataset):
    path = dataset / "train-1.array_record"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"train-1.array_record has {len(whole) - 1} bytes.*says {len(whole)} bytes"):
        open_train(dataset)
    path.unlink()
    with pytest.raises(ValueError, match=r"train-1.array_record is missing"):
        open_train(dataset)


def test_a_flipped_byte_is_found_by_checksum(dataset):
    path = dataset / "train-0.array_record"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"train-0.array_record does not have the SHA-256"):
        open_train(dataset, checksums=True)


def test_a_wrong_count_is_found_up_front(dataset):
    manifest = json.loads((dataset / array_records.MANIFEST).read_text())
    manifest["splits"]["train"][0]["examples"] = 4
    array_records.write_manifest(dataset, manifest)
    with pytest.raises(ValueError, match="holds 5 records, the manifest says 6"):
        open_train(dataset)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_manifest_is_one_error(tmp_path, text):
    (tmp_path / array_records.MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json .*prepare the dataset again"):
        array_records.read_manifest(tmp_path)
