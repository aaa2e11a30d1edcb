"""The lists that say what matches each query of Revisited Oxford and Paris: gnd_roxford5k.pkl, gnd_rparis6k.pkl.

The file is a pickle, and a pickle is a program: this one may build containers, numbers and numpy arrays, and name
nothing else.
"""

import pathlib
import pickle
from typing import Any, NamedTuple

import numpy as np
from numpy._core import multiarray

_ALLOWED = {
    (module, name): value
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    for name, value in {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "scalar": multiarray.scalar,
        "_reconstruct": multiarray._reconstruct,
    }.items()
}


class GroundTruth(NamedTuple):
    """Names of gallery and queries, and by query its box (left, top, right, bottom) and rows of the gallery."""

    gallery: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...]
    easy: tuple[np.ndarray, ...]
    hard: tuple[np.ndarray, ...]
    junk: tuple[np.ndarray, ...]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[module, name]


def read(path: pathlib.Path) -> GroundTruth:
    """The lists of a file {"imlist", "qimlist", "gnd": [{"bbx", "easy", "hard", "junk"}, ...]}.

    Raises:
      ValueError: where it is no such file, or a list names a row beyond the gallery.
    """
    try:
        with pathlib.Path(path).open("rb") as file:
            found = _Unpickler(file).load()
        gallery, queries = (tuple(map(str, found[name])) for name in ("imlist", "qimlist"))
        entries = found["gnd"]
        boxes = tuple(tuple(float(edge) for edge in entry["bbx"]) for entry in entries)
        lists = [tuple(np.array(e[name], np.int64).reshape(-1) for e in entries) for name in ("easy", "hard", "junk")]
    except FileNotFoundError:
        raise
    except Exception as error:  # damage shows as any of a dozen types
        raise ValueError(f"{path} is not the ground truth of Revisited Oxford or Paris ({error})") from error
    if len(entries) != len(queries) or any(len(box) != 4 for box in boxes):
        raise ValueError(f"{path} lists {len(queries)} queries and {len(entries)} answers, or a box without 4 edges")
    rows = np.concatenate([row for part in lists for row in part] or [np.zeros(0, np.int64)])
    if rows.size and not 0 <= rows.min() <= rows.max() < len(gallery):
        raise ValueError(f"{path} names the rows {rows.min()} to {rows.max()} of a gallery of {len(gallery)}")
    return GroundTruth(gallery, queries, boxes, *lists)
