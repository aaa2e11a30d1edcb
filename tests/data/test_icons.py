import multiprocessing
import pathlib

import numpy as np
import pytest

from mrl_jax.data import icons, sources


@pytest.fixture(scope="module")
def sides(icons_dir):
    return {split: sources.load("icons", split, data_dir=icons_dir) for split in ("train", "test")}


def all_of(source):
    return [source.records[i] for i in range(len(source.records))]


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("camera", "camera"),
        ("camera-outline", "camera"),
        ("outline-camera", "camera"),
        ("camera-off-fill", "camera-off"),
        ("battery-50-line", "battery"),
        ("heart-fill-duotone", "heart"),
        ("line", "line"),
        ("fill-drip", "fill-drip"),
        ("pause-circle-filled", "pause-circle"),
    ],
)
def test_concept_is_the_name_without_its_style(name, concept):
    assert icons.concept(name) == concept


def test_counts(sides):
    # Measured with qtawesome 1.4.2 and Pillow 13; another FreeType may merge or part a few rasters.
    assert sides["train"].num_classes == pytest.approx(227, abs=4)
    assert len(sides["train"].records) == pytest.approx(1431, abs=20)
    assert len(sides["test"].records) == pytest.approx(1120, abs=20)


def test_images_and_names(sides):
    for source in sides.values():
        assert len(source.label_names) == source.num_classes == len(set(source.label_names))
        for record in all_of(source):
            assert record["image"].shape == (32, 32, 1)
            assert record["image"].dtype == np.uint8
            assert record["image"].any()


def test_no_raster_occurs_twice(sides):
    rasters = [record["image"].tobytes() for source in sides.values() for record in all_of(source)]
    assert len(set(rasters)) == len(rasters)


def test_every_class_is_in_test_and_often_enough_in_train(sides):
    classes = sides["train"].num_classes
    train, test = ([record["label"] for record in all_of(sides[split])] for split in ("train", "test"))
    assert np.bincount(train, minlength=classes).min() >= icons.MIN_TRAIN
    assert np.bincount(test, minlength=classes).min() >= 1
    assert len(np.bincount(train)) == len(np.bincount(test)) == classes


def glyph(family, concept, value):
    return icons.Glyph(np.full((32, 32, 1), value, np.uint8), concept, family)


def test_split_is_by_family():
    drawings = [glyph(f"f{i}", "bell", i) for i in range(3)]  # a class: three in train, one in test
    drawings += [glyph("phosphor", "bell", 3), glyph("phosphor", "cat", 4)]  # cat: never in train
    drawings += [glyph(f"f{i}", "dog", 5 + i) for i in range(3)]  # dog: never in test
    drawings += [glyph("f0", "eye", 8), glyph("f1", "eye", 9), glyph("phosphor", "eye", 10)]  # eye: too few
    names, train, test = icons.split(drawings)
    assert names == ("bell",)
    assert [record["image"][0, 0, 0] for record in train] == [0, 1, 2]
    assert [record["image"][0, 0, 0] for record in test] == [3]


def prepare(data_dir, barrier, results):
    barrier.wait()
    directory = icons.prepare(data_dir)
    results.put((directory, len(sources.load("icons", "train", data_dir=data_dir).records)))


@pytest.mark.parametrize("damaged", [False, True])
def test_racing_renderers_all_end_well(tmp_path, damaged, icons_dir, sides):
    target = tmp_path / icons.prepare(icons_dir).relative_to(icons_dir)
    if damaged:
        target.mkdir(parents=True)
        (target / "manifest.json").write_text("{")
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=prepare, args=(tmp_path, barrier, results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    found = [results.get(timeout=300) for _ in racers]
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    assert found == [(target, len(sides["train"].records))] * 2
    assert [path.name for path in target.parent.iterdir()] == [target.name], "something was left behind"


def test_the_loser_of_a_race_keeps_what_is_there(tmp_path, monkeypatch, icons_dir):
    """The other process finishes between our look and our rename."""
    target = tmp_path / icons.prepare(icons_dir).relative_to(icons_dir)
    intact = icons._intact
    looks = iter([False])
    monkeypatch.setattr(icons, "_intact", lambda path: next(looks, None) is None and intact(path))
    monkeypatch.setattr(icons, "_render", lambda fonts, version, directory, arrange: copy(icons_dir, target, directory))
    assert icons.prepare(tmp_path) == target
    assert (target / "first").exists()


def copy(icons_dir, target, directory):
    for path in icons.prepare(icons_dir).iterdir():
        for folder in (directory, target):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).write_bytes(path.read_bytes())
    (target / "first").touch()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_damaged_icons_are_rendered_again(tmp_path, monkeypatch, icons_dir, damage):
    good = icons.prepare(icons_dir)
    monkeypatch.setattr(icons, "_render", lambda fonts, version, directory, arrange: clone(good, directory))
    target = icons.prepare(tmp_path)
    victim = target / ("manifest.json" if damage == "manifest" else "test-00000-of-00001.array_record")
    whole = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        changed = bytes([whole[0] ^ 1]) + whole[1:]
        victim.write_bytes(changed if damage == "flip" else whole[:-10])
    source = sources.load("icons", "test", data_dir=tmp_path)
    assert victim.read_bytes() == whole
    assert len(source.records) == len(sources.load("icons", "test", data_dir=icons_dir).records)


def clone(good, directory):
    for path in good.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())


def test_a_second_load_does_not_render(monkeypatch, icons_dir):
    monkeypatch.setattr(icons, "_render", lambda *_: pytest.fail("rendered again"))
    sources.load("icons", "test", data_dir=icons_dir)


def test_where_it_cannot_write_it_says_where(tmp_path):
    (tmp_path / "icons").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot write the icons to .*name another data_dir"):
        icons.prepare(tmp_path)


def test_without_the_fonts_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(icons.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install 'qtawesome"):
        icons.prepare(pathlib.Path("never"))
