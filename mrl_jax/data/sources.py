"""Datasets by name."""

import bisect
import dataclasses
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from mrl_jax.choices import nearest
from mrl_jax.data import array_records, icon_identities, icon_names, icons, synthetic
from mrl_jax.data.text import vocabulary
from mrl_jax.data.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset.

    Attributes:
      name: the name it was asked for by.
      split: the split it was asked for by.
      records: random access: `len`, and records[i] = {"image": uint8 (H, W, C) or encoded bytes, "label": int}, or
        "label": list of ints where `max_labels` is more than 1.
      num_classes: every label is in [0, num_classes).
      label_names: one name per class, or None.
      max_labels: the most labels an example has; 1 where each has exactly one.
      class_counts: the examples of each class in this split, or None where that is not known without reading it.
      fields: the integers that every record has besides its label, of `records.FIELDS`.
      vocabulary: of the token ids in its records, or None where they have no text.
      context: the most ids of a text.
      negatives: the hard negatives that each pair of texts has.
    """

    name: str
    split: str
    records: Sequence[dict[str, Any]]
    num_classes: int
    label_names: tuple[str, ...] | None = None
    max_labels: int = 1
    class_counts: tuple[int, ...] | None = None
    fields: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    context: int = 0
    negatives: int = 0


@dataclasses.dataclass(frozen=True)
class Concatenated:
    """The records of several sources, one after the other."""

    parts: tuple[Source, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        """The number of records."""
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The record at `index`."""
        part = bisect.bisect_right(self.ends, index)
        return self.parts[part].records[index - (self.ends[part - 1] if part else 0)]


def concatenate(parts: Sequence[Source]) -> Source:
    """Several sources of the same classes as one.

    Raises:
      ValueError: if their classes differ, in number or by name, or if one has no records.
    """
    first = parts[0]
    names = {part.label_names for part in parts} - {None}
    for part in parts:
        if part.num_classes != first.num_classes or len(names) > 1:
            raise ValueError(
                f"data.mixture: {first.name!r} has {first.num_classes} classes, {part.name!r} has {part.num_classes}, "
                "or their names differ: prepare the parts with one list of classes"
            )
        if part.vocabulary != first.vocabulary:
            raise ValueError(
                f"data.mixture: {first.name!r} and {part.name!r} were prepared with different tokenizers: take one"
            )
        if part.negatives != first.negatives:
            raise ValueError(
                f"data.mixture: {first.name!r} has {first.negatives} hard negatives a pair, {part.name!r} has "
                f"{part.negatives}: prepare the parts with equally many"
            )
        if not len(part.records):
            raise ValueError(f"data.mixture: dataset {part.name!r} split {part.split!r} has no records")
    name, split = (" + ".join(getattr(part, field) for part in parts) for field in ("name", "split"))
    ends = tuple(itertools.accumulate(len(part.records) for part in parts))
    records, most = Concatenated(tuple(parts), ends), max(part.max_labels for part in parts)
    return dataclasses.replace(
        first,
        name=name,
        split=split,
        records=records,
        max_labels=most,
        label_names=max(names, default=None),
        class_counts=None,
        context=max(part.context for part in parts),
        fields=tuple(field for field in first.fields if all(field in part.fields for part in parts)),
    )


def load(name: str, split: str, *, data_dir: str | pathlib.Path) -> Source:
    """A split of the dataset called `name`.

    Names:
      "icons": the embedded default, made under `data_dir` at first use (2 seconds); splits train and test.
      "icons:identities": the same drawings for open-set retrieval (`icon_identities`); splits train, query, gallery.
      "icons:names": the same drawings with their names as captions (`icon_names`); pip install 'mrl_jax[text]'.
      "synthetic" or "synthetic:size=224,channels=3,classes=1000,examples=256": made up; splits train and test. With
        context=16,vocabulary=64 texts too, and with negatives=2 so many hard negatives of each pair.
      "array_record:PATH": a directory in our own format (`array_records`); PATH may be relative to `data_dir`.
      "tfds:NAME": a TFDS dataset that was built in array_record format under `data_dir`; splits as TFDS spells
        them, such as "train[:99%]".

    Raises:
      ValueError: for an unknown name, option or split, or for files that are not what their manifest says.
      FileNotFoundError: for a dataset that is not there; the message holds the command that makes it.
    """
    kind, _, rest = name.partition(":")
    if kind not in KINDS:
        raise ValueError(f"dataset {name!r} is not one of {sorted(KINDS)}{nearest(kind, KINDS)}")
    return KINDS[kind](name, rest, split, pathlib.Path(data_dir).expanduser())


