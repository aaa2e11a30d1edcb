"""What a table of the paper is, as data: its published numbers, the runs it needs, and where ours are found."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Setting:
    """What published numbers were measured with.

    Attributes:
      text: in words.
      dataset: trained on, as `config.data.name` spells it; where ours has another name there are no differences.
      model: fields of `config.model`, those of a tower as text/variant, that must be the same for a difference to mean
        something.
      test: evaluated on, likewise; "" for `dataset`.
      views: of each test image, whose logits were added: 2 where its mirror image was one.
      details: what the details of a result must say, by name, for a difference to mean something.
    """

    text: str
    dataset: str
    model: Mapping[str, object]
    test: str = ""
    views: int = 1
    details: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Published:
    """Which rows of reference/mrl.csv make a column: those equal to these fields ("" for `setting`: any)."""

    table: str
    metric: str
    method: str
    setting: str = ""


@dataclasses.dataclass(frozen=True)
class Ours:
    """Where our numbers of a column are.

    Attributes:
      run: a name in `recognise.RUNS`: which of the workdirs.
      evaluator: of its results/<evaluator>.json; a regular expression where the rows are in several files.
      name: a regular expression for the names among its values; groups of it fill `row`.
      row: how the row of a value is spelt, as in the published numbers.
      scale: ours times this is in the published unit.
      details: a path through its details, keys joined by slashes, to what is read in place of the values: numbers by
        name, a list of them, or one.
      of: the path to the list of what fills {dim} in `row`, for each number of such a list.
    """

    run: str
    evaluator: str
    name: str = ""
    row: str = "{dim}"
    scale: float = 100.0
    details: str = ""
    of: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """One method by one metric; `setting` is that of its published numbers where it is not the table's."""

    name: str
    unit: str
    published: Published | None
    ours: Ours | None
    setting: Setting | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table or figure.

    Attributes:
      title: with its number in the paper.
      setting: of the published numbers.
      row: what a row is, such as "dim".
      columns: the methods.
      train: names in `training.RUNS`: what has to be trained.
      measure: command lines of this package, with {runs} for the folder of all runs and the other words of
        `training.words`, such as {test}; one with {each_dim} stands for one of each dim but the full one,
        of which {each_width} is the share in the full one.
      note: what a reader must know besides.
    """

    title: str
    setting: Setting
    row: str
    columns: tuple[Column, ...]
    train: tuple[str, ...]
    measure: tuple[str, ...]
    note: str = ""


def dims(metric: str) -> str:
    """The pattern of `metric@dim`."""
    return rf"{metric}@(?P<dim>\d+)"
