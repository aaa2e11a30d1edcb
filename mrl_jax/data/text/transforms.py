"""What a record with token ids becomes, in training and in evaluation. Can be pickled."""

import dataclasses
import zlib
from typing import Any

import numpy as np

from mrl_jax.data import images
from mrl_jax.data.text import masking
from mrl_jax.data.text.vocabulary import Vocabulary


def fill(tokens: list[int], context: int, vocabulary: Vocabulary) -> np.ndarray:
    """The ids as int32 (context,), filled up with [PAD]; longer ones are cut, [SEP] last.

    Raises:
      ValueError: for an id that the vocabulary does not have.
    """
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocabulary.size:
        raise ValueError(f"a token id is not in 0..{vocabulary.size - 1}, the vocabulary of {vocabulary.path.name}")
    row = np.full(context, vocabulary.pad, np.int32)
    row[: len(tokens)] = tokens[:context]
    if len(tokens) > context:
        row[-1] = vocabulary.sep
    return row


@dataclasses.dataclass(frozen=True)
class Text:
    """A text to be guessed at: `tokens` (T,) with gaps, their `positions` (S,) and `targets` (S,), -1 for none.

    The gaps are a function of the generator, so of the seed and the example's place in the stream.
    """

    vocabulary: Vocabulary
    context: int
    rate: float
    whole_word: bool
    fields = ("tokens", "positions", "targets")

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Both parts."""
        return self.finish(self.begin(record), rng)

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """The ids as an array."""
        return {"tokens": fill(record["tokens"], self.context, self.vocabulary), "label": record["label"]}

    def finish(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The gaps."""
        options = {"rate": self.rate, "whole_word": self.whole_word}
        found = masking.mask(record["tokens"], rng, self.vocabulary, **options)
        return record | dict(zip(self.fields, found))


@dataclasses.dataclass(frozen=True)
class Captioned:
    """An image and its caption: what `images` makes of the one, `tokens` (T,), and `picture` and `caption`, which are
    equal for equal ones.
    """

    images: images.Transform
    vocabulary: Vocabulary
    context: int
    fields = ("image", "tokens", "caption", "picture")

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Both parts, the image's as it prefers."""
        return self._known(record) | self.images({"image": record["image"], "label": record["label"]}, rng)

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """The fixed part of the image, and the ids as an array."""
        return self._known(record) | self.images.begin({"image": record["image"], "label": record["label"]})

    def finish(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The random part of the image."""
        return self.images.finish(record, rng)

    def _known(self, record):
        tokens = fill(record["tokens"], self.context, self.vocabulary)
        return {"tokens": tokens, "caption": identity(tokens), "picture": identity(record["image"])}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts that belong together: `tokens` and `tokens_2`, (T,) each, and as those of `Captioned`, `picture` and
    `caption`, of the first and of the second: equal for equal texts, on whichever side.

    `score` is how alike they are, float32; NaN where the data do not say. With `negatives` K: the first K hard
    negatives of the record as `negatives` (K, T), and `negative_captions` (K,), which compare with `caption`.
    """

    vocabulary: Vocabulary
    context: int
    negatives: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """The arrays that go into the batch."""
        own = ("tokens", "tokens_2", "caption", "picture", "score")
        return (*own, "negatives", "negative_captions") if self.negatives else own

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """All of it; nothing is random."""
        return self.begin(record)

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """The ids as arrays.

        Raises:
          ValueError: for a record with fewer negatives.
        """
        tokens, other = (fill(record[name], self.context, self.vocabulary) for name in ("tokens", "tokens_2"))
        # Records hold whole numbers: thousandths.
        score = np.float32(record["score"] / 1000 if "score" in record else np.nan)
        found = {"tokens": tokens, "tokens_2": other, "score": score}
        found |= {"caption": identity(other), "picture": identity(tokens)}
        return found | self._negatives(record) | {"label": record["label"]}

    def _negatives(self, record: dict[str, Any]) -> dict[str, np.ndarray]:
        if not self.negatives:
            return {}
        if len(record["negatives"]) < self.negatives:
            raise ValueError(f"a record has {len(record['negatives'])} negatives, not {self.negatives} as the others")
        rows = [fill(tokens, self.context, self.vocabulary) for tokens in record["negatives"][: self.negatives]]
        return {"negatives": np.stack(rows), "negative_captions": np.stack([identity(row) for row in rows])}

    def finish(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Nothing is random."""
        return record


def identity(content: np.ndarray | bytes) -> np.int32:
    """A number, not negative, that equal texts, or equal images, share.

    Different ones share it by chance once in 2**31: of 32,768 different captions in a batch two in every fourth, which
    then lack one negative of 32,767; of a gallery of 100,000 about two pairs (N**2 / 2**32), each searched as one item.
    """
    found = content if isinstance(content, bytes) else content.tobytes()
    return np.int32(zlib.crc32(found) & 0x7FFFFFFF)
