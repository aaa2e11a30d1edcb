"""One shard: a pure function of the plan and the shard's number."""

import io
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from mrl_jax.data import array_records, pictures
from mrl_jax.data.preparing import plan as plans
from mrl_jax.data.preparing.hashing import perceptual_hash
from mrl_jax.data.preparing.items import NoText
from mrl_jax.data.preparing.listing import Dropped, key_of
from mrl_jax.data.preparing.texts import EmptyText, Texts

UNDECODABLE, NEAR, EMPTY = "undecodable", "near", "empty"


class Summary(NamedTuple):
    """What became of a shard's examples."""

    examples: int  # all that it was to hold
    dropped: list[Dropped]


def write_shard(directory: str, fingerprint: str, split: str, index: int) -> Summary:
    """Writes a shard of the plan in `directory`, if it is not there; it appears in one piece, the note of it after it.

    Any number of processes may do this at once, for the same shard too: all write the same bytes.

    Raises:
      OSError: where the source cannot be read or the shard cannot be written.
      ValueError: for another plan.
    """
    plan = plans.read(directory, fingerprint)
    note = summary(plan, split, index)
    if note is not None:
        return note
    found = _Examples(plan, split, index)
    path = plan.directory / plan.file(split, index)
    partial = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        entry = array_records.write_shard(partial, found)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except RuntimeError as error:  # of the writer: a full disk, for one
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    counts = {str(label): count for label, count in sorted(found.counts.items())}
    note = {"entry": entry | {"file": path.name}, "counts": counts, "dropped": found.dropped}
    plans.replace(plan.done(split, index), json.dumps(note | {"truncated": found.truncated}))
    return Summary(len(plan.examples(split, index)), found.dropped)


def summary(plan: plans.Plan, split: str, index: int) -> Summary | None:
    """What the note of a finished shard says; None where the shard is not finished."""
    note = read_note(plan, split, index)
    return note and Summary(len(plan.examples(split, index)), [Dropped(*row) for row in note["dropped"]])


def read_note(plan: plans.Plan, split: str, index: int) -> Mapping[str, Any] | None:
    """The note of a shard {"entry", "counts", "dropped", "truncated"}; None where the shard is not there and whole."""
    try:
        note = json.loads(plan.done(split, index).read_text(encoding="utf-8", errors="surrogateescape"))
        size = (plan.directory / plan.file(split, index)).stat().st_size
    except FileNotFoundError:
        return None
    return note if size == note["entry"]["bytes"] else None


class _Examples:
    """The records of a shard, in order; while they are taken, what is dropped is listed, and classes and the texts that
    were cut are counted.
    """

    def __init__(self, plan: plans.Plan, split: str, index: int):
        self._plan, self._split, self._rows = plan, split, plan.examples(split, index)
        identity = plan.facts["identity"]
        self._resize = {name: identity[name] for name in ("max_size", "side", "quality")}
        self._exclude = plan.exclude if split in identity["exclude_from"] else None
        self._texts = Texts(plan.reader, identity) if "tokenizer" in identity else None
        self._packs = self._texts is not None and identity["pack"]
        self.dropped: list[Dropped] = []
        self.counts: Counter[int] = Counter()
        self.truncated = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        keys, labels = self._plan.rows[self._split]
        if self._packs:
            found = (self._text(self._texts.pieces, key_of(keys.row(i))) for i in self._rows)
            for tokens in self._texts.packed(pieces for pieces in found if pieces is not None):
                self.counts.update([0])
                yield {"tokens": tokens, "label": 0}
            return
        for i in self._rows:
            key = key_of(keys.row(i))
            text = self._text(self._texts.fields, key) if self._texts else ({}, 0)
            image = None if text is None else self._image(key)
            if image is not None:
                fields, cut = text
                self.truncated += cut
                own = labels.row(i).tolist()
                self.counts.update(own)
                more = self._plan.reader.fields(key) if self._plan.facts["fields"] else {}
                yield fields | image | {"label": own if self._plan.facts["max_labels"] > 1 else own[0], **more}

    def _text(self, read: Callable[[str], Any], key: str) -> Any:
        """`read(key)`, a method of its texts; None where it is dropped."""
        try:
            return read(key)
        except EmptyText as error:
            return self._drop(key, EMPTY, str(error))
        except (NoText, UnicodeDecodeError, KeyError, json.JSONDecodeError) as error:
            return self._drop(key, UNDECODABLE, f"{type(error).__name__}: {error}")

    def _image(self, key: str) -> dict[str, np.ndarray | bytes] | None:
        """{"image"}, {} where the source has none, None where it is dropped."""
        try:
            image = self._plan.reader.read(key)
        except FileNotFoundError:
            return self._drop(key, UNDECODABLE, "the file is missing")
        if image is None:
            return {}
        try:
            # All of it, since what is cut short shows only at the end.
            pixels = pictures.read(image) if isinstance(image, bytes) else image
            image, pixels = smaller(image, pixels, **self._resize)
        except MemoryError:
            raise
        except UnidentifiedImageError:  # whose message holds an address in memory
            return self._drop(key, UNDECODABLE, "not an image")
        except Exception as error:  # damage shows as any of a dozen types, by format
            return self._drop(key, UNDECODABLE, f"{type(error).__name__}: {error}")
        if self._exclude is not None:
            own = perceptual_hash(pixels)
            if own is not None:
                near = self._exclude.near(own)
                if near:
                    return self._drop(key, NEAR, near)
        return {"image": image}

    def _drop(self, key: str, reason: str, detail: str) -> None:
        self.dropped.append(Dropped(self._split, key, reason, detail))


def smaller(
    image: np.ndarray | bytes, pixels: np.ndarray, *, max_size: int, side: str, quality: int
) -> tuple[np.ndarray | bytes, np.ndarray]:
    """The image, and its pixels, with at most `max_size` pixels on the "short" or "long" side; untouched if it has so.

    An encoded image is encoded as JPEG again; an array stays one. `max_size` 0 lets all images pass.
    """
    height, width = pixels.shape[:2]
    now = min(height, width) if side == "short" else max(height, width)
    if not max_size or now <= max_size:
        return image, pixels
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    size = (max(round(width * max_size / now), 1), max(round(height * max_size / now), 1))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(picture).reshape(size[1], size[0], -1)
    if not isinstance(image, bytes):
        return pixels, pixels
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue(), pixels


def remove_partial(directory: pathlib.Path) -> None:
    """Removes what killed processes have left unfinished."""
    for path in (*directory.glob(".*.array_record.*.tmp"), *(directory / plans.FOLDER).rglob(".*.tmp")):
        path.unlink(missing_ok=True)
