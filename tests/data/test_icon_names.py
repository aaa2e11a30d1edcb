"""The icons and their names."""

import numpy as np

from mrl_jax.data import icon_names, icons, sources
from mrl_jax.data.text.tokenizer import Tokenizer

NAMES = ("camera-outline", "camera", "arrow-left", "arrow-left-2", "arrow", "camera_off", "zebra", "arrow-right")


def drawings(monkeypatch):
    """A few made-up drawings in place of those of the fonts."""
    made = [
        icons.Glyph(np.full((32, 32, 1), 10 * i + 1 + k, np.uint8), icons.concept(name), family, name)
        for k, family in enumerate(("a", "b", icons.TEST_FAMILY))
        for i, name in enumerate(NAMES)
        if (family, name) not in (("a", "zebra"), ("b", "zebra"))
    ]
    monkeypatch.setattr(icons, "glyphs", lambda fonts: iter(made))


def test_captions_are_the_words_of_the_names_and_the_test_asks_for_known_concepts(tmp_path, monkeypatch):
    drawings(monkeypatch)
    train, test = (sources.load("icons:names", split, data_dir=tmp_path) for split in ("train", "test"))
    assert (len(train.records), len(test.records)) == (14, 7)  # nobody else draws a zebra
    own = Tokenizer(train.vocabulary.path)
    assert own.vocabulary == test.vocabulary
    found = [own._inner.decode(train.records[i]["tokens"]) for i in range(7)]
    assert found == ["camera outline", "camera", "arrow left", "arrow left 2", "arrow", "camera off", "arrow right"]
    labels = [train.label_names[train.records[i]["label"]] for i in range(7)]
    assert labels == ["camera", "camera", "arrow left", "arrow left", "arrow", "camera off", "arrow right"]
    known = [own.pieces(icon_names.caption(name)) for name in NAMES if name != "zebra"]
    assert all(own.vocabulary.unk not in pieces for pieces in known)
    assert sources.load("icons:names", "train", data_dir=tmp_path).records.paths == train.records.paths


def test_a_caption_is_the_words_of_a_name():
    assert icon_names.caption("a-b_c") == "a b c"
