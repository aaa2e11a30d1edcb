"""Landmarks: Google Landmarks v2 (Weyand et al. 2020), Revisited Oxford and Paris (Radenovic et al. 2018)."""

import os
from collections.abc import Iterator

import numpy as np

from mrl_jax.data import ground_truth, pictures
from mrl_jax.data.preparing.items import Item
from mrl_jax.data.preparing.layouts.files import Files, needed, rows

TRAIN, INDEX, ANSWERS = "train_clean.csv", "index_image_to_landmark.csv", "retrieval_solution_v2.1.csv"
GALLERY = "gallery"  # the class of every picture whose landmark no list of identities tells


class Gldv2(Files):
    """train/a/b/c/abc….jpg with train_clean.csv, index/ with index_image_to_landmark.csv, test/ with the solution.

    Parts whose list is not there are left out. Queries are the test pictures that have an answer; one that has answers
    of several landmarks stands for the landmark of the first.
    """

    def items(self) -> Iterator[Item]:
        """The pictures of the lists; FileNotFoundError where there is no list."""
        if not any((self._root / name).is_file() for name in (TRAIN, INDEX)):
            needed(self._root, TRAIN, "gldv2")
        if (self._root / TRAIN).is_file():
            for row in rows(self._root / TRAIN, ("landmark_id", "images")):
                for image in row["images"].split():
                    yield Item("train", _path("train", image), (row["landmark_id"],))
        if (self._root / INDEX).is_file():
            yield from self._retrieval()

    def _retrieval(self) -> Iterator[Item]:
        landmark = {row["id"]: row["landmark_id"] for row in rows(self._root / INDEX, ("id", "landmark_id"))}
        for row in rows(needed(self._root, ANSWERS, "gldv2"), ("id", "images", "Usage")):
            if row["Usage"] in ("Public", "Private") and row["images"] not in ("", "None"):
                answer = row["images"].split()[0]
                problem = "" if answer in landmark else f"its answer {answer!r} is not in {INDEX}"
                yield Item("query", _path("test", row["id"]), (landmark.get(answer, ""),), problem)
        for image, found in landmark.items():
            yield Item("gallery", _path("index", image), (found,))


class Revisited(Files):
    """jpg/NAME.jpg and gnd_LAYOUT.pkl, whose order the rows keep; a query is cut to its box.

    What matches a query is told by lists, easy and hard, and not by classes: every query is a class of its own here,
    and `python -m mrl_jax.compatibility --ground_truth=gnd_LAYOUT.pkl` reads the lists.
    """

    def __init__(self, source: str, layout: str):
        """Reads the ground truth.

        Raises:
          FileNotFoundError, ValueError: where it is not there, or none.
        """
        super().__init__(source)
        found = ground_truth.read(needed(self._root, f"gnd_{layout}.pkl", layout))
        self._queries, self._gallery = found.queries, found.gallery
        self._box = dict(zip(found.queries, found.boxes))

    def items(self) -> Iterator[Item]:
        """Queries, then gallery, in the order of the lists."""
        for name in self._queries:
            yield Item("query", f"query:{name}", (f"query {name}",))
        for name in self._gallery:
            yield Item("gallery", f"gallery:{name}", (GALLERY,))

    def read(self, key: str) -> bytes | np.ndarray:
        """The file; of a query the pixels in its box."""
        split, _, name = key.partition(":")
        data = (self._root / "jpg" / f"{name}.jpg").read_bytes()
        if split != "query":
            return data
        left, top, right, bottom = (round(edge) for edge in self._box[name])
        image = pictures.read(data)
        if not (0 <= left < right and 0 <= top < bottom) or left >= image.shape[1] or top >= image.shape[0]:
            raise ValueError(f"{self._root}: the box {self._box[name]} of query {name} is not in its picture")
        return np.ascontiguousarray(image[top:bottom, left:right])


def _path(folder: str, image: str) -> str:
    return os.path.join(folder, *image[:3], f"{image}.jpg")


def gldv2(source: str) -> Gldv2:
    """Google Landmarks v2, or the parts of it that are there."""
    return Gldv2(source)


def roxford5k(source: str) -> Revisited:
    """Revisited Oxford."""
    return Revisited(source, "roxford5k")


def rparis6k(source: str) -> Revisited:
    """Revisited Paris."""
    return Revisited(source, "rparis6k")
