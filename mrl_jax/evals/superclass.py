"""Accuracy by superclass (MRL, section 5 and appendix J): do small dims at least know what kind of thing it is?

A hierarchy is a table from class to superclass: a JSON object {"class": "superclass"}, a CSV file of lines
`class,superclass`, or WordNet itself. Classes are named as in the features, or by number. Classes that it leaves out
make up one more superclass, the rejects, as in the paper.
"""

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrl_jax.choices import nearest

REJECTS = "(none)"


class Hierarchy(NamedTuple):
    """The superclass of every class."""

    of_C: np.ndarray  # int, the place in names
    names: tuple[str, ...]


def read(path: pathlib.Path, classes: int, label_names: Sequence[str] | None) -> Hierarchy:
    """A hierarchy from a JSON or CSV file.

    Args:
      path: of the file.
      classes: how many there are, C.
      label_names: their names, if known.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not of that form, names a class that there is not, or leaves out all of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a JSON or CSV file of classes and superclasses")
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else _csv(text)
        pairs = {str(leaf): str(name) for leaf, name in table.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f'{path} is neither a JSON object {{"class": "superclass"}} nor CSV of lines class,superclass ({error})'
        ) from error
    return from_names(pairs, classes, label_names, str(path))


def _csv(text: str) -> dict[str, str]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong:
        raise ValueError(f"{wrong} has {len(wrong)} cells")
    if len({row[0] for row in rows}) < len(rows):
        raise ValueError("a class stands in it twice")
    return dict(rows)


def read_names(path: pathlib.Path, classes: int) -> tuple[str, ...]:
    """The names of the classes in the order of their labels: one on each line, or a JSON list of them.

    Raises:
      ValueError: if there are not so many names, or no name is where one should be.
    """
    text = path.read_text(encoding="utf-8")
    try:
        names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except ValueError as error:
        raise ValueError(f"--label_names={path} is not JSON ({error}): give a list of names, or one a line") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"--label_names={path}: give a name a line, none of them empty, or a JSON list of names")
    if len(names) != classes:
        raise ValueError(
            f"--label_names={path} has {len(names)} names, and the features have {classes} classes: give one name for "
            "each, in the order of the labels"
        )
    return tuple(names)


def from_names(
    superclass_of: Mapping[str, str], classes: int, label_names: Sequence[str] | None, origin: str
) -> Hierarchy:
    """A hierarchy from names (or numbers) of classes; `origin` is what errors call the table.

    Raises:
      ValueError: for a class that there is not or that stands there twice, by name and by number, no superclass, one
        superclass of all, or one called like the rejects.
    """
    place = {str(c): c for c in range(classes)} | {name: c for c, name in enumerate(label_names or ())}
    unknown = [leaf for leaf in superclass_of if leaf not in place]
    if unknown:
        raise ValueError(
            f"{origin}: class {unknown[0]!r} is none of the {classes} classes of the features"
            f"{nearest(unknown[0], place) or '; name them as there, or by number'}"
        )
    again: dict[int, str] = {}
    for leaf in superclass_of:
        if (other := again.setdefault(place[leaf], leaf)) != leaf:
            raise ValueError(f"{origin}: {other!r} and {leaf!r} are one class: give it one superclass")
    names = tuple(sorted(set(superclass_of.values())))
    if REJECTS in names:
        raise ValueError(f"{origin}: {REJECTS!r} is the superclass of classes left out: leave them out, or rename it")
    if not names:
        raise ValueError(f"{origin} gives no class a superclass")
    if len(names) == 1 and len(superclass_of) == classes:
        raise ValueError(f"{origin} puts all classes into {names[0]!r}: at least two superclasses are needed")
    of_C = np.full(classes, len(names))
    for leaf, name in superclass_of.items():
        of_C[place[leaf]] = names.index(name)
    return Hierarchy(of_C, names if (of_C < len(names)).all() else (*names, REJECTS))


def from_wordnet(label_names: Sequence[str] | None, count: int) -> Hierarchy:
    """The `count` largest disjoint superclasses of WordNet among classes named by WordNet ids such as n01440764.

    Raises:
      ImportError, FileNotFoundError: where nltk or its WordNet data are not installed.
      ValueError: if the classes have other names, or there are not so many superclasses.
    """
    wrong = next((n for n in label_names or ("",) if n[:1] != "n" or not n[1:].isdecimal()), None)
    if wrong is not None:
        raise ValueError(
            f"hierarchy='wordnet' needs classes named by WordNet ids such as n01440764, not {wrong!r}: name them so by "
            "--label_names=FILE"
        )
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except ImportError as error:
        raise ImportError("nltk is missing: pip install 'mrl_jax[wordnet]', or give hierarchy=FILE.json") from error
    except LookupError as error:
        raise FileNotFoundError(
            "nltk has no WordNet data: python -m nltk.downloader wordnet, or give hierarchy=FILE.json"
        ) from error
    ancestors = {}
    for name in label_names:
        synset = wordnet.synset_from_pos_and_offset("n", int(name[1:]))
        ancestors[name] = {s.name() for path in synset.hypernym_paths() for s in path} - {synset.name()}
    return from_names(largest_disjoint(ancestors, count), len(label_names), label_names, "WordNet")


def largest_disjoint(ancestors: Mapping[str, set[str]], count: int) -> dict[str, str]:
    """Leaf to superclass: going from the node of most leaves to that of fewest, each takes the place of its ancestors,
    until `count` nodes stand; the others' leaves are left out. A leaf below several belongs to the largest one.

    Raises:
      ValueError: if there are never so many.
    """
    leaves: dict[str, set[str]] = {}
    for leaf, above in ancestors.items():
        for node in above:
            leaves.setdefault(node, set()).add(leaf)
    order = sorted(leaves, key=lambda node: (-len(leaves[node]), node))
    standing: list[str] = []
    for node in order:
        standing = [other for other in standing if not leaves[node] <= leaves[other]] + [node]
        if len(standing) == count:
            return {leaf: node for node in reversed(standing) for leaf in sorted(leaves[node])}
    raise ValueError(f"superclasses={count}: these classes have at most {len(standing)} disjoint ones")


def accuracy(predicted_GxN: np.ndarray, labels_N: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
    """(G, S) accuracy after mapping answer and label to their superclasses, over the examples of each superclass.

    NaN for a superclass without examples.
    """
    own_N, answer_GxN = hierarchy.of_C[labels_N], hierarchy.of_C[predicted_GxN]
    return by_superclass(answer_GxN == own_N[None], own_N, len(hierarchy.names))


def by_superclass(right_GxN: np.ndarray, superclass_N: np.ndarray, count: int) -> np.ndarray:
    """(G, S) share of right answers over the examples of each superclass, NaN where it has none."""
    total_S = np.bincount(superclass_N, minlength=count)
    sums = np.stack([np.bincount(superclass_N, weights=row, minlength=count) for row in right_GxN])
    return np.where(total_S > 0, sums / np.maximum(total_S, 1), np.nan)
