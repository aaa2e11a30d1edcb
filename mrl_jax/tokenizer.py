"""Trains a tokenizer on a corpus and writes it as tokenizer.json.

SOURCE is a .txt file with a text a line, a folder of them, or a list (.csv, .tsv, .jsonl, .parquet) with --text_key.

python -m mrl_jax.tokenizer corpus.txt --out=tokenizer.json --size=30522
python -m mrl_jax.tokenizer articles.jsonl --text_key=title,extract --out=tokenizer.json --kind=bpe --size=8000
"""

import pathlib
from collections.abc import Iterator

from absl import flags

from mrl_jax import commands
from mrl_jax.data.preparing import readers
from mrl_jax.data.preparing.items import not_utf8
from mrl_jax.data.text import tokenizer, vocabulary


class Texts:
    """Every text of a source, as often as it is iterated.

    Raises:
      ValueError, FileNotFoundError: where it is none that texts are read of, or one of them cannot be read.
    """

    def __init__(self, source: str, text_key: str):
        """Reads nothing yet."""
        self._of = source, text_key

    def __iter__(self) -> Iterator[str]:
        """From the first on."""
        return _texts(*self._of)


def _texts(source: str, text_key: str) -> Iterator[str]:
    kind = readers.kind_of(source)
    if kind not in ("lines", "list") or (kind == "list") != bool(text_key):
        raise ValueError(
            f"{source} with --text_key={text_key!r}: give .txt files without it, or a list (.csv, .tsv, .jsonl, "
            ".parquet) with it"
        )
    reader = readers.open_reader(kind, source, {"text_key": text_key} if text_key else {})
    for item in reader.items():
        if item.problem:
            raise ValueError(f"{item.key}: {item.problem}: repair or remove it")
        try:
            found = reader.texts(item.key)
        except UnicodeDecodeError as error:
            raise ValueError(not_utf8(reader.place(item.key), error)) from error
        yield from found


def main(argv: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if len(argv) != 2:
        raise ValueError(f"give one SOURCE, not {argv[1:]}: python -m mrl_jax.tokenizer SOURCE --out=tokenizer.json")
    out = pathlib.Path(options.out)
    corpus = Texts(argv[1], options.text_key)
    arguments = {"kind": options.kind, "size": options.size, "lowercase": options.lowercase}
    count = tokenizer.train(corpus, out, **arguments)
    found = vocabulary.read(out)
    print(f"Wrote {out}: {options.kind} of {count} pieces, SHA-256 {found.sha256[:12]}")
    print(f"Make texts into ids with: python -m mrl_jax.prepare {argv[1]} --data_dir=DIR --tokenizer={out}")


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The .json file to write; it must not exist.")
    flags.DEFINE_enum("kind", "wordpiece", list(tokenizer.KINDS), "wordpiece, as BERT has; or byte-level bpe.")
    flags.DEFINE_integer("size", 30522, "The most pieces.")
    flags.DEFINE_bool("lowercase", True, "Whether capitals are taken for small letters (and accents are left out).")
    flags.DEFINE_string("text_key", "", "Lists: the column of the texts, or two of them with a comma between.")
    flags.mark_flag_as_required("out")
    commands.run(main, words=True)