def _icons(name: str, rest: str, split: str, data_dir: pathlib.Path) -> Source:
    if rest not in ICONS:
        raise ValueError(
            f"dataset {name!r}: 'icons' takes no options; write 'icons' or 'icons:identities'{nearest(rest, ICONS)}"
        )
    return _open(name, split, icons.prepare(data_dir, *ICONS[rest]))


def _synthetic(name: str, rest: str, split: str, data_dir: pathlib.Path) -> Source:
    records = synthetic.records(rest, split)
    counts = tuple(len(range(c, records.examples, records.classes)) for c in range(records.classes))
    text = {"vocabulary": records.words(), "context": records.context, "negatives": records.negatives}
    return Source(name, split, records, records.classes, class_counts=counts, **text)


def _array_record(name: str, rest: str, split: str, data_dir: pathlib.Path) -> Source:
    directory = data_dir / pathlib.Path(rest).expanduser()
    if not rest or not (directory / array_records.MANIFEST).is_file():
        raise FileNotFoundError(
            f"dataset {name!r}: there is no {array_records.MANIFEST} in {directory}. "
            f"Make it with: python -m mrl_jax.prepare SOURCE --data_dir={directory}"
        )
    return _open(name, split, directory)


def _open(name: str, split: str, directory: pathlib.Path) -> Source:
    manifest = array_records.read_manifest(directory)
    if split not in manifest["splits"]:
        splits = sorted(manifest["splits"])
        raise ValueError(f"split {split!r} of dataset {name!r} is not one of {splits}{nearest(split, splits)}")
    records = array_records.open_split(directory, manifest["splits"][split])
    classes, names = manifest["num_classes"], manifest["label_names"]
    if "split_classes" in manifest:
        classes = manifest["split_classes"][split]
        names = names and names[:classes]
    counts = manifest["class_counts"][split] if "class_counts" in manifest else None
    for what, found in (("label names", names), ("class counts", counts)):
        if found is not None and len(found) != classes:
            raise ValueError(f"{directory}: {len(found)} {what} for num_classes={classes}")
    # Datasets written before there were several labels say nothing of them.
    most, fields = manifest.get("max_labels", 1), tuple(manifest.get("fields", ()))
    own = manifest.get("text")  # None: of images alone
    # Texts prepared before there were hard negatives say nothing of them.
    text = (_vocabulary(directory, own), own["context"], own.get("negatives", 0)) if own else (None, 0, 0)
    counts = counts and tuple(counts)
    return Source(name, split, records, classes, names and tuple(names), most, counts, fields, *text)


def _vocabulary(directory: pathlib.Path, own: dict[str, Any]) -> Vocabulary:
    found = vocabulary.read(directory / own["file"])
    if found.sha256 != own["sha256"]:
        raise ValueError(f"{found.path} is not the tokenizer that {directory} was made with; prepare the dataset again")
    return found


def _tfds(name: str, rest: str, split: str, data_dir: pathlib.Path) -> Source:
    import tensorflow_datasets as tfds  # slow to import, and few runs need it

    command = f"tfds build {rest} --data_dir={data_dir} --file_format=array_record"
    found, hint = False, ""
    try:
        builder = tfds.builder(rest, data_dir=data_dir, try_gcs=False)
        found = builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        hint = nearest(re.split("[/:]", rest)[0], tfds.list_builders(with_community_datasets=False))
    except AssertionError:
        pass
    if not found:
        raise FileNotFoundError(f"dataset {name!r} is not in {data_dir}{hint or '.'} Make it with: {command}")
    features = builder.info.features
    if not {"image", "label"} <= features.keys() or not isinstance(features["label"], tfds.features.ClassLabel):
        raise ValueError(
            f"dataset {name!r} has the features {sorted(features)}: an 'image' and a class 'label' are needed"
        )
    try:
        data = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise ValueError(
            f"dataset {name!r} in {data_dir} is not in array_record format. Make it with: {command}"
        ) from error
    except ValueError as error:
        raise ValueError(f"split {split!r} of dataset {name!r}: {error}") from error
    return Source(name, split, _TfdsRecords(data), features["label"].num_classes, tuple(features["label"].names))


@dataclasses.dataclass(frozen=True)
class _TfdsRecords:
    """The two fields we use of the records of TFDS, the image still encoded."""

    data: Any

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.data[index]
        return {"image": record["image"], "label": int(record["label"])}


ICONS = {
    "": ("", icons.by_style),
    "identities": (f"identities-{icon_identities.RULES}", icon_identities.arrange),
    "names": (f"names-{icon_names.RULES}", icon_names.arrange),
}
KINDS = {"icons": _icons, "synthetic": _synthetic, "array_record": _array_record, "tfds": _tfds}
