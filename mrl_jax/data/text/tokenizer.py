"""Tokenizers: trained on a corpus, loaded from a file. The only file that imports the library `tokenizers`."""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging

from mrl_jax.choices import choose
from mrl_jax.data.text import vocabulary
from mrl_jax.data.text.vocabulary import SPECIAL

KINDS = ("wordpiece", "bpe")


class Tokenizer:
    """Texts to ids: [CLS] text [SEP], cut to a length."""

    def __init__(self, path: pathlib.Path):
        """Loads a tokenizer.json; errors as `vocabulary.read`, and ImportError without the library."""
        self.vocabulary = vocabulary.read(path)
        self._inner = _library().Tokenizer.from_file(os.fspath(path))
        # Files of published models cut and fill up by themselves.
        self._inner.no_truncation()
        self._inner.no_padding()

    def pieces(self, text: str) -> list[int]:
        """The ids of a text alone, whole; [] where nothing is left of it."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode(self, text: str, context: int) -> tuple[list[int], bool]:
        """[CLS] text [SEP] in at most `context` ids, and whether the text was cut for that."""
        pieces = self.pieces(text)
        cut = pieces[: context - 2]
        return [self.vocabulary.cls, *cut, self.vocabulary.sep], len(cut) < len(pieces)

    def batch(self, texts: Sequence[str], context: int) -> tuple[list[list[int]], int]:
        """`encode` of several texts, filled up to `context`, and how many were cut for that, of which it warns."""
        found = [self.encode(text, context) for text in texts]
        cut = sum(was_cut for _, was_cut in found)
        if cut:
            logging.warning("%d of %d texts are cut to context=%d ids: shorten them", cut, len(texts), context)
        return [row + [self.vocabulary.pad] * (context - len(row)) for row, _ in found], cut


def train(texts: Iterable[str], out: pathlib.Path, *, kind: str, size: int, lowercase: bool) -> int:
    """Trains a tokenizer, writes it to `out` in one piece, and returns the number of its ids.

    Trained again on the same corpus, it is the same file.

    Args:
      texts: the corpus; WordPiece reads it twice.
      out: a .json file that does not exist yet.
      kind: "wordpiece", as BERT's; or "bpe" on bytes, which no text is unknown to.
      size: the most ids.
      lowercase: whether capitals and accents are taken for plain letters.

    Raises:
      ValueError: for an unknown kind, a size too small, an empty corpus, or a file that is there.
      ImportError: without the library.
    """
    choose("--kind", kind, KINDS)
    least = len(SPECIAL) + (256 if kind == "bpe" else 1)
    if size < least:
        raise ValueError(f"--size={size} must be at least {least} for --kind={kind}")
    if out.exists():
        raise ValueError(f"--out={out} exists: a tokenizer that something was trained with is never overwritten")
    inner = (_learn_bpe if kind == "bpe" else _learn_wordpiece)(texts, size, lowercase)
    if inner.get_vocab_size() <= least - 1:
        raise ValueError("the corpus holds no text to learn pieces from")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    inner.save(os.fspath(partial))
    partial.replace(out)
    return inner.get_vocab_size()


def from_pieces(pieces: Sequence[str]) -> str:
    """The tokenizer.json of the WordPiece tokenizer of given pieces, numbered in their order after the special ones."""
    return _wordpiece(pieces, lowercase=True).to_str()


def _learn_wordpiece(texts: Iterable[str], size: int, lowercase: bool) -> Any:
    """The library numbers the characters that continue a word in an order that is another each time, by which it then
    decides between pieces that are equally frequent. So they are learned first, and given to it in order.
    """
    continuing: list[str] = []
    for count in (len(SPECIAL) + 1, size):
        inner, known = _wordpiece([], lowercase), [*SPECIAL.values(), *continuing]
        trainer = _library().trainers.WordPieceTrainer(vocab_size=count, special_tokens=known, show_progress=False)
        inner.train_from_iterator(texts, trainer)
        ids = inner.get_vocab()
        continuing = sorted(piece for piece in ids if piece.startswith("##") and len(piece) == 3)
    return _wordpiece(sorted(ids, key=ids.get), lowercase)


def _wordpiece(pieces: Sequence[str], lowercase: bool) -> Any:
    library = _library()
    ids = {piece: i for i, piece in enumerate(dict.fromkeys([*SPECIAL.values(), *pieces]))}
    inner = library.Tokenizer(library.models.WordPiece(ids, unk_token=SPECIAL["unk"]))
    inner.add_special_tokens(list(SPECIAL.values()))
    inner.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    inner.decoder = library.decoders.WordPiece()
    return inner


def _learn_bpe(texts: Iterable[str], size: int, lowercase: bool) -> Any:
    library = _library()
    inner = library.Tokenizer(library.models.BPE())
    if lowercase:
        inner.normalizer = library.normalizers.Lowercase()
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = library.decoders.ByteLevel()
    options = {"vocab_size": size, "special_tokens": list(SPECIAL.values()), "show_progress": False}
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(texts, library.trainers.BpeTrainer(**options, initial_alphabet=alphabet))
    return inner


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"tokenizing text needs the library tokenizers ({error}): pip install 'mrl_jax[text]'"
        ) from error
    return tokenizers
