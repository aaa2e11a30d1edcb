"""Images and texts made up from their index: no files, any size, and a model can learn them."""

import dataclasses
import pathlib

import numpy as np

from mrl_jax.choices import nearest
from mrl_jax.data.text.vocabulary import SPECIAL, Vocabulary

EXAMPLES = {"train": 512, "test": 256}
_GRID = 8  # cells a side of the pattern that tells a class


@dataclasses.dataclass(frozen=True)
class Records:
    """Records {"image": uint8 (size, size, channels), "label": index mod classes}.

    An image is a pattern of 8x8 cells that depends on the class alone, plus noise that depends on split and index.
    With `context`, there are two texts besides, "tokens" and "tokens_2", of at most so many of `vocabulary` ids: a
    pattern of the class, in which each id is replaced by noise with probability 1/8. `negatives` are so many texts of
    the classes that follow.
    """

    split: str
    size: int = 32
    channels: int = 3
    classes: int = 10
    examples: int = 512
    context: int = 0
    vocabulary: int = 64
    negatives: int = 0

    def __len__(self) -> int:
        """The number of records."""
        return self.examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int | list[int]]:
        """The record at `index`."""
        label = index % self.classes
        # Keys: 0 the patterns of the classes, then one for the noise of each split.
        pattern = _generator(0, label).integers(0, 192, (_GRID, _GRID, self.channels), np.uint8)
        noise = _generator(1 + list(EXAMPLES).index(self.split), index)
        cell = np.arange(self.size) * _GRID // self.size
        image = pattern[cell[:, None], cell] + noise.integers(0, 64, (self.size, self.size, self.channels), np.uint8)
        texts = {"tokens": self._text(label, noise), "tokens_2": self._text(label, noise)} if self.context else {}
        if self.context and self.negatives:
            others = [(label + 1 + i) % self.classes for i in range(self.negatives)]
            texts["negatives"] = [self._text(other, noise) for other in others]
        return {"image": image, "label": label} | texts

    def _text(self, label: int, noise: np.random.Generator) -> list[int]:
        pattern = _generator(0, label + self.classes).integers(len(SPECIAL), self.vocabulary, self.context - 2)
        other = noise.integers(len(SPECIAL), self.vocabulary, len(pattern))
        text = np.where(noise.random(len(pattern)) < 1 / 8, other, pattern)
        return [list(SPECIAL).index("cls"), *text.tolist(), list(SPECIAL).index("sep")]

    def words(self) -> Vocabulary | None:
        """The vocabulary of the texts: ids after the special ones, of which every other continues a word."""
        if not self.context:
            return None
        number = np.arange(self.vocabulary)
        name = f"synthetic vocabulary of {self.vocabulary}"
        ids = {field: i for i, field in enumerate(SPECIAL)}
        special = number < len(SPECIAL)
        return Vocabulary(pathlib.Path(name), name, self.vocabulary, **ids, special=special, continues=number % 2 == 1)


def records(options: str, split: str) -> Records:
    """The records for options such as "size=224,channels=3,classes=1000,examples=256" (each optional) of one split.

    Raises:
      ValueError: for another split, option, or a value that is no positive integer.
    """
    if split not in EXAMPLES:
        raise ValueError(f"split {split!r} of 'synthetic' is not one of {sorted(EXAMPLES)}{nearest(split, EXAMPLES)}")
    sizes = {"examples": EXAMPLES[split]}
    names = [f.name for f in dataclasses.fields(Records) if f.name != "split"]
    for option in filter(None, options.split(",")):
        name, _, value = (part.strip() for part in option.partition("="))
        if name not in names:
            raise ValueError(f"option {name!r} of 'synthetic' is not one of {names}{nearest(name, names)}")
        if not value.isdecimal() or int(value) == 0:
            raise ValueError(f"option {name}={value!r} of 'synthetic' must be a positive integer, as in {name}=32")
        sizes[name] = int(value)
    found = Records(split, **sizes)
    if found.context and (found.context < 3 or found.vocabulary <= len(SPECIAL)):
        raise ValueError(f"'synthetic': texts need context >= 3 and vocabulary > {len(SPECIAL)}, not {options!r}")
    if found.negatives and (not found.context or found.classes == 1):
        raise ValueError(f"'synthetic': negatives need texts, and classes > 1, not {options!r}")
    return found


def _generator(key: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, index, 0]))
