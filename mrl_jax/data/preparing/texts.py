"""The texts of examples made into token ids."""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mrl_jax.data.preparing.items import Reader
from mrl_jax.data.text.packing import pack
from mrl_jax.data.text.tokenizer import Tokenizer

FILE = "tokenizer.json"  # the copy of the tokenizer beside the shards


class EmptyText(ValueError):
    """Nothing is left of a text: it is blank."""


class Texts:
    """Makes texts into the fields of records."""

    def __init__(self, reader: Reader, identity: Mapping[str, Any]):
        """Loads the tokenizer of a preparation (`Spec.identity`); ValueError where it has changed since."""
        path, sha256 = identity["tokenizer"]["path"], identity["tokenizer"]["sha256"]
        self._reader, self._context, self._tokenizer = reader, identity["context"], Tokenizer(pathlib.Path(path))
        if self._tokenizer.vocabulary.sha256 != sha256:
            raise ValueError(f"the tokenizer {path} has changed since the preparation began")

    def fields(self, key: str) -> tuple[dict[str, Any], int]:
        """{"tokens"}, and where the source has them "tokens_2", "score" (thousandths) and "negatives"; and how many of
        the texts were cut.

        Raises:
          EmptyText: where one of the texts is.
        """
        texts = [self._encoded(text) for text in self._reader.texts(key)]
        score = self._reader.score(key) if hasattr(self._reader, "score") else None
        negatives = self._reader.negatives(key) if hasattr(self._reader, "negatives") else ()
        others = [self._encoded(text) for text in negatives]
        found = dict(zip(("tokens", "tokens_2"), (tokens for tokens, _ in texts)))
        found |= {} if score is None else {"score": score}
        found |= {"negatives": [tokens for tokens, _ in others]} if others else {}
        return found, sum(cut for _, cut in texts + others)

    def _encoded(self, text: str) -> tuple[list[int], bool]:
        tokens, cut = self._tokenizer.encode(text, self._context)
        if len(tokens) < 3:
            raise EmptyText(f"no text: {text!r}")
        return tokens, cut

    def pieces(self, key: str) -> list[int]:
        """The ids of a single text, whole and alone.

        Raises:
          EmptyText: where it is.
        """
        text = self._reader.texts(key)[0]
        found = self._tokenizer.pieces(text)
        if not found:
            raise EmptyText(f"no text: {text!r}")
        return found

    def packed(self, pieces: Iterable[list[int]]) -> Iterator[list[int]]:
        """Single texts in full rows; see `packing.pack`."""
        own = self._tokenizer.vocabulary
        return pack(pieces, self._context, own.cls, own.sep)
