"""Folders of images: SPLIT/CLASS/image.jpg as ImageNet has it, or CLASS/image.jpg."""

import os
import pathlib
from collections.abc import Iterator

from mrl_jax.data.preparing.items import IMAGES, Item


class Folder:
    """An image folder; the names of its folders are the names of the classes."""

    label_names = num_classes = None
    digits_are_numbers = False
    open_set, field_names = False, ()

    def __init__(self, source: str):
        """Nothing is read yet."""
        self._root = pathlib.Path(source)

    def items(self) -> Iterator[Item]:
        """The images, folder by folder, by name.

        Raises:
          ValueError: for a folder without images, or where images lie on more than one level.
        """
        folders = _folders(self._root)
        flat = [f for f in folders if _images(self._root / f)]
        nested = [f for f in folders if f not in flat and _folders(self._root / f)]
        if flat and nested:
            raise ValueError(
                f"{self._root} holds images in {flat[0]}/ and class folders in {nested[0]}/: put every split into "
                f"class folders, as in {nested[0]}/CLASS/image.jpg"
            )
        if nested:
            for split in nested:
                yield from self._split(split, split)
        elif flat:
            yield from self._split("train", "")
        else:
            raise ValueError(f"{self._root} holds neither CLASS/image.jpg nor SPLIT/CLASS/image.jpg ({_known()})")

    def _split(self, split: str, below: str) -> Iterator[Item]:
        for name in _folders(self._root / below):
            files = _images(self._root / below / name)
            if not files:
                raise ValueError(
                    f"class folder {self._root / below / name} holds no image ({_known()}): delete it, or fill it"
                )
            for file in files:
                yield Item(split, os.path.join(below, name, file), (name,))

    def read(self, key: str) -> bytes:
        """The file."""
        return (self._root / key).read_bytes()

    def identity(self, key: str) -> str:
        """The path."""
        return key


def _known() -> str:
    return "known endings: " + " ".join(IMAGES)


def _folders(path: pathlib.Path) -> list[str]:
    return sorted(e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))


def _images(path: pathlib.Path) -> list[str]:
    return sorted(e.name for e in os.scandir(path) if e.name.lower().endswith(IMAGES) and not e.name.startswith("."))
