"""Images made up from their index: no files, any size, and a model can learn them."""

import dataclasses

import numpy as np

from mrl_jax.choices import nearest

EXAMPLES = {"train": 512, "test": 256}
_GRID = 8  # cells a side of the pattern that tells a class


@dataclasses.dataclass(frozen=True)
class Records:
    """Records {"image": uint8 (size, size, channels), "label": index mod classes}.

    An image is a pattern of 8x8 cells that depends on the class alone, plus noise that depends on split and index.
    """

    split: str
    size: int = 32
    channels: int = 3
    classes: int = 10
    examples: int = 512

    def __len__(self) -> int:
        """The number of records."""
        return self.examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        """The record at `index`."""
        label = index % self.classes
        # Keys: 0 the patterns of the classes, then one for the noise of each split.
        pattern = _generator(0, label).integers(0, 192, (_GRID, _GRID, self.channels), np.uint8)
        noise = _generator(1 + list(EXAMPLES).index(self.split), index)
        cell = np.arange(self.size) * _GRID // self.size
        image = pattern[cell[:, None], cell] + noise.integers(0, 64, (self.size, self.size, self.channels), np.uint8)
        return {"image": image, "label": label}


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
    return Records(split, **sizes)


def _generator(key: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, index, 0]))
