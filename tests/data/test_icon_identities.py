"""Icons as identities drawn by makers: none of training is asked for, and every query has a drawing by another hand."""

import numpy as np
import pytest

from mrl_jax.data import icon_identities, icons, sources


@pytest.fixture(scope="module")
def sides(icons_dir):
    splits = ("train", "query", "gallery")
    return {split: sources.load("icons:identities", split, data_dir=icons_dir) for split in splits}


def column(source, name):
    return np.array([source.records[i][name] for i in range(len(source.records))])


def test_identities_of_the_test_are_never_seen_in_training(sides):
    label = {split: set(column(source, "label").tolist()) for split, source in sides.items()}
    assert label["train"] == set(range(sides["train"].num_classes))
    assert not label["train"] & (label["query"] | label["gallery"])
    assert label["query"] <= label["gallery"]
    assert sides["query"].num_classes == sides["gallery"].num_classes == len(sides["query"].label_names)
    assert sides["query"].label_names[: sides["train"].num_classes] == sides["train"].label_names
    for source in sides.values():
        assert source.class_counts == tuple(np.bincount(column(source, "label"), minlength=source.num_classes))


def test_every_query_is_drawn_by_another_maker_in_the_gallery(sides):
    query, gallery = sides["query"], sides["gallery"]
    who = np.stack([column(gallery, "label"), column(gallery, "camera")])
    for label, camera in zip(column(query, "label"), column(query, "camera")):
        assert set(who[1, who[0] == label]) - {camera}
    assert len(set(column(query, "camera"))) > 3


def test_no_drawing_is_in_two_places(sides):
    rasters = [source.records[i]["image"].tobytes() for source in sides.values() for i in range(len(source.records))]
    assert len(set(rasters)) == len(rasters)


def test_editions_of_one_font_are_one_maker():
    families = ("fontawesome5-solid", "fontawesome6-brands", "materialdesignicons5", "phosphor")
    assert [icon_identities.maker(family) for family in families] == [
        "fontawesome",
        "fontawesome",
        "materialdesignicons",
        "phosphor",
    ]
    image = np.ones((32, 32, 1), np.uint8)
    few = [icons.Glyph(image, "bell", family) for family in families[:3]]
    assert icon_identities.arrange(few).names == (), "two makers are too few"


def test_another_name_is_refused(icons_dir):
    with pytest.raises(ValueError, match=r"write 'icons' or 'icons:identities'; did you mean 'identities'"):
        sources.load("icons:identity", "train", data_dir=icons_dir)
    with pytest.raises(ValueError, match=r"split 'test' .* is not one of"):
        sources.load("icons:identities", "test", data_dir=icons_dir)
