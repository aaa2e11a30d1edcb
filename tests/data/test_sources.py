import io
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import raw
import tensorflow_datasets as tfds
from PIL import Image

from mrl_jax.data import array_records, decoding, images, pipeline, sources


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Ten pictures of three classes, and four more, built by TFDS itself."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b", "c"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(10), "validation": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            file = io.BytesIO()
            Image.new("RGB", (6, 8 + i), (i, 0, 0)).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": i % 3}


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    TinyPictures(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


@pytest.fixture
def array_dir(tmp_path):
    image = np.zeros((2, 2, 1), np.uint8)
    shard = array_records.write_shard(tmp_path / "a.array_record", [{"image": image, "label": i} for i in range(3)])
    manifest = {"name": "x", "num_classes": 3, "label_names": ["a", "b", "c"], "splits": {"train": [shard]}}
    array_records.write_manifest(tmp_path, manifest)
    return tmp_path


def test_tfds_gives_encoded_images_and_labels(tfds_dir):
    source = sources.load("tfds:tiny_pictures", "train", data_dir=tfds_dir)
    assert (source.num_classes, source.label_names, len(source.records)) == (3, ("a", "b", "c"), 10)
    seen = set()
    for i in range(10):
        record = source.records[i]
        image = decoding.decode(record["image"])
        number = int(image[0, 0, 0])
        assert image.shape == (8 + number, 6, 3)
        assert record == {"image": record["image"], "label": number % 3}
        seen.add(number)
    assert seen == set(range(10))


def test_tfds_splits_are_spelled_as_tfds_does(tfds_dir):
    parts = [sources.load("tfds:tiny_pictures:1.0.0", s, data_dir=tfds_dir) for s in ("train[:70%]", "train[70%:]")]
    assert [len(part.records) for part in parts] == [7, 3]
    with pytest.raises(ValueError, match=r"split 'tests' of dataset 'tfds:tiny_pictures'.*\['train', 'validation'\]"):
        sources.load("tfds:tiny_pictures", "tests", data_dir=tfds_dir)


def test_tfds_becomes_our_own_format(tfds_dir, tmp_path):
    options = {"source_dir": str(tfds_dir), "source_splits": ("train", "validation")}
    raw.prepare("tfds:tiny_pictures", tmp_path / "d", reader=options, shards=2)
    for split in options["source_splits"]:
        ours = sources.load(f"array_record:{tmp_path / 'd'}", split, data_dir=".")
        theirs = sources.load("tfds:tiny_pictures", split, data_dir=tfds_dir)
        assert (ours.num_classes, ours.label_names) == (3, ("a", "b", "c"))
        assert [ours.records[i] for i in range(len(ours.records))] == [
            theirs.records[i] for i in range(len(ours.records))
        ]


def test_tfds_feeds_the_pipeline(tfds_dir):
    source = sources.load("tfds:tiny_pictures", "validation", data_dir=str(tfds_dir))
    transform = images.parse("decode|resize_small(8)|center_crop(8)")
    (batch,) = pipeline.eval_batches(source, transform, batch_size=4)
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 3)


@pytest.mark.parametrize("name", ["imagenet2012", "never_heard_of"])
def test_absent_tfds_dataset_says_how_to_build_it(tmp_path, name):
    message = rf"'tfds:{name}' is not in {tmp_path}.*tfds build {name} --data_dir={tmp_path} --file_format=array_record"
    with pytest.raises(FileNotFoundError, match=message):
        sources.load(f"tfds:{name}", "train", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_nearest_tfds_name_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"did you mean 'imagenet2012'\? Make it with: tfds build imagnet2012"):
        sources.load("tfds:imagnet2012", "train", data_dir=tmp_path)


def test_array_record_directory_by_absolute_or_relative_path(array_dir):
    for name, data_dir in ((f"array_record:{array_dir}", "/nowhere"), (f"array_record:{array_dir.name}", "..")):
        base = array_dir.parent if data_dir == ".." else data_dir
        source = sources.load(name, "train", data_dir=base)
        assert (len(source.records), source.num_classes, source.label_names) == (3, 3, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"split 'tain' of .* is not one of \['train'\]; did you mean 'train'"):
        sources.load(name, "tain", data_dir=base)


def test_several_labels_and_class_counts_come_from_the_manifest(array_dir):
    manifest = array_records.read_manifest(array_dir)
    plain = sources.load(f"array_record:{array_dir}", "train", data_dir=".")
    assert (plain.max_labels, plain.class_counts) == (1, None)
    array_records.write_manifest(array_dir, manifest | {"max_labels": 4, "class_counts": {"train": [1, 0, 2]}})
    source = sources.load(f"array_record:{array_dir}", "train", data_dir=".")
    assert (source.max_labels, source.class_counts) == (4, (1, 0, 2))
    array_records.write_manifest(array_dir, manifest | {"class_counts": {"train": [1, 2]}})
    with pytest.raises(ValueError, match="2 class counts for num_classes=3"):
        sources.load(f"array_record:{array_dir}", "train", data_dir=".")


@pytest.mark.parametrize(("name", "split"), [("icons", "train"), ("icons", "test"), ("synthetic:classes=3", "test")])
def test_class_counts_are_those_of_the_records(name, split, icons_dir):
    source = sources.load(name, split, data_dir=icons_dir)
    labels = [source.records[i]["label"] for i in range(len(source.records))]
    assert source.class_counts == tuple(np.bincount(labels, minlength=source.num_classes))


def test_absent_array_record_directory_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / 'x'}.*python -m mrl_jax.prepare SOURCE --data_dir="):
        sources.load("array_record:x", "train", data_dir=tmp_path)


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match=r"'icon' is not one of \['array_record', 'icons'.*did you mean 'icons'"):
        sources.load("icon", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="'icons' takes no options"):
        sources.load("icons:size=64", "train", data_dir=tmp_path)


def test_a_mixture_holds_the_longest_text_of_its_parts(tmp_path):
    names = [f"synthetic:vocabulary=64,context={context}" for context in (8, 16)]
    parts = [sources.load(name, "train", data_dir=tmp_path) for name in names]
    assert sources.concatenate(parts).context == 16


def test_sources_travel_to_workers(tfds_dir, array_dir, icons_dir):
    for name, split, data_dir in (
        ("tfds:tiny_pictures", "train", tfds_dir),
        (f"array_record:{array_dir}", "train", array_dir),
        ("icons", "test", icons_dir),
        ("synthetic", "test", array_dir),
    ):
        source = sources.load(name, split, data_dir=data_dir)
        source.records[0]  # opens the files
        other = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(
            decoding.decode(other.records[1]["image"]), decoding.decode(source.records[1]["image"])
        )


def test_tensorflow_is_never_imported_and_no_backend_started(tfds_dir):
    code = f"""
import sys
from mrl_jax.data import images, pipeline, sources
for name, split in (("tfds:tiny_pictures", "train"), ("synthetic", "train")):
    source = sources.load(name, split, data_dir={str(tfds_dir)!r})
    next(pipeline.train_batches(source, images.parse("decode|center_crop(6)"), batch_size=4, seed=0))
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
import jax._src.xla_bridge
assert not jax._src.xla_bridge._backends, "a JAX backend was started"
"""
    root = pathlib.Path(sources.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.fspath(root)})
