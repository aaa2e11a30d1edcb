"""Images with lists of them beside: MSMT17 (Wei et al. 2018), DeepFashion's In-shop retrieval (Liu et al. 2016)."""

import os
import pathlib
from collections.abc import Iterator

from mrl_jax.data.preparing.items import Item
from mrl_jax.data.preparing.layouts.files import Files, needed

MSMT17 = {"train": ("list_train.txt", "list_val.txt"), "query": ("list_query.txt",), "gallery": ("list_gallery.txt",)}
# Versions 1 and 2 differ in the names of the folders.
MSMT17_FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}
INSHOP = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")


class Msmt17(Files):
    """Lines PATH IDENTITY; training takes the lists of train and val. Both sides number identities from 0."""

    field_names = ("camera",)

    def items(self) -> Iterator[Item]:
        """The rows of the lists; ValueError for a line that is none."""
        for split, lists in MSMT17.items():
            side = "train" if split == "train" else "test"
            folder = next((name for name in MSMT17_FOLDERS[side] if (self._root / name).is_dir()), side)
            needed(self._root, folder, "msmt17")
            for name in lists:
                for path, identity in _lines(needed(self._root, name, "msmt17"), 2):
                    camera = os.path.basename(path).split("_")[2:3]
                    problem = "" if camera and camera[0].isdecimal() else "its name holds no camera in third place"
                    yield Item(split, os.path.join(folder, path), (f"{side}-{int(identity):04d}",), problem)

    def fields(self, key: str) -> dict[str, int]:
        """The camera, third in the name: 0000_000_01_0303morning_0015_0.jpg."""
        return {"camera": int(os.path.basename(key).split("_")[2])}


class Inshop(Files):
    """Lines PATH ITEM SPLIT after two of heading; there are no cameras."""

    def items(self) -> Iterator[Item]:
        """The rows of the list; ValueError for a line that is none."""
        path = next((self._root / name for name in INSHOP if (self._root / name).is_file()), None)
        path = path or needed(self._root, INSHOP[0], "inshop")
        below = "Img" if (self._root / "Img" / "img").is_dir() else ""
        for image, item, split in _lines(path, 3, skip=2):
            yield Item(split, os.path.join(below, image), (item,))


def _lines(path: pathlib.Path, words: int, skip: int = 0) -> Iterator[list[str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = line.split()
        if number <= skip or not found:
            continue
        if len(found) != words:
            raise ValueError(f"line {number} of {path} has {len(found)} words, not {words}: {line[:80]!r}")
        yield found


def msmt17(source: str) -> Msmt17:
    """MSMT17 V1 or V2, as it is unpacked: train, test and four lists."""
    return Msmt17(source)


def inshop(source: str) -> Inshop:
    """In-shop Clothes Retrieval, as it is unpacked: list_eval_partition.txt and img."""
    return Inshop(source)
