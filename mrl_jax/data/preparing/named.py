"""Datasets that training could read by name already, to be split into other shards, made smaller or deduplicated."""

from collections.abc import Iterator

import numpy as np

from mrl_jax.data import sources
from mrl_jax.data.preparing.items import Item


class Named:
    """`tfds:NAME` or `array_record:DIR`."""

    digits_are_numbers = True

    def __init__(self, source: str, *, source_dir: str, source_splits: tuple[str, ...] = ("train",)):
        """Opens the splits.

        Args:
          source: as `config.data.name` has it.
          source_dir: where the dataset lies, as `config.data.dir`.
          source_splits: the splits to prepare.

        Raises:
          ValueError, FileNotFoundError: as `sources.load`.
          ValueError: for a dataset with texts, of which token ids alone are left.
        """
        self._splits = {split: sources.load(source, split, data_dir=source_dir) for split in source_splits}
        if any(own.vocabulary for own in self._splits.values()):
            raise ValueError(
                f"{source} has texts, which would be lost: prepare again what it was made of, with --text_key and "
                "--tokenizer"
            )
        # Of a set whose splits differ in their classes, those of training come first: the longest list has them all.
        most = max(self._splits.values(), key=lambda source: source.num_classes)
        self.num_classes, self.label_names, self.field_names = most.num_classes, most.label_names, most.fields
        self.open_set = any(source.num_classes < most.num_classes for source in self._splits.values())

    def items(self) -> Iterator[Item]:
        """The records, split by split."""
        for split, source in self._splits.items():
            for index in range(len(source.records)):
                label = source.records[index]["label"]
                yield Item(split, f"{split}:{index}", tuple(label) if isinstance(label, list) else (label,))

    def read(self, key: str) -> bytes | np.ndarray:
        """The image as the dataset holds it."""
        split, _, index = key.rpartition(":")
        return self._splits[split].records[int(index)]["image"]

    def identity(self, key: str) -> str:
        """Split and number."""
        return key

    def fields(self, key: str) -> dict[str, int]:
        """Those of the record."""
        split, _, index = key.rpartition(":")
        record = self._splits[split].records[int(index)]
        return {name: record[name] for name in self.field_names}
