"""Folders whose files are named after identity and camera: Market-1501 (Zheng et al. 2015), VeRi-776 (Liu et al. 2016).

Market-1501 marks boxes that are neither right nor wrong by identity -1 (junk, left out of every ranking) and wrong ones
by 0000 (distractors, which stay and match nothing). Both are kept, under these names.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mrl_jax.data.preparing.items import IMAGES, Item
from mrl_jax.data.preparing.layouts.files import Files, needed


class Convention(NamedTuple):
    """The folders of the splits, and how files are named."""

    layout: str
    folders: Mapping[str, str]
    pattern: str  # of identity and camera, at the beginning of a file's name


MARKET = Convention(
    "market1501",
    {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    r"(-1|\d+)_c(\d)",
)
VERI = Convention(
    "veri776", {"train": "image_train", "query": "image_query", "gallery": "image_test"}, r"(\d+)_c(\d{3})"
)


class NamedFiles(Files):
    """Folders of such files."""

    field_names = ("camera",)

    def __init__(self, source: str, convention: Convention):
        """Nothing is read yet."""
        super().__init__(source)
        self._convention = convention

    def items(self) -> Iterator[Item]:
        """The images, split by split, by name; FileNotFoundError where the folder of a split is not there."""
        layout, folders, pattern = self._convention
        for split, folder in folders.items():
            for name in sorted(os.listdir(needed(self._root, folder, layout))):
                if name.lower().endswith(IMAGES) and not name.startswith("."):
                    match, key = re.match(pattern, name), os.path.join(folder, name)
                    problem = "" if match else "its name does not begin with IDENTITY_cCAMERA"
                    yield Item(split, key, (match[1],) if match else (), problem)

    def fields(self, key: str) -> dict[str, int]:
        """The camera, from the name."""
        return {"camera": int(re.match(self._convention.pattern, os.path.basename(key))[2])}


def market1501(source: str) -> NamedFiles:
    """Market-1501, as it is unpacked: bounding_box_train, query, bounding_box_test."""
    return NamedFiles(source, MARKET)


def veri776(source: str) -> NamedFiles:
    """VeRi-776, as it is unpacked: image_train, image_query, image_test."""
    return NamedFiles(source, VERI)
