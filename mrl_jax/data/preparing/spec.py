"""What is to be prepared: all that changes the bytes of the result, and nothing else."""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import PIL

from mrl_jax.data import array_records
from mrl_jax.data.preparing import hashing
from mrl_jax.data.preparing.items import SPLIT
from mrl_jax.data.preparing.readers import kind_of
from mrl_jax.data.text import vocabulary

RULES = 1  # raised with every change to what is written for the same options


@dataclasses.dataclass(frozen=True)
class Spec:
    """The source and the options of a preparation.

    Attributes:
      source: a path, a glob of tars, or tfds:NAME.
      reader: options of its reader.
      splits: the splits to take, or {name: fraction} to divide a source of one split; empty: all.
      labels: a file with the names of the classes; empty: they are found in the source.
      shards: the most files of each split; 0: by the number of records.
      max_size: the most pixels of `side`; 0: images stay as they are.
      side: "short" or "long".
      quality: of JPEG, for images that were made smaller.
      seed: of the order of the records, and of the division into splits; None: the order of the source.
      duplicates: "error" or "skip", for a path that comes twice.
      exclude_near: prepared datasets, DIR or DIR:SPLIT, whose near duplicates are left out.
      exclude_from: the splits that these are left out of.
      hash_distance: the most bits of 64 by which a near duplicate differs.
      licence: a note for the manifest.
      layout: a known layout of files, of `layouts.LAYOUTS`; empty: told by the look of the source.
      open_set: the fraction of classes that is kept from training and divided into query and gallery; 0: none.
      tokenizer: the tokenizer.json that texts are made into ids with; empty: texts are not read.
      context: the most ids of a text.
      pack: texts are laid end to end in rows of `context` ids.
    """

    source: str
    reader: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    splits: tuple[str, ...] | Mapping[str, float] = ()
    labels: str = ""
    shards: int = 0
    max_size: int = 0
    side: str = "short"
    quality: int = 95
    seed: int | None = None
    duplicates: str = "error"
    exclude_near: tuple[str, ...] = ()
    exclude_from: tuple[str, ...] = ("train",)
    hash_distance: int = 6
    licence: str = ""
    layout: str = ""
    open_set: float = 0.0
    tokenizer: str = ""
    context: int = 128
    pack: bool = False

    def check(self) -> None:
        """Raises ValueError, naming the option, for a value that cannot be."""
        numbers = {"shards": (0, 99999), "max_size": (0, 1 << 16), "quality": (1, 100)}
        numbers["hash_distance"] = (0, hashing.FARTHEST)
        for name, (least, most) in numbers.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"--{name}={getattr(self, name)} must be in {least}..{most}")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"--seed={self.seed} must not be negative")
        if not 0 <= self.open_set < 1:
            raise ValueError(f"--open_set={self.open_set:g} must be a fraction of the classes, in 0..1, 0 for none")
        if self.open_set and (isinstance(self.splits, Mapping) or self.labels):
            raise ValueError(
                f"--open_set={self.open_set:g} makes the splits train, query and gallery, and numbers the classes so "
                "that those of training come first: leave the fractions of --splits and --labels out"
            )
        self._check_text()
        if isinstance(self.splits, Mapping) and abs(sum(self.splits.values()) - 1) > 1e-6:
            raise ValueError(
                f"--splits={dict(self.splits)}: the fractions sum to {sum(self.splits.values()):g}, not to 1"
            )

    def _check_text(self) -> None:
        if bool(self.tokenizer) != self.has_text:
            has, lacks = ("--tokenizer", "--text_key") if self.tokenizer else ("text", "--tokenizer")
            raise ValueError(
                f"{self.source} is read with {has} but without {lacks}: texts need --tokenizer=FILE (made by python -m "
                "mrl_jax.tokenizer) and, but for .txt files, --text_key=NAME"
            )
        if self.pack and (not self.tokenizer or self.reader.get("image_key") or "," in self.reader.get("text_key", "")):
            raise ValueError("--pack lays single texts end to end: it does not go with images or pairs of texts")
        if self.tokenizer:
            vocabulary.read(pathlib.Path(self.tokenizer))
            if not 3 <= self.context <= 1 << 16:
                raise ValueError(f"--context={self.context} must be in 3..{1 << 16} ids, with [CLS] and [SEP]")

    @property
    def has_text(self) -> bool:
        """Whether the source is read for text."""
        return "text_key" in self.reader or kind_of(self.source, self.layout) == "lines"

    def identity(self) -> dict[str, Any]:
        """What two preparations share that write the same bytes, as JSON values; paths are absolute."""
        own = dataclasses.asdict(self)
        named = kind_of(self.source, self.layout) == "named"
        own["source"] = self.source if named else os.path.abspath(self.source)
        own["reader"] = dict(self.reader) | {
            name: os.path.abspath(self.reader[name]) for name in ("root", "source_dir") if self.reader.get(name)
        }
        own["splits"] = dict(self.splits) if isinstance(self.splits, Mapping) else list(self.splits)
        own["labels"] = os.path.abspath(self.labels) if self.labels else ""
        own["exclude_from"] = list(self.exclude_from) if self.exclude_near else []
        own["exclude_near"] = {name: _manifest_sum(name) for name in self.exclude_near}
        own["rules"] = RULES
        # Datasets that were prepared before these options existed have none of them.
        for name in ("layout", "open_set"):
            if not own[name]:
                del own[name]
        if self.tokenizer:
            path = pathlib.Path(self.tokenizer).absolute()
            own["tokenizer"] = {"path": str(path), "sha256": vocabulary.read(path).sha256}
        else:  # datasets of images say nothing of texts
            own = {name: value for name, value in own.items() if name not in ("tokenizer", "context", "pack")}
        # Another release may decode, resize or encode to other bytes.
        own["pillow"] = PIL.__version__ if self.max_size or self.exclude_near else ""
        return own


def parse_splits(words: list[str]) -> tuple[str, ...] | dict[str, float]:
    """["train", "test"] as it is, ["train:0.9", "test:0.1"] as fractions.

    Raises:
      ValueError: for a mixture, a name used twice, or a fraction that is no number in (0, 1].
    """
    names = [word.partition(":")[0] for word in words]
    wrong = [n for n in names if not re.fullmatch(SPLIT, n) or names.count(n) > 1]
    fractions = [word.partition(":")[2] for word in words]
    if not any(fractions) and not wrong:
        return tuple(names)
    if wrong or not all(re.fullmatch(r"0?\.\d+|1(\.0*)?", f) and float(f) > 0 for f in fractions):
        raise ValueError(
            f"--splits={','.join(words)}: give names, as in train,test, or fractions, as in train:0.9,test:0.1"
        )
    return dict(zip(names, map(float, fractions)))


def dataset_of(name: str) -> tuple[pathlib.Path, str]:
    """The directory and the split ("" for all) of DIR or DIR:SPLIT.

    Raises:
      FileNotFoundError: where no dataset is there.
    """
    directory, _, split = name.rpartition(":") if not pathlib.Path(name).is_dir() else (name, "", "")
    path = pathlib.Path(directory)
    if not directory or not (path / array_records.MANIFEST).is_file():
        raise FileNotFoundError(f"--exclude_near={name}: no dataset is in {directory or name}; prepare it first")
    return path, split


def _manifest_sum(name: str) -> str:
    return hashlib.sha256((dataset_of(name)[0] / array_records.MANIFEST).read_bytes()).hexdigest()
