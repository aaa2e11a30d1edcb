"""The images of evaluation sets, by their hashes: what training examples must not be near to."""

import pathlib
from collections.abc import Iterator

import numpy as np

from mrl_jax.choices import choose
from mrl_jax.data import array_records, pictures
from mrl_jax.data.preparing import local
from mrl_jax.data.preparing.hashing import Index, perceptual_hash
from mrl_jax.data.preparing.spec import Spec, dataset_of

_EXAMPLES = 512  # hashed by one call


class Excluded:
    """Hashes of evaluation images, and which images they are."""

    def __init__(self, hashes: np.ndarray, names: np.ndarray, part: np.ndarray, number: np.ndarray, distance: int):
        """Image i has hashes[i] and is record number[i] of the dataset names[part[i]]."""
        self._arrays = {"hashes": hashes, "names": names, "part": part, "number": number, "distance": distance}
        self._index = Index(hashes, distance)

    def near(self, own: int) -> str:
        """The nearest of them within the distance, in words; empty where there is none."""
        (at,), (distance,) = self._index.nearest(np.array([own], np.uint64))
        if at < 0:
            return ""
        part, number = self._arrays["part"][at], self._arrays["number"][at]
        return f"{distance} bits from record {number} of {self._arrays['names'][part]}"

    def save(self, path: pathlib.Path) -> None:
        """Writes an .npz."""
        np.savez(path, **self._arrays)

    @staticmethod
    def load(path: pathlib.Path) -> "Excluded":
        """What `save` wrote."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return Excluded(**arrays | {"distance": int(arrays["distance"])})


def gather(spec: Spec, workers: int) -> Excluded | None:
    """Hashes the datasets that `spec` keeps away from; None where there are none.

    Raises:
      ValueError: for a split that is not there.
    """
    if not spec.exclude_near:
        return None
    names, calls = [], []
    for name in spec.exclude_near:
        for split, count in _splits(name):
            calls += [
                (name, split, len(names), first, min(first + _EXAMPLES, count)) for first in range(0, count, _EXAMPLES)
            ]
            names.append(f"{name}, split {split}")
    # In the order of completion: sorted, so that equal datasets give equal arrays.
    found = sorted(local.each(_hashes, calls, workers), key=lambda part: part[:2])
    part = np.concatenate([np.full(len(numbers), p) for p, _, numbers, _ in found])
    numbers, hashes = (np.concatenate([entry[i] for entry in found]) for i in (2, 3))
    return Excluded(hashes, np.array(names), part, numbers, spec.hash_distance)


def _splits(name: str) -> Iterator[tuple[str, int]]:
    directory, wanted = dataset_of(name)
    splits = array_records.read_manifest(directory)["splits"]
    if wanted:
        choose(f"--exclude_near={name}: split", wanted, splits)
    for split in [wanted] if wanted else splits:
        yield split, sum(shard["examples"] for shard in splits[split])


def _hashes(name: str, split: str, part: int, first: int, stop: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    directory, _ = dataset_of(name)
    records = array_records.open_split(directory, array_records.read_manifest(directory)["splits"][split])
    numbers, hashes = [], []
    for i in range(first, stop):
        image = records[i]["image"]
        found = perceptual_hash(pictures.read(image) if isinstance(image, bytes) else image)
        if found is not None:
            numbers.append(i)
            hashes.append(found)
    return part, first, np.array(numbers, np.int64), np.array(hashes, np.uint64)
