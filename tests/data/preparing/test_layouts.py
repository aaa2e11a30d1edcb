"""Sets of identities in their published layouts, each made small on the spot: splits, identities, cameras."""

import pickle
import struct

import numpy as np
import pytest
import raw

from mrl_jax.data import ground_truth, sources
from mrl_jax.data.preparing.layouts import LAYOUTS, templates


def image(root, name, number=0):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw.jpeg(raw.picture(number)))


def rows(directory, split, *fields):
    """(identity, fields ...) of every record, and how many classes the split knows."""
    source = sources.load(f"array_record:{directory}", split, data_dir=".")
    records = [source.records[i] for i in range(len(source.records))]
    assert set(fields) == set(source.fields)
    assert all(r["label"] < source.num_classes for r in records)
    return [(source.label_names[r["label"]], *(r[f] for f in fields)) for r in records], source.num_classes


def market(root):
    for name in ("0002_c1s1_000451_03", "0002_c2s1_000451_01", "0007_c3s1_000451_01"):
        image(root, f"bounding_box_train/{name}.jpg")
    image(root, "query/0001_c1s1_001051_00.jpg")
    for name in ("-1_c1s1_000401_03", "0000_c2s1_000151_01", "0001_c4s1_000151_01"):
        image(root, f"bounding_box_test/{name}.jpg")
    (root / "query/Thumbs.db").write_bytes(b"x")
    return root


def test_market1501(tmp_path):
    raw.prepare(market(tmp_path / "m"), tmp_path / "d", layout="market1501")
    # Training knows its own identities, which come first; the others know all.
    assert rows(tmp_path / "d", "train", "camera") == ([("0002", 1), ("0002", 2), ("0007", 3)], 2)
    assert rows(tmp_path / "d", "query", "camera") == ([("0001", 1)], 5)
    assert rows(tmp_path / "d", "gallery", "camera")[0] == [("-1", 1), ("0000", 2), ("0001", 4)]
    assert raw.manifest(tmp_path / "d")["class_counts"] == {
        "train": [2, 1],
        "query": [0, 0, 0, 0, 1],
        "gallery": [0, 0, 1, 1, 1],
    }
    again = {"source_splits": ("train", "query", "gallery"), "source_dir": "."}
    raw.prepare(f"array_record:{tmp_path / 'd'}", tmp_path / "e", reader=again)
    for split in ("train", "query", "gallery"):
        assert rows(tmp_path / "e", split, "camera") == rows(tmp_path / "d", split, "camera")


def test_what_is_missing_or_misnamed(tmp_path):
    with pytest.raises(ValueError, match=r"'markt1501' is not one of \['market1501', .*did you mean 'market1501'"):
        raw.prepare(market(tmp_path / "m"), tmp_path / "d", layout="markt1501")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        raw.prepare(tmp_path / "nowhere", tmp_path / "d", layout="market1501")
    for layout in LAYOUTS:
        if layout != "market1501":
            with pytest.raises(FileNotFoundError, match=f"--layout={layout}: there is no .* in "):
                raw.prepare(tmp_path / "m", tmp_path / "d", layout=layout)
    image(tmp_path / "m", "query/portrait.jpg")
    with pytest.raises(ValueError, match=r"portrait\.jpg: its name does not begin with IDENTITY_cCAMERA"):
        raw.prepare(tmp_path / "m", tmp_path / "d", layout="market1501")
    (tmp_path / "m/query/portrait.jpg").unlink()
    raw.prepare(tmp_path / "m", tmp_path / "d", layout="market1501")
    with pytest.raises(ValueError, match=r"layout: 'market1501' there, None asked for"):
        raw.prepare(tmp_path / "m", tmp_path / "d")


def test_veri776(tmp_path):
    for split, name in (("train", "0001_c001_1_0"), ("query", "0002_c002_1_0"), ("test", "0002_c017_2_0")):
        image(tmp_path / "v", f"image_{split}/{name}.jpg")
    raw.prepare(tmp_path / "v", tmp_path / "d", layout="veri776")
    assert rows(tmp_path / "d", "train", "camera") == ([("0001", 1)], 1)
    assert rows(tmp_path / "d", "gallery", "camera") == ([("0002", 17)], 2)


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17_numbers_both_sides_from_0(tmp_path, folders):
    name = "0000/0000_{}_{}_0303morning_0015_0.jpg"
    for split, folder, number, camera in (
        ("train", 0, "000", "01"),
        ("val", 0, "001", "15"),
        ("query", 1, "000", "02"),
        ("gallery", 1, "001", "03"),
    ):
        image(tmp_path / "m", f"{folders[folder]}/{name.format(number, camera)}")
        (tmp_path / "m" / f"list_{split}.txt").write_text(f"{name.format(number, camera)} 0\n")
    raw.prepare(tmp_path / "m", tmp_path / "d", layout="msmt17")
    assert rows(tmp_path / "d", "train", "camera") == ([("train-0000", 1), ("train-0000", 15)], 1)
    assert rows(tmp_path / "d", "query", "camera") == ([("test-0000", 2)], 2)
    assert rows(tmp_path / "d", "gallery", "camera") == ([("test-0000", 3)], 2)


