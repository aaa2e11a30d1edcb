"""What training needs to know of a tokenizer, read from its file without the library that made it."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

_BEGINS = ("Ġ", "▁")  # of a piece of BPE that begins a word: the blank before it, as ByteLevel and Metaspace write it
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The pieces of a tokenizer by number.

    Attributes:
      path: its tokenizer.json.
      sha256: of that file: two tokenizers are the same where this is.
      size: how many ids there are.
      pad: the id of what fills up an example; likewise those of `SPECIAL`.
      unk: of what no piece stands for.
      cls: of the start of an example.
      sep: of the end of a text.
      mask: of what stands in the place of a masked piece.
      special: (size,) bool, ids that stand for no text.
      continues: (size,) bool, pieces that continue the word of the piece before; all where nothing marks words.
    """

    path: pathlib.Path
    sha256: str
    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    special: np.ndarray = dataclasses.field(compare=False, repr=False)
    continues: np.ndarray = dataclasses.field(compare=False, repr=False)


def read(path: pathlib.Path) -> Vocabulary:
    """The vocabulary of a tokenizer.json of kind WordPiece or BPE.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: where it is none of these kinds, or lacks a special token.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer {path}: make one with python -m mrl_jax.tokenizer CORPUS --out")
    data = path.read_bytes()
    try:
        found = json.loads(data)
        model, added = found["model"], {token["content"]: token["id"] for token in found["added_tokens"]}
        ids = {**model["vocab"], **added}
        kind = model["type"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no tokenizer.json: {type(error).__name__} {error}") from error
    if kind not in ("WordPiece", "BPE"):
        raise ValueError(f"{path} is a tokenizer of kind {kind!r}: WordPiece and BPE are read")
    missing = [name for name in SPECIAL.values() if name not in ids]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: training needs {', '.join(SPECIAL.values())}")
    size = max(ids.values()) + 1
    special, continues = np.zeros(size, bool), np.zeros(size, bool)
    special[list(added.values())] = True
    prefix = model.get("continuing_subword_prefix") or "##"
    for piece, number in model["vocab"].items():
        # BPE marks the start of a word, WordPiece the rest of one.
        continues[number] = piece.startswith(prefix) if kind == "WordPiece" else not piece.startswith(_BEGINS)
    names = {field: ids[name] for field, name in SPECIAL.items()}
    special[list(names.values())] = True
    return Vocabulary(path, hashlib.sha256(data).hexdigest(), size, **names, special=special, continues=continues)
