"""Faces in templates: IJB-C (Maze et al. 2018) in the layout of InsightFace, loose_crop/ and meta/.

A template is what is known of one person: pictures and frames of videos. `compatibility` pools the features of its
rows: the mean of each medium, their sum, made a unit vector. Gallery and probe templates are those of the 1:N
protocol, whose two galleries are splits of their own; a person is in one of them, so that probes of the other are
unknown there. One to one, `compatibility --pairs=meta/ijbc_template_pair_label.txt` takes probes as queries and both
galleries joined. With meta/ijbc_name_5pts_score.txt, faces are aligned to 112x112 as those of training usually are.
"""

import functools
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np

from mrl_jax.data import pictures
from mrl_jax.data.preparing.items import Item
from mrl_jax.data.preparing.layouts.files import Files, needed, rows

MEDIA, POINTS = "meta/ijbc_face_tid_mid.txt", "meta/ijbc_name_5pts_score.txt"
SPLITS = {
    "query": "meta/ijbc_1N_probe_mixed.csv",
    "gallery1": "meta/ijbc_1N_gallery_G1.csv",
    "gallery2": "meta/ijbc_1N_gallery_G2.csv",
}
SIZE = 112
# Where eyes, nose and corners of the mouth belong in a picture of that size (x, y).
TARGET = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])


class Ijbc(Files):
    """A row is a face within a template; the same picture may be in several. A key is TEMPLATE:MEDIUM:FILE."""

    field_names = ("template", "media")

    def items(self) -> Iterator[Item]:
        """The faces of the templates of each split, template by template.

        Raises:
          FileNotFoundError: where a list is not there.
          ValueError: where one is damaged.
        """
        faces: dict[str, list[str]] = {}
        for line in needed(self._root, MEDIA, "ijbc").read_text(encoding="utf-8").splitlines():
            if len(line.split()) != 3:
                raise ValueError(f"{self._root / MEDIA}: {line!r} is not FILE TEMPLATE MEDIUM")
            name, template, medium = line.split()
            faces.setdefault(template, []).append(f"{template}:{medium}:{name}")
        for split, path in SPLITS.items():
            listed = rows(needed(self._root, path, "ijbc"), ("TEMPLATE_ID", "SUBJECT_ID"))
            subjects = {row["TEMPLATE_ID"]: row["SUBJECT_ID"] for row in listed}
            for template, subject in subjects.items():
                if template not in faces:
                    yield Item(split, f"{template}:0:", (), f"template {template} has no face in {MEDIA}")
                for key in faces.get(template, []):
                    yield Item(split, key, (subject,))

    def read(self, key: str) -> bytes | np.ndarray:
        """The file, or the face aligned."""
        name = key.split(":", 2)[2]
        data = (self._root / "loose_crop" / name).read_bytes()
        return align(pictures.read(data), self._points[name]) if name in self._points else data

    def fields(self, key: str) -> dict[str, int]:
        """Template and medium, from the key."""
        template, medium, _ = key.split(":", 2)
        return {"template": int(template), "media": int(medium)}

    @functools.cached_property
    def _points(self) -> dict[str, np.ndarray]:
        path = pathlib.Path(self._root / POINTS)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        words = [line.split() for line in lines]
        if any(len(found) not in (11, 12) for found in words):
            raise ValueError(f"{path}: a line is not FILE and five points (x y), with or without a score")
        return {name: np.array(numbers[:10], np.float64).reshape(5, 2) for name, *numbers in words}


def align(image_HxWxC: np.ndarray, points_5x2: np.ndarray) -> np.ndarray:
    """The face turned, scaled and moved so that its points fall nearest to TARGET: (SIZE, SIZE, C) uint8."""
    x, y = points_5x2.T
    zeros, ones = np.zeros(5), np.ones(5)
    # x' = a x - b y + c, y' = b x + a y + d: least squares over the five points.
    system = np.concatenate([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)])
    a, b, c, d = np.linalg.lstsq(system, TARGET.T.reshape(-1), rcond=None)[0]
    aligned = cv2.warpAffine(image_HxWxC, np.array([[a, -b, c], [b, a, d]]), (SIZE, SIZE))
    return aligned.reshape(SIZE, SIZE, -1)


def ijbc(source: str) -> Ijbc:
    """IJB-C: loose_crop and meta."""
    return Ijbc(source)