def test_inshop(tmp_path):
    lines = ["4", "image_name item_id evaluation_status"]
    for item, split, name in ((1, "train", "a"), (2, "query", "b"), (2, "gallery", "c")):
        path = f"img/MEN/Denim/id_{item:08d}/{name}.jpg"
        image(tmp_path / "s", path)
        lines.append(f"{path}  id_{item:08d}  {split}")
    (tmp_path / "s/list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    raw.prepare(tmp_path / "s", tmp_path / "d", layout="inshop")
    assert rows(tmp_path / "d", "train") == ([("id_00000001",)], 1)
    assert rows(tmp_path / "d", "query") == rows(tmp_path / "d", "gallery") == ([("id_00000002",)], 2)


def test_gldv2(tmp_path):
    root = tmp_path / "g"
    for name in ("train/a/b/c/abc1", "index/0/1/2/0120", "index/0/1/2/0121", "test/f/0/0/f001"):
        image(root, f"{name}.jpg")
    (root / "train_clean.csv").write_text("landmark_id,images\n7,abc1\n")
    (root / "index_image_to_landmark.csv").write_text("id,landmark_id\n0120,9\n0121,8\n")
    (root / "retrieval_solution_v2.1.csv").write_text(
        "id,images,Usage\nf001,0121,Private\nf002,None,Ignored\nf003,0120,Ignored\n"
    )
    raw.prepare(root, tmp_path / "d", layout="gldv2")
    assert rows(tmp_path / "d", "train") == ([("7",)], 1)
    assert rows(tmp_path / "d", "query") == ([("8",)], 3)
    assert rows(tmp_path / "d", "gallery") == ([("9",), ("8",)], 3)


def revisited(root, layout="roxford5k", **changes):
    for name in ("a_1", "b_1", "q_1"):
        image(root, f"jpg/{name}.jpg", 3)
    entry = {"bbx": np.array([2.0, 3.0, 12.4, 20.0]), "easy": [1], "hard": np.array([0]), "junk": []} | changes
    (root / f"gnd_{layout}.pkl").write_bytes(
        pickle.dumps({"imlist": ["b_1", "a_1"], "qimlist": ["q_1"], "gnd": [entry]})
    )
    return root


def test_revisited_oxford_cuts_queries_and_keeps_the_order_of_its_lists(tmp_path):
    raw.prepare(revisited(tmp_path / "o"), tmp_path / "d", layout="roxford5k")
    assert rows(tmp_path / "d", "gallery") == ([("gallery",), ("gallery",)], 2)
    source = sources.load(f"array_record:{tmp_path / 'd'}", "query", data_dir=".")
    whole = np.frombuffer(raw.pixels(raw.jpeg(raw.picture(3))), np.uint8).reshape(24, 28, 3)
    np.testing.assert_array_equal(source.records[0]["image"], whole[3:20, 2:12])
    found = ground_truth.read(tmp_path / "o/gnd_roxford5k.pkl")
    assert (found.gallery, found.queries, found.boxes) == (("b_1", "a_1"), ("q_1",), ((2.0, 3.0, 12.4, 20.0),))
    assert [part[0].tolist() for part in (found.easy, found.hard, found.junk)] == [[1], [0], []]


def test_ground_truth_that_is_none(tmp_path):
    path = revisited(tmp_path, easy=[2]) / "gnd_roxford5k.pkl"
    with pytest.raises(ValueError, match="names the rows 0 to 2 of a gallery of 2"):
        ground_truth.read(path)
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match=r"it names builtins\.print"):
        ground_truth.read(path)
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(ValueError, match="is not the ground truth"):
        ground_truth.read(path)


def record_io(root, records):
    """train.rec and train.idx of (labels, image) pairs; the first one says where images end."""
    data, index = b"", ""
    for number, (label, body) in enumerate(records):
        index += f"{number}\t{len(data)}\n"
        several = isinstance(label, list)
        header = struct.pack("<IfQQ", len(label) if several else 0, 0.0 if several else label, number, 0)
        body = header + (np.array(label, "<f4").tobytes() if several else b"") + body
        data += struct.pack("<II", 0xCED7230A, len(body)) + body + bytes(-len(body) % 4)
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.rec").write_bytes(data)
    (root / "train.idx").write_text(index)
    return root


