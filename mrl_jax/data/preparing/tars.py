"""Tar files as webdataset has them: consecutive members of one key, such as 7.jpg and 7.cls, or 7.jpg and 7.json."""

import glob
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

from mrl_jax.data.preparing.items import IMAGES, Item, NoText, plain


class Tars:
    """One tar, a glob of them, or a folder of them; tars in folders within it belong to splits of those names."""

    label_names = num_classes = None
    digits_are_numbers = True
    open_set, field_names = False, ()

    def __init__(self, source: str, *, label_key: str | None = None, text_key: str = ""):
        """Reads nothing yet.

        Args:
          source: a tar, a glob of them, or a folder of them.
          label_key: the field of key.json with the label, where there is no key.cls; None: "label", or no label where
            captions are read.
          text_key: the ending of the member with the caption, as in txt, or else the field of key.json; empty: none.
        """
        self._source, self._text_key = source, text_key
        self._label_key = ("" if text_key else "label") if label_key is None else label_key
        if not self._label_key:
            self.num_classes = 1

    def items(self) -> Iterator[Item]:
        """The samples of every tar, in order.

        Raises:
          ValueError: for a tar that is empty, cut short, compressed or no tar.
        """
        for split, path in _tars(self._source):
            count = 0
            for name, members in _samples(path):
                count += 1
                yield self._item(split, path, name, members)
            if not count:
                raise ValueError(f"{path} is an empty shard: it holds no file; delete it, or fetch it again")

    def _item(self, split: str, path: str, name: str, members: dict[str, Any]) -> Item:
        images = [m for ending, m in members.items() if f".{ending}".endswith(IMAGES)]
        where = f"{path}:{name}"
        if len(images) != 1:
            return Item(split, f"{where}:0:0", (), f"{len(images)} images among its members {sorted(members)}")
        key = f"{where}:{images[0][0]}:{images[0][1]}"
        if self._text_key:
            if self._text_key not in members and "json" not in members:
                return Item(split, key, (), f"no caption: neither {self._text_key} nor json among {sorted(members)}")
            offset, size = members[self._text_key if self._text_key in members else "json"]
            key += f":{offset}:{size}:{int(self._text_key in members)}"
            if not self._label_key:
                return Item(split, key, (0,))
        try:
            if "cls" in members:
                found = _bytes(path, *members["cls"]).decode().strip()
            else:
                found = json.loads(_bytes(path, *members["json"]))[self._label_key]
        except KeyError as error:
            return Item(split, key, (), f"no label: {error} is missing among {sorted(members)} or in its json")
        except (ValueError, TypeError) as error:
            return Item(split, key, (), f"its label cannot be read: {error}")
        return Item(split, key, tuple(found) if isinstance(found, list) else (found,))

    def read(self, key: str) -> bytes:
        """The image."""
        path, _, offset, size = self._places(key)[0].rsplit(":", 3)
        return _bytes(path, int(offset), int(size))

    def texts(self, key: str) -> tuple[str]:
        """The caption.

        Raises:
          KeyError: where the json has no such field.
          NoText: where it is no object of fields, or that field no text.
          UnicodeDecodeError, json.JSONDecodeError: where the member is not UTF-8, or not JSON.
        """
        image, offset, size, is_text = self._places(key)
        found = _bytes(image.rsplit(":", 3)[0], int(offset), int(size)).decode()
        if is_text == "0":
            fields = json.loads(found)
            if not isinstance(fields, dict):
                raise NoText(f"the json is no object of fields: {found[:80]}")
            found = fields[self._text_key]
        return (plain(found),)

    def _places(self, key: str) -> list[str]:
        """The place of the image, and where captions are read the offset and size of theirs, and "0" for json."""
        return key.rsplit(":", 3) if self._text_key else [key]

    def identity(self, key: str) -> str:
        """The tar and the sample's key, wherever in the tar it lies."""
        return self._places(key)[0].rsplit(":", 2)[0]


def _tars(source: str) -> list[tuple[str, str]]:
    path = pathlib.Path(source)
    if not path.is_dir():
        found = [("train", file) for file in sorted(glob.glob(source))] or [("train", source)]
    else:
        found = [("train", os.fspath(file)) for file in sorted(path.glob("*.tar"))]
        found += [(file.parent.name, os.fspath(file)) for file in sorted(path.glob("*/*.tar"))]
    return found


def _samples(path: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """The key of each sample, and of its members the offset and size by ending."""
    name, members = None, {}
    size = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise ValueError(f"{path} is cut short within {member.name}: fetch it again")
                folder, base = os.path.split(member.name)
                stem, _, ending = base.partition(".")
                key = os.path.join(folder, stem)
                if key != name or ending.lower() in members:
                    if name is not None:
                        yield name, members
                    name, members = key, {}
                members[ending.lower()] = (member.offset_data, member.size)
                # Else every member that was ever seen stays in memory.
                tar.members = []
            if tar.offset + tarfile.BLOCKSIZE > size:
                raise ValueError(f"{path} is cut short: it has no end mark; fetch it again")
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no plain tar, or damaged ({error}): unpack .tar.gz, or fetch it again") from error
    if name is not None:
        yield name, members


def _bytes(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
