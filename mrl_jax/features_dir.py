"""Features on disk, memory-mapped: the one door to a directory that `embed` wrote, and to files that a user brings.

A directory holds `features.npy` (N, D) float16 or float32, `labels.npy` (N,) or (N, L) int32 (L labels per row, padded
with -1), rows in the dataset's order, and `manifest.json`, written last: sizes, the SHA-256 of every block of rows,
and whose features of which data they are. Without the manifest it is unfinished. Where the records have other integers
besides, each has its file: `cameras.npy` (N,) int32 (FIELDS has them all).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MANIFEST, JOURNAL, FEATURES, LABELS = "manifest.json", "progress.jsonl", "features.npy", "labels.npy"
FORMAT = 1
# By field of a record (`records.FIELDS`): the file that keeps it.
FIELDS = {"camera": "cameras.npy", "template": "templates.npy", "media": "media.npy"}
# What safetensors calls the dtypes that features and labels may have.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
}


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of features besides their values.

    Attributes:
      num_classes: every label is below it.
      dims: the dims that were trained; empty where that is not known.
      label_names: one per class, or None.
      identity: the checkpoint, the data and the dtype, as in the manifest; empty for files that a user brought.
      fields: other integers of the rows, (N,) each, such as "camera".
    """

    num_classes: int
    dims: tuple[int, ...] = ()
    label_names: tuple[str, ...] | None = None
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Model(NamedTuple):
    """The sub-model that made features: a checkpoint, by its step and the checksum of its manifest, at a width.

    `recalibrated`: of how many training batches BatchNorm's statistics are, 0 for the checkpoint's own.
    """

    step: int
    manifest_sha256: str
    width: float
    recalibrated: int = 0

    def __str__(self) -> str:
        """For messages."""
        own = f", recalibrated on {self.recalibrated} batches" if self.recalibrated else ""
        return f"step {self.step} of the checkpoint {self.manifest_sha256[:8]} at width {self.width:g}{own}"

    def shares_space(self, other: "Model") -> bool:
        """Whether both are of one checkpoint: its sub-models share a space, whatever their widths."""
        return self._replace(width=other.width) == other


def model_of(identity: Mapping[str, Any]) -> Model | None:
    """The model that made features, by their `Info.identity`; None where a user brought them.

    Features that name no width are of the whole. An export's checkpoint is the one that it was cut from.
    """
    if not identity:
        return None
    checkpoint = identity["checkpoint"]
    own = {**checkpoint, **identity}
    width, recalibrated = float(own.get("width", 1)), own.get("recalibrated", 0)
    return Model(checkpoint["step"], checkpoint["manifest_sha256"], width, recalibrated)


def trained_dims(info: Info) -> tuple[int, ...]:
    """The dims that were trained, of an export those of the model that it was cut from too."""
    return tuple(sorted({*info.dims, *info.identity.get("checkpoint", {}).get("dims", ())}))


class Features(NamedTuple):
    """Features and labels, memory-mapped and read-only, and what is known of them."""

    z: np.ndarray  # (N, D) float
    labels: np.ndarray  # (N,) int, or (N, L) int padded with -1; None where `open_vectors` found none
    info: Info


def open_features(path: os.PathLike | str, labels: os.PathLike | str | None = None, verify: bool = False) -> Features:
    """Features by any name they go by.

    Args:
      path: a directory of `embed`; a directory with `features.npy` and `labels.npy` alone; one `.safetensors` file with
        tensors `features` and `labels`; or a `.npy` or `.safetensors` file of features, its labels in another file.
      labels: that file; "FEATURES,LABELS" as `path` says the same in one string.
      verify: whether to compare the checksums of a directory too, which reads all of it.

    Raises:
      FileNotFoundError: where there is no such thing.
      ValueError: where it is unfinished, damaged, or not features with as many labels; the message says what to do.
    """
    if labels is None and isinstance(path, str) and "," in path and not os.path.exists(path):
        path, _, labels = path.partition(",")
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a directory that `python -m mrl_jax.embed` wrote")
    if path.is_dir() and labels is None:
        return _open_directory(path, verify)
    if labels is None and path.suffix != ".safetensors":
        raise ValueError(f"{path} comes without labels: write {path},LABELS.npy")
    return _pair(path, pathlib.Path(labels or path))


def open_vectors(path: os.PathLike | str) -> Features:
    """As `open_features`, but a `.npy` file of features may come alone: its labels are None.

    Raises:
      FileNotFoundError: where there is no such thing.
      ValueError: where it is not features.
    """
    if not str(path).endswith(".npy") or ("," in str(path) and not os.path.exists(path)):
        return open_features(path)
    z = _read(pathlib.Path(path), "features")
    _check_features(pathlib.Path(path), z)
    return Features(z, None, Info(0))


def _check_features(path: pathlib.Path, z: np.ndarray) -> None:
    if z.ndim != 2 or not z.size or (not np.issubdtype(z.dtype, np.floating) and z.dtype != ml_dtypes.bfloat16):
        raise ValueError(f"{path}: features are {z.dtype}{z.shape}; they must be floats of shape (N, D)")


