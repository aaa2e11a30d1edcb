"""The verses of Bibles in the format of the SWORD project, a line each: a corpus in the public domain.

python -m experiments.bibles --module=DIR/ztext/engKJV2006eb --module=DIR/ztext/engWEB2015eb --out=bibles.txt

Both modules are in Debian packages (sword-text-kjv 14.3-1, sword-text-web 426.0-1; `dpkg-deb -x` unpacks one anywhere).
A module has the verses of a testament in compressed blocks (.bzz); where a block begins (.bzs), and where a verse does
(.bzv). Markup, notes and titles are left out, and so are verses of under 16 characters and entries longer than any
verse, which are appendices.
"""

import html
import pathlib
import re
import struct
import zlib
from collections.abc import Iterator

from absl import app, flags

SHORTEST, LONGEST = 16, 1200  # characters


def verses(module: pathlib.Path) -> Iterator[str]:
    """All verses of a module, in their order."""
    for testament in ("ot", "nt"):
        starts, blocks, places = ((module / f"{testament}.{end}").read_bytes() for end in ("bzs", "bzz", "bzv"))
        texts = [zlib.decompress(blocks[at : at + size]) for at, size, _ in struct.iter_unpack("<III", starts) if size]
        for block, at, size in struct.iter_unpack("<IIH", places):
            if size:
                yield plain(texts[block][at : at + size].decode("utf-8", "replace"))


def plain(text: str) -> str:
    """The text of a verse without its markup."""
    text = re.sub(r"<(note|title)\b[^>]*>.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    found = [text for module in flags.FLAGS.module for text in verses(pathlib.Path(module))]
    kept = [text for text in found if SHORTEST <= len(text) <= LONGEST]
    pathlib.Path(flags.FLAGS.out).write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    print(f"{len(kept)} verses, {sum(map(len, kept))} characters; {len(found) - len(kept)} entries left out")


if __name__ == "__main__":
    flags.DEFINE_multi_string("module", None, "The folder of a module; several times for several.", required=True)
    flags.DEFINE_string("out", None, "The .txt file to write.", required=True)
    app.run(main)
