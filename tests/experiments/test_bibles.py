import struct
import zlib

from experiments import bibles


def test_verses_are_found_by_their_places_and_lose_their_markup(tmp_path):
    verses = ["<w x='1'>In the</w> <note>or, At</note>beginning", "", "Light &amp; <title>II</title>\n darkness"]
    block = "".join(verses).encode()
    packed = zlib.compress(block)
    for testament in ("ot", "nt"):
        places, at = b"", 0
        for verse in verses:
            places += struct.pack("<IIH", 0, at, len(verse.encode()))
            at += len(verse.encode())
        (tmp_path / f"{testament}.bzz").write_bytes(packed)
        (tmp_path / f"{testament}.bzs").write_bytes(struct.pack("<III", 0, len(packed), len(block)))
        (tmp_path / f"{testament}.bzv").write_bytes(places)
    assert list(bibles.verses(tmp_path)) == ["In the beginning", "Light & darkness"] * 2