def _open_directory(path: pathlib.Path, verify: bool) -> Features:
    if (path / MANIFEST).is_file():
        found = read_manifest(path)
        features = _pair(path / FEATURES, path / LABELS, found["num_classes"])
        _check_sizes(path, features, found)
        if verify and (wrong := damaged_blocks(features.z, features.labels, found["block_rows"], found["blocks"])):
            raise ValueError(
                f"{path}: {len(wrong)} blocks of rows have changed since they were written, the first at row "
                f"{wrong[0] * found['block_rows']}: run the command that wrote them again, it repairs them"
            )
        names, identity = found["label_names"], found["identity"]
        # Features written before there were such fields have none.
        fields = _fields(path, tuple(identity.get("fields", ())), found["rows"])
        for name, values in fields.items():
            if verify and digest(values) != identity["fields"][name]:
                raise ValueError(f"{path / FIELDS[name]} has changed since it was written: embed again elsewhere")
        return features._replace(
            info=Info(found["num_classes"], tuple(found["dims"]), names and tuple(names), identity, fields)
        )
    if (path / JOURNAL).exists():
        raise ValueError(f"{path} is unfinished: run the same `python -m mrl_jax.embed` command again to complete it")
    if (path / FEATURES).is_file() and (path / LABELS).is_file():
        features = _pair(path / FEATURES, path / LABELS)
        names = tuple(name for name, file in FIELDS.items() if (path / file).is_file())
        fields = _fields(path, names, len(features.z))
        return features._replace(info=dataclasses.replace(features.info, fields=fields))
    splits = sorted(p.parent.name for p in path.glob(f"*/{MANIFEST}"))
    if splits:
        raise ValueError(f"{path} holds the splits {splits}: name one of them, as in {path / splits[0]}")
    raise FileNotFoundError(f"{path} holds neither {MANIFEST} nor {FEATURES} and {LABELS}: no features are there")


def _fields(path: pathlib.Path, names: Sequence[str], rows: int) -> dict[str, np.ndarray]:
    fields = {name: _read(path / FIELDS[name], name) for name in names}
    for name, values in fields.items():
        if values.shape != (rows,) or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"{path / FIELDS[name]} holds {values.dtype}{values.shape}: it must be integers of shape ({rows},)"
            )
    return fields


def digest(values_N: np.ndarray) -> str:
    """The SHA-256 of integers as int32, in hex."""
    return hashlib.sha256(np.ascontiguousarray(values_N, np.int32)).hexdigest()


def write_field(path: pathlib.Path, name: str, values_N: np.ndarray) -> None:
    """Writes the file of a field, in one piece."""
    path.mkdir(parents=True, exist_ok=True)
    unfinished = path / f".{FIELDS[name]}.{os.getpid()}"
    with unfinished.open("wb") as file:
        np.save(file, np.asarray(values_N, np.int32))
    unfinished.replace(path / FIELDS[name])


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """The manifest of a finished directory.

    Raises:
      ValueError: where it is none of ours.
    """
    names = {"format", "identity", "rows", "dim", "dtype", "labels", "block_rows", "blocks"}
    names |= {"num_classes", "label_names", "dims"}
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        missing = sorted(names - found.keys())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path / MANIFEST} is not a manifest in JSON: embed again into another folder") from error
    if missing or found["format"] != FORMAT:
        raise ValueError(f"{path / MANIFEST} is not a manifest of features of format {FORMAT}: it lacks {missing}")
    return found


def _check_sizes(path: pathlib.Path, features: Features, found: dict[str, Any]) -> None:
    expected = ((found["rows"], found["dim"]), found["dtype"], (found["rows"], *found["labels"]))
    if (features.z.shape, features.z.dtype.name, features.labels.shape) != expected:
        raise ValueError(
            f"{path} holds features {features.z.dtype}{features.z.shape} and labels {features.labels.shape}; the "
            f"manifest says {expected[1]}{expected[0]} and {expected[2]}: embed again into another folder"
        )


def damaged_blocks(z: np.ndarray, labels: np.ndarray, block_rows: int, blocks: list[str | None]) -> list[int]:
    """The numbers of the blocks of rows that do not have the checksum of `blocks` (None: not written yet)."""
    return [
        i
        for i, digest in enumerate(blocks)
        if digest
        != block_digest(z[i * block_rows : (i + 1) * block_rows], labels[i * block_rows : (i + 1) * block_rows])
    ]


def block_digest(z: np.ndarray, labels: np.ndarray) -> str:
    """The SHA-256 of the bytes of a block's features, then of its labels, in hex."""
    digest = hashlib.sha256(np.ascontiguousarray(z))
    digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


def _pair(features: pathlib.Path, labels: pathlib.Path, num_classes: int | None = None) -> Features:
    z, y = _read(features, "features"), _read(labels, "labels")
    _check_features(features, z)
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{labels}: labels are {y.dtype}; they must be integers, since float16 tells few classes apart"
        )
    if y.ndim not in (1, 2) or len(y) != len(z):
        raise ValueError(f"{labels}: labels have shape {y.shape} for {len(z)} rows of features; give (N,) or (N, L)")
    if num_classes is None:
        num_classes = int(y.max()) + 1
        if int(y.min()) < (0 if y.ndim == 1 else -1):
            raise ValueError(f"{labels}: the smallest label is {y.min()}; labels count from 0, and -1 fills up (N, L)")
    return Features(z, y, Info(num_classes))


def _read(path: pathlib.Path, tensor: str) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the {tensor} are not there")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, tensor)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole .npy file of numbers ({error})") from error


def _read_safetensors(path: pathlib.Path, tensor: str) -> np.ndarray:
    """A tensor by name, or the only one, mapped in place; the library's own reader would copy it into memory."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length) if length <= size else b"")
        header.pop("__metadata__", None)
        entry = header[tensor] if tensor in header or len(header) != 1 else next(iter(header.values()))
        dtype, shape, (start, stop) = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        begin = 8 + length + start
        if stop - start != dtype.itemsize * int(np.prod(shape)) or start < 0 or 8 + length + stop > size:
            raise ValueError(f"{stop - start} bytes at {begin} of {size} for {dtype}{shape}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a whole .safetensors file with a tensor {tensor!r} of numbers ({error!r})"
        ) from error
    return np.memmap(path, dtype, "r", begin, shape)
