"""Texts laid end to end in rows of one length, so that hardly anything is filled up (RoBERTa's full sentences)."""

from collections.abc import Iterable, Iterator


def pack(texts: Iterable[list[int]], context: int, cls: int, sep: int) -> Iterator[list[int]]:
    """Rows [CLS] text [SEP] text [SEP] ... of `context` ids, the last one shorter; a text goes on in the next row.

    A text that goes on is cut anywhere. Positions count through a row, and attention sees all of it.
    """
    row = [cls]
    for text in texts:
        rest = [*text, sep]
        while rest:
            room = context - len(row)
            row, rest = row + rest[:room], rest[room:]
            if len(row) == context:
                yield row
                row = [cls]
    if len(row) > 1:
        yield row
