"""Each kind of source: what comes out is what went in, and what is wrong with it is named."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import raw
import text

from mrl_jax.data import array_records, sources

NAMES = ("cat", "dog", "owl")


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def samples(numbers, label=lambda i: str(i % 3).encode()):
    return [m for i in numbers for m in ((f"a/{i:04d}.jpg", raw.jpeg(raw.picture(i))), (f"a/{i:04d}.cls", label(i)))]


def expected(numbers, label=lambda i: i % 3):
    return [(raw.pixels(raw.jpeg(raw.picture(i))), label(i)) for i in numbers]


def test_a_folder_of_splits_keeps_its_bytes(tmp_path):
    raw.folder(tmp_path / "s", 12, "train")
    raw.folder(tmp_path / "s", 6, "val", first=50)
    (tmp_path / "s/train/cat/notes.txt").write_text("no image")
    (tmp_path / "s/words.txt").write_text("a list, as archives have them beside their images")
    result = raw.prepare(tmp_path / "s", tmp_path / "d", shards=3, licence="ours")
    by_class = sorted(range(12), key=lambda i: (i % 3, i))
    assert raw.found(tmp_path / "d") == expected(by_class)
    assert len(raw.found(tmp_path / "d", "val")) == 6
    assert result == raw.manifest(tmp_path / "d")
    assert (result["label_names"], result["num_classes"], result["licence"]) == (list(NAMES), 3, "ours")
    assert result["class_counts"] == {"train": [4, 4, 4], "val": [2, 2, 2]}
    records = sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".").records
    assert records[0]["image"] == (tmp_path / "s/train/cat/000.jpg").read_bytes()


def test_a_folder_of_classes_is_divided_by_fractions(tmp_path):
    raw.folder(tmp_path / "s", 20)
    raw.prepare(tmp_path / "s", tmp_path / "d", splits={"train": 0.75, "test": 0.25})
    train, test = raw.found(tmp_path / "d"), raw.found(tmp_path / "d", "test")
    assert (len(train), len(test)) == (15, 5)
    assert sorted(train + test) == sorted(expected(range(20)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "empty").mkdir(), r"holds neither CLASS/image.jpg nor SPLIT/CLASS/image.jpg"),
        (lambda root: (raw.folder(root, 3), (root / "ant").mkdir()), "class folder .*ant holds no image"),
        (
            lambda root: (raw.folder(root, 3, "train"), (root / "val").mkdir(), (root / "val/x.jpg").write_bytes(b"")),
            "holds images in val/ and class folders in train/",
        ),
        (
            lambda root: (raw.folder(root, 3, "train"), raw.folder(root, 1, "val/x"), None),
            r"unknown class 'x'|unknown class 'cat'|holds no image",
        ),
    ],
)
def test_wrong_folders_are_named(tmp_path, make, message):
    (tmp_path / "s").mkdir()
    make(tmp_path / "s")
    with pytest.raises(ValueError, match=message):
        raw.prepare(tmp_path / "s", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_tars_by_folder_and_by_glob(tmp_path):
    for i in range(2):
        tar(tmp_path / f"s/train/{i}.tar", samples(range(i * 5, i * 5 + 5)))
    tar(tmp_path / "s/val/0.tar", samples(range(20, 24)))
    raw.prepare(tmp_path / "s", tmp_path / "d")
    assert raw.found(tmp_path / "d") == expected(range(10))
    assert raw.found(tmp_path / "d", "val") == expected(range(20, 24))
    raw.prepare(tmp_path / "s/train/*.tar", tmp_path / "glob")
    assert raw.found(tmp_path / "glob") == expected(range(10))


def test_tars_with_json_labels_and_names(tmp_path):
    members = [
        m
        for i in range(6)
        for m in ((f"{i}.json", json.dumps({"class": NAMES[i % 3]}).encode()), (f"{i}.PNG", png(raw.picture(i))))
    ]
    raw.prepare(tar(tmp_path / "a.tar", members), tmp_path / "d", reader={"label_key": "class"})
    assert raw.manifest(tmp_path / "d")["label_names"] == list(NAMES)
    assert raw.found(tmp_path / "d") == [(raw.picture(i).tobytes(), i % 3) for i in range(6)]


def png(image):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_bad_samples_of_tars_are_counted_and_listed(tmp_path):
    members = samples(range(6))
    members[1] = ("a/0000.txt", b"a caption")
    members[2] = ("a/0001.txt", b"no image")
    raw.prepare(tar(tmp_path / "a.tar", members), tmp_path / "d", skip_fraction=0.5)
    assert raw.found(tmp_path / "d") == expected(range(2, 6))
    details = [row["detail"] for row in raw.dropped(tmp_path / "d")]
    assert ["no label" in details[0], "0 images" in details[1]] == [True, True]
    assert raw.manifest(tmp_path / "d")["dropped"] == {"train": {"mislabelled": 2}}


def test_wrong_tars_are_named(tmp_path):
    whole = tar(tmp_path / "s/0.tar", samples(range(5))).read_bytes()
    other = tmp_path / "s/1.tar"
    cases = (
        (b"", "empty"),
        (whole[: len(whole) // 2], "cut short|damaged"),
        (b"\x1f\x8b" + bytes(2000), "no plain tar"),
    )
    for data, message in cases:
        other.write_bytes(data)
        with pytest.raises(ValueError, match=rf"1\.tar .*({message})"):
            raw.prepare(tmp_path / "s", tmp_path / "d")
    tar(other, [])
    with pytest.raises(ValueError, match=r"1\.tar is an empty shard"):
        raw.prepare(tmp_path / "s", tmp_path / "d")


def listed(root, form, rows):
    """A list with the columns file, tags and part."""
    path = root / f"list.{form}"
    if form in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file", "tags", "part"], delimiter="\t" if form == "tsv" else ",")
            writer.writeheader()
            writer.writerows(row | {"tags": ";".join(map(str, row["tags"]))} for row in rows)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", [True, False])
def test_lists_with_several_labels(tmp_path, form, names):
    raw.folder(tmp_path / "s", 8)
    tags = [[0], [2, 1], [1, 0, 2], [1], [0, 1], [2], [2, 2], [0, 2]]
    paths = sorted(p.relative_to(tmp_path / "s") for p in (tmp_path / "s").rglob("*.jpg"))
    rows = [
        {"file": f"./{path}", "tags": [NAMES[n] for n in own] if names else own, "part": "test" if i > 5 else "train"}
        for i, (path, own) in enumerate(zip(paths, tags))
    ]
    keys = {"image_key": "file", "label_key": "tags", "split_key": "part", "root": str(tmp_path / "s")}
    if form in ("csv", "tsv"):
        keys["label_separator"] = ";"
    raw.prepare(listed(tmp_path, form, rows), tmp_path / "d", reader=keys)
    assert [label for _, label in raw.found(tmp_path / "d")] == tags[:6]
    assert [label for _, label in raw.found(tmp_path / "d", "test")] == [[2], [0, 2]]
    result = raw.manifest(tmp_path / "d")
    assert result["label_names"] == (list(NAMES) if names else None)
    assert result["class_counts"] == {"train": [3, 4, 3], "test": [1, 0, 2]}
    source = sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".")
    assert (source.max_labels, source.class_counts) == (3, (3, 4, 3))


def test_wrong_lists_are_named(tmp_path):
    raw.folder(tmp_path, 3)
    rows = [{"path": f"{name}/{i:03d}.jpg", "label": name} for i, name in enumerate(NAMES)]

    def prepare(rows, **options):
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return raw.prepare(tmp_path / "list.jsonl", tmp_path / "d", **options)

    (tmp_path / "names.txt").write_text("cat\ndog\nowls\n")
    cases = [
        (rows, {"labels": str(tmp_path / "names.txt")}, "owl/002.jpg: unknown class 'owl'.*did you mean 'owls'"),
        ([*rows, rows[0] | {"path": "./cat/000.jpg"}], {}, "1 examples come more than once, first cat/000.jpg"),
        ([{"file": "x", "label": 1}], {}, "row 1 .* has no 'path' among .*; see --image_key"),
        (rows, {"reader": {"camera_key": "camera"}}, "row 1 .* has no 'camera' among .*; see --camera_key"),
        ([rows[0], {"path": "", "label": "cat"}], {}, "row 2 of list.jsonl: no path"),
        ([rows[0], rows[1] | {"label": None}], {}, "dog/001.jpg: it has no label"),
        ([rows[0], rows[1] | {"label": 1.5}], {}, "label 1.5 is neither a name nor an integer"),
        ([rows[0] | {"label": 0}, rows[1] | {"label": -1}], {}, "unknown class -1|the largest"),
        ([rows[0] | {"label": 10**9}], {}, "largest label is 1000000000: name the classes by --labels"),
        ([], {}, "lists nothing"),
        (
            [rows[0] | {"part": "../x"}],
            {"reader": {"split_key": "part"}},
            r"has a split '\.\./x': name splits with letters",
        ),
        ([rows[0], rows[1] | {"path": "gone.jpg"}], {}, "gone.jpg: the file is missing"),
        (rows, {"reader": {"source_dir": "x"}}, "--source_dir does not apply to .*list.jsonl"),
        (rows, {"splits": ("tran",)}, r"has no 'tran' among \['train'\]; did you mean 'train'"),
    ]
    for bad, options, message in cases:
        with pytest.raises(ValueError, match=message):
            prepare(bad, **options)
        if (tmp_path / "d/.prepare").exists():  # a missing file shows only when shards are written
            import shutil

            shutil.rmtree(tmp_path / "d")
    prepare([*rows, rows[0]], duplicates="skip")
    assert len(raw.found(tmp_path / "d")) == 3
    assert raw.manifest(tmp_path / "d")["dropped"] == {"train": {"duplicate": 1}}
    assert raw.dropped(tmp_path / "d")[0]["key"] == "cat/000.jpg"


def test_label_files_fix_the_classes(tmp_path):
    raw.folder(tmp_path / "s", 3)
    (tmp_path / "names.txt").write_text("owl\ndog\nant\ncat\n")
    raw.prepare(tmp_path / "s", tmp_path / "d", labels=str(tmp_path / "names.txt"))
    assert [label for _, label in raw.found(tmp_path / "d")] == [3, 1, 0]
    assert raw.manifest(tmp_path / "d")["class_counts"] == {"train": [1, 1, 0, 1]}
    for names, message in (
        ("", "is empty"),
        ("a\n\nb", "line 2 is empty"),
        ("a\nb\na", "line 3 repeats 'a' of line 1"),
    ):
        (tmp_path / "names.txt").write_text(names)
        with pytest.raises(ValueError, match=message):
            raw.prepare(tmp_path / "s", tmp_path / "e", labels=str(tmp_path / "names.txt"))


def test_arrays_with_splits_in_their_names(tmp_path):
    images = np.stack([raw.picture(i) for i in range(7)])
    labels = np.arange(7) % 3
    np.savez(tmp_path / "a.npz", train_images=images[:5], train_labels=labels[:5], val_images=images[5:, :, :, 0],
             val_labels=labels[5:, None])  # fmt: skip
    keys = {"image_key": "{split}_images", "label_key": "{split}_labels"}
    raw.prepare(tmp_path / "a.npz", tmp_path / "d", reader=keys)
    assert raw.found(tmp_path / "d") == [(images[i].tobytes(), labels[i]) for i in range(5)]
    assert raw.found(tmp_path / "d", "val")[1] == (images[6, :, :, 0].tobytes(), 0)


def test_arrays_with_several_labels(tmp_path):
    images = np.zeros((3, 4, 4), np.uint8)
    expected = [[0], [1, 2], [0, 2]]
    for labels in ([[0, -1], [1, 2], [0, 2]], np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1]], bool)):
        np.savez(tmp_path / "a.npz", images=images, labels=labels)
        directory = tmp_path / str(np.asarray(labels).dtype)
        raw.prepare(tmp_path / "a.npz", directory)
        assert [label for _, label in raw.found(directory)] == expected


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((3, 4, 4)), "labels": np.zeros(3, int)}, r"images are float64 of shape \(3, 4, 4\)"),
        ({"images": np.zeros((3, 3, 4, 9), np.uint8), "labels": np.zeros(3, int)}, "with 1 or 3 channels"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "labels": np.zeros(2, int)}, "labels are int64 .* for 3 images"),
        ({"images": np.zeros((1, 4, 4), np.uint8), "labels": np.array([[0, 1, 0]])}, "labels of example 0 repeat"),
        (
            {"image": np.zeros((1, 4, 4), np.uint8), "labels": np.zeros(1, int)},
            "no array 'images'.*did you mean 'image'.*--image_key, --label_key, --text_key and --camera_key",
        ),
        ({"images": np.zeros((0, 4, 4), np.uint8), "labels": np.zeros(0, int)}, "holds no example"),
        ({"images": np.array([{}]), "labels": np.zeros(1, int)}, "Object arrays|plain arrays"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        raw.prepare(tmp_path / "a.npz", tmp_path / "d")


def test_a_prepared_dataset_can_be_prepared_again(tmp_path):
    raw.prepare(raw.folder(tmp_path / "s", 10), tmp_path / "d")
    options = {"source_splits": ("train",), "source_dir": "."}
    raw.prepare(f"array_record:{tmp_path / 'd'}", tmp_path / "e", reader=options, shards=3, seed=4)
    assert sorted(raw.found(tmp_path / "e")) == sorted(raw.found(tmp_path / "d"))
    assert raw.found(tmp_path / "e") != raw.found(tmp_path / "d")
    assert raw.manifest(tmp_path / "e")["label_names"] == list(NAMES)


def test_a_prepared_dataset_with_texts_is_refused_before_anything_is_written(tmp_path):
    rows = [{"path": str(path), "t": "red house"} for path in sorted(raw.folder(tmp_path / "s", 3).glob("*/*.jpg"))]
    listed, made = text.write_jsonl(tmp_path / "l.jsonl", rows), str(text.trained(tmp_path / "tokenizer.json"))
    raw.prepare(listed, tmp_path / "d", tokenizer=made, context=8, reader={"image_key": "path", "text_key": "t"})
    options = {"source_splits": ("train",), "source_dir": "."}
    with pytest.raises(ValueError, match="has texts, which would be lost: prepare again what it was made of"):
        raw.prepare(f"array_record:{tmp_path / 'd'}", tmp_path / "e", reader=options)
    assert not (tmp_path / "e").exists()


def test_sources_that_are_nothing_known(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere"):
        raw.prepare(tmp_path / "nowhere", tmp_path / "d")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.zip is none of: .*\*.parquet"):
        raw.prepare(tmp_path / "a.zip", tmp_path / "d")
    (tmp_path / "a.parquet").write_bytes(b"PAR")
    with pytest.raises(ValueError, match="not Parquet, or damaged"):
        raw.prepare(tmp_path / "a.parquet", tmp_path / "d")
    assert array_records.MANIFEST not in raw.files(tmp_path)
