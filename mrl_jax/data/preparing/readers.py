"""The kinds of sources, told by the look of SOURCE."""

import inspect
import pathlib
from collections.abc import Mapping
from typing import Any

from mrl_jax.choices import choose
from mrl_jax.data.preparing.arrays import Arrays
from mrl_jax.data.preparing.folders import Folder
from mrl_jax.data.preparing.items import Reader
from mrl_jax.data.preparing.layouts import LAYOUTS
from mrl_jax.data.preparing.lines import Lines
from mrl_jax.data.preparing.lists import ROWS, List
from mrl_jax.data.preparing.named import Named
from mrl_jax.data.preparing.tars import Tars

READERS = {
    "arrays": Arrays,
    "folder": Folder,
    "lines": Lines,
    "list": List,
    "named": Named,
    "tars": Tars,
} | LAYOUTS


def kind_of(source: str, layout: str = "") -> str:
    """A key of READERS: the layout, where one is named.

    Raises:
      FileNotFoundError: where SOURCE is not there.
      ValueError: where it is nothing known, or no folder of that layout.
    """
    path = pathlib.Path(source)
    if layout:
        choose("--layout", layout, LAYOUTS)
        if not path.is_dir():
            raise FileNotFoundError(f"--layout={layout}: {source} is no folder: name the one that holds its files")
        return layout
    if source.startswith(("tfds:", "array_record:")):
        return "named"
    if path.is_dir():
        if _only_texts(path):
            return "lines"
        return "tars" if any(path.glob("*.tar")) or any(path.glob("*/*.tar")) else "folder"
    if path.suffix == ".tar" and (path.is_file() or any(path.parent.glob(path.name))):
        return "tars"
    if not path.exists():
        raise FileNotFoundError(f"there is no {source}: give a folder, a file, a glob of tars, or tfds:NAME")
    if path.suffix == ".npz":
        return "arrays"
    if path.suffix == ".txt":
        return "lines"
    if path.suffix in ROWS:
        return "list"
    raise ValueError(
        f"{source} is none of: a folder of images, tars or texts, *.tar, *.npz, *.txt, *{', *'.join(ROWS)}, tfds:NAME"
    )


def open_reader(kind: str, source: str, options: Mapping[str, Any]) -> Reader:
    """The reader of a source.

    Raises:
      ValueError: for an option that this kind of source does not have.
    """
    known = [p.name for p in inspect.signature(READERS[kind]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            has = f"has {['--' + name for name in known]}" if known else "has no options of its own"
            raise ValueError(f"--{option} does not apply to {source}, a source of kind {kind!r}, which {has}")
    return READERS[kind](source, **options)


def _only_texts(path: pathlib.Path) -> bool:
    """Whether a folder and those in it hold .txt files and nothing else: folders of images often hold some, too."""
    within = all(entry.suffix == ".txt" for entry in path.glob("*/*"))
    found = any(path.glob("*.txt")) or any(path.glob("*/*.txt"))
    return found and within and all(entry.suffix == ".txt" or entry.is_dir() for entry in path.iterdir())
