"""Images with captions that come with a dependency: the icons of qtawesome and their own names.

"camera outline" is the caption of a picture of a camera in outline. As with `icons`, the drawings of one family are the
test: of concepts that other families draw too. A class is a concept, so that neighbours and zero-shot classification
can be measured beside the search of pictures by captions.
"""

import collections
import pathlib
import tempfile

from mrl_jax.data.icons import TEST_FAMILY, Arranged, Glyph
from mrl_jax.data.text.tokenizer import Tokenizer, from_pieces

FILE = "tokenizer.json"
RULES = 1  # raised with every change to what is written
CONTEXT = 16
OFTEN = 3  # how often a word must come in training, to be one piece


def caption(name: str) -> str:
    """The words of an icon's name."""
    return name.replace("-", " ").replace("_", " ")


def arrange(drawings: list[Glyph]) -> Arranged:
    """Splits train and test; records have the token ids of their caption.

    Raises:
      ImportError: where the library tokenizers is not installed.
    """
    train = [g for g in drawings if g.family != TEST_FAMILY]
    known = {g.concept for g in train}
    test = [g for g in drawings if g.family == TEST_FAMILY and g.concept in known]
    names = sorted(known)
    label = {name: i for i, name in enumerate(names)}
    text = from_pieces(_pieces(train))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / FILE
        path.write_text(text, encoding="utf-8")
        tokenizer = Tokenizer(path)

    def records(side):
        return [
            {"image": g.image, "label": label[g.concept], "tokens": tokenizer.encode(caption(g.name), CONTEXT)[0]}
            for g in side
        ]

    own = {"file": FILE, "sha256": tokenizer.vocabulary.sha256, "context": CONTEXT, "pack": False}
    titles = tuple(caption(name) for name in names)
    return Arranged(titles, {"train": records(train), "test": records(test)}, {"text": own}, {FILE: text})


def _pieces(drawings: list[Glyph]) -> list[str]:
    """The frequent words of the captions, and the characters that spell the others."""
    words = collections.Counter(word for g in drawings for word in caption(g.name).lower().split())
    letters = sorted({letter for word in words for letter in word})
    often = sorted(word for word, count in words.items() if count >= OFTEN and len(word) > 1)
    return [*letters, *(f"##{letter}" for letter in letters), *often]
