"""Arrays in an .npz file: images (N, H, W) or (N, H, W, C), labels, and captions."""

import pathlib
import re
from collections.abc import Iterator

import numpy as np

from mrl_jax.choices import nearest
from mrl_jax.data.preparing import numbers
from mrl_jax.data.preparing.items import Item


class Arrays:
    """An .npz file, held in memory by every process that reads it."""

    label_names = num_classes = None
    digits_are_numbers = True
    open_set = False

    def __init__(
        self,
        source: str,
        *,
        image_key: str = "images",
        label_key: str = "labels",
        text_key: str = "",
        camera_key: str = "",
    ):
        """Nothing is read yet.

        Args:
          source: the file.
          image_key: the array of the images; {split} in all keys stands for the names of the splits: "{split}_images".
          label_key: that of the labels.
          text_key: that of the captions; empty: there are none.
          camera_key: that of the cameras (or vendors, shops), numbers or names; empty: there are none.
        """
        self._path, self._keys, self._camera_key = pathlib.Path(source), (image_key, label_key), camera_key
        self.field_names = ("camera",) if camera_key else ()
        self._text_key = text_key
        self._splits: dict[tuple[str, str], np.ndarray] = {}
        self._cameras: dict[str, list[int]] = {}

    def items(self) -> Iterator[Item]:
        """The rows, split by split.

        Raises:
          ValueError: for arrays that are not there or of another shape or type.
        """
        with self._open() as file:
            pattern = re.escape(self._keys[0]).replace(r"\{split\}", "(.+)")
            splits = [match[1] for name in file.files if (match := re.fullmatch(pattern, name)) and match.groups()]
            for split in splits or ["train"]:
                images, labels = (self._array(file, key.replace("{split}", split)) for key in self._keys)
                self._check(images, labels)
                if self._camera_key:
                    self.fields(f"{split}:0")  # a wrong key shows before anything is written
                if self._text_key:
                    self._check_texts(self._array(file, self._text_key.replace("{split}", split)), images)
                for index, label in enumerate(labels):
                    yield Item(split, f"{split}:{index}", self._labels(index, label))

    def _labels(self, index: int, label: np.ndarray) -> tuple[str | int, ...]:
        if label.ndim == 0:
            return (label.item(),)
        if label.dtype == bool:
            return tuple(np.flatnonzero(label).tolist())
        labels = [value for value in label.tolist() if value not in (-1, "")]
        if len(set(labels)) < len(labels):
            raise ValueError(
                f"{self._path}: the labels of example {index} repeat ({labels[:8]}): give class numbers filled up with "
                "-1, or a boolean array with a column for each class"
            )
        return tuple(labels)

    def read(self, key: str) -> np.ndarray:
        """The image as (H, W, C)."""
        image = self._row(self._keys[0], key)
        return image[:, :, None] if image.ndim == 2 else image

    def texts(self, key: str) -> tuple[str]:
        """The caption."""
        return (str(self._row(self._text_key, key)),)

    def _row(self, name: str, key: str) -> np.ndarray:
        split, _, index = key.rpartition(":")
        if (name, split) not in self._splits:
            with self._open() as file:
                self._splits[name, split] = self._array(file, name.replace("{split}", split))
        return self._splits[name, split][int(index)]

    def identity(self, key: str) -> str:
        """Split and row."""
        return key

    def fields(self, key: str) -> dict[str, int]:
        """The camera.

        Raises:
          ValueError: for an array that is not there, or not one of a camera for each image.
        """
        split, _, index = key.rpartition(":")
        if split not in self._cameras:
            with self._open() as file:
                name = self._camera_key.replace("{split}", split)
                found, labels = (self._array(file, n.replace("{split}", split)) for n in (name, self._keys[1]))
            if found.shape != (len(labels),):
                raise ValueError(f"{self._path}: --camera_key={name} has shape {found.shape} for {len(labels)} labels")
            self._cameras[split] = numbers.of_values(found.tolist(), f"{self._path}: --camera_key={name}")
        return {"camera": self._cameras[split][int(index)]}

    def _open(self):
        try:
            return np.load(self._path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self._path} is no .npz of plain arrays: {error}") from error

    def _array(self, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
        if name not in file.files:
            raise ValueError(
                f"{self._path} has no array {name!r} among {file.files}{nearest(name, file.files)}; "
                "name them by --image_key, --label_key, --text_key and --camera_key"
            )
        return file[name]

    def _check_texts(self, texts: np.ndarray, images: np.ndarray) -> None:
        if texts.shape != images.shape[:1] or texts.dtype.kind != "U":
            raise ValueError(
                f"{self._path}: --text_key={self._text_key} is {texts.dtype} of shape {texts.shape}; it must be a text "
                f"for each of the {len(images)} images"
            )

    def _check(self, images: np.ndarray, labels: np.ndarray) -> None:
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or (images.ndim == 4 and images.shape[3] not in (1, 3))
        ):
            raise ValueError(
                f"{self._path}: images are {images.dtype} of shape {images.shape}; they must be uint8 (N, H, W) or "
                "(N, H, W, C) with 1 or 3 channels"
            )
        if len(labels) != len(images) or labels.ndim not in (1, 2) or labels.dtype.kind not in "iubU":
            raise ValueError(
                f"{self._path}: labels are {labels.dtype} of shape {labels.shape} for {len(images)} images; they must "
                "be integers or texts, one or a row of them for each image"
            )
