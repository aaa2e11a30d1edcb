"""Files that say what matches what, where identities alone do not.

Revisited Oxford and Paris, gnd_roxford5k.pkl and gnd_rparis6k.pkl: by query what counts and what is left out. The file
is a pickle, and a pickle is a program: this one may build containers, numbers and numpy arrays, and name nothing else.

Verification, such as ijbc_template_pair_label.txt of IJB-C: the pairs that are compared, and which are of one identity.
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


def read_pairs(path: pathlib.Path) -> np.ndarray:
    """The lines GALLERY QUERY SAME of a text file, whole numbers, SAME 1 or 0: (M, 3) int64.

    Raises:
      ValueError: where it is no such file, or names a pair twice.
    """
    try:
        found = np.loadtxt(path, np.int64, ndmin=2)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} is not a list of pairs, lines of GALLERY QUERY SAME in whole numbers ({error})"
        ) from None
    if not found.size or found.shape[1] != 3 or not np.isin(found[:, 2], (0, 1)).all():
        raise ValueError(f"{path} is not a list of pairs: each line must be GALLERY QUERY SAME, SAME 1 or 0")
    order = np.lexsort((found[:, 0], found[:, 1]))
    again = (np.diff(found[order, :2], axis=0) == 0).all(axis=1)
    if again.any():
        gallery, query, _ = found[order[np.argmax(again)]]
        raise ValueError(f"{path} lists the pair {gallery} {query} twice: each pair counts once")
    return found[order]