def test_ms1mv3(tmp_path):
    faces = [raw.jpeg(raw.picture(i)) for i in range(3)]
    root = record_io(
        tmp_path / "f", [([4.0, 6.0], b""), (0.0, faces[0]), ([1.0, 0.5], faces[1]), (1.0, faces[2]), ([1.0, 4.0], b"")]
    )
    raw.prepare(root, tmp_path / "d", layout="ms1mv3")
    assert raw.found(tmp_path / "d") == [(raw.pixels(face), label) for face, label in zip(faces, (0, 1, 1))]
    (root / "train.rec").write_bytes((root / "train.rec").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"train\.rec has no record at byte"):
        raw.prepare(root, tmp_path / "e", layout="ms1mv3")


def ijbc(root):
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        image(root, f"loose_crop/{name}", 1)
    (root / "meta").mkdir()
    lines = ["1.jpg 10 5", "2.jpg 10 6", "3.jpg 20 7", "1.jpg 30 8"]
    (root / "meta/ijbc_face_tid_mid.txt").write_text("\n".join(lines) + "\n")
    for name, rows_ in (("probe_mixed", "10,77"), ("gallery_G1", "20,77"), ("gallery_G2", "30,78")):
        (root / f"meta/ijbc_1N_{name}.csv").write_text(f"TEMPLATE_ID,SUBJECT_ID,FILENAME\n{rows_},x\n")
    return root


def test_ijbc(tmp_path):
    raw.prepare(ijbc(tmp_path / "j"), tmp_path / "d", layout="ijbc")
    assert rows(tmp_path / "d", "query", "template", "media")[0] == [("77", 10, 5), ("77", 10, 6)]
    assert rows(tmp_path / "d", "gallery1", "template", "media")[0] == [("77", 20, 7)]
    assert rows(tmp_path / "d", "gallery2", "template", "media")[0] == [("78", 30, 8)]


def test_faces_are_turned_and_scaled_to_the_target():
    angle, scale = 0.4, 0.5
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = templates.TARGET @ turn.T + [60.0, 20.0]
    picture = np.zeros((160, 160, 1), np.uint8)
    for x, y in np.rint(points).astype(int):
        picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    aligned = templates.align(picture, points)
    assert aligned.shape == (112, 112, 1)
    for x, y in np.rint(templates.TARGET).astype(int):
        assert aligned[y, x, 0] > 200


def test_half_of_the_classes_are_kept_from_training(tmp_path):
    images = np.stack([np.full((4, 4), i, np.uint8) for i in range(40)])
    labels, shops = np.arange(40) % 8 + 3, np.array(["b", "a", "c", "a"])[np.arange(40) % 4]
    np.savez(tmp_path / "a.npz", x=images, y=labels, shop=shops)
    keys = {"image_key": "x", "label_key": "y", "camera_key": "shop"}
    raw.prepare(tmp_path / "a.npz", tmp_path / "d", reader=keys, open_set=0.5, seed=1)
    train, query, gallery = (rows(tmp_path / "d", split, "camera") for split in ("train", "query", "gallery"))
    identities = [{name for name, _ in part} for part, _ in (train, query, gallery)]
    assert identities[1] == identities[2]
    assert not identities[0] & identities[1]
    assert (len(identities[0]), len(identities[1])) == (4, 4)
    assert (train[1], query[1], gallery[1]) == (4, 8, 8)
    assert [len(part) for part, _ in (train, query, gallery)] == [20, 8, 12]
    source = sources.load(f"array_record:{tmp_path / 'd'}", "gallery", data_dir=".")
    for record in (source.records[i] for i in range(12)):
        number = int(record["image"][0, 0, 0])
        assert source.label_names[record["label"]] == str(number % 8 + 3)
        assert record["camera"] == [1, 0, 2, 0][number % 4]
    for wrong, message in (
        ({"open_set": 1.5}, "must be a fraction"),
        ({"open_set": 0.01}, "leaves 8 of 8 classes"),
        ({"open_set": 0.5, "splits": {"train": 0.5, "test": 0.5}}, "leave the fractions"),
        ({"reader": keys | {"camera_key": "shops"}}, "no array 'shops'.*did you mean 'shop'"),
    ):
        with pytest.raises(ValueError, match=message):
            raw.prepare(tmp_path / "a.npz", tmp_path / "w", **({"reader": keys} | wrong))


def test_cameras_of_a_list(tmp_path):
    raw.folder(tmp_path, 3)
    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg"))
    (tmp_path / "list.csv").write_text("path,label,shop\n" + "".join(f"{p},{i},{i + 4}\n" for i, p in enumerate(paths)))
    raw.prepare(tmp_path / "list.csv", tmp_path / "d", reader={"camera_key": "shop"})
    source = sources.load(f"array_record:{tmp_path / 'd'}", "train", data_dir=".")
    assert [source.records[i]["camera"] for i in range(3)] == [4, 5, 6]
    (tmp_path / "list.csv").write_text(f"path,label,shop\n{paths[0]},0,\n")
    with pytest.raises(ValueError, match=r"column 'shop' of .*list\.csv: row 1 has none"):
        raw.prepare(tmp_path / "list.csv", tmp_path / "e", reader={"camera_key": "shop"})
