"""`published | ours | difference` as text, Markdown or JSON, the data set and the model of both named."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import measured, published
from experiments.entry import Column, Setting, Table
from experiments.measured import Run, Value
from experiments.published import Number


@dataclasses.dataclass(frozen=True)
class Filled:
    """A column with its numbers by row, and why there is no difference, if there is none."""

    column: Column
    published: Mapping[str, Number]
    ours: Mapping[str, Value]
    reasons: tuple[str, ...]

    @property
    def rows(self) -> list[str]:
        """All rows: those of dims in their order, any others as they are published, then ours."""
        found = list(dict.fromkeys([*self.published, *self.ours]))
        return sorted(found, key=int) if all(row.isdecimal() for row in found) else found

    def difference(self, row: str) -> float | None:
        """Ours less the published number, where the two are of one model and data set, evaluated in one way."""
        if self.reasons or row not in self.published or row not in self.ours:
            return None
        return self.ours[row].mean - self.published[row].value


def fill(table: Table, runs: Sequence[Run]) -> list[Filled]:
    """The columns of a table that have any number.

    Raises:
      ValueError: as `measured.column`.
    """
    found = []
    for column in table.columns:
        setting = column.setting or table.setting
        ours = measured.column(runs, column.ours, setting.views)
        own = {run.path: run for value in ours.values() for run in value.runs}.values()
        reasons = {reason for run in own for reason in measured.differs(run, column.ours.evaluator, setting)}
        found.append(Filled(column, published.column(column.published), ours, tuple(sorted(reasons))))
    return [filled for filled in found if filled.published or filled.ours]


def text(table: Table, filled: Sequence[Filled]) -> str:
    """For a terminal."""
    lines = [table.title, *_header(table, filled), ""]
    for each in filled:
        lines.append(f"{each.column.name}, {each.column.unit}")
        width = max([len(table.row), *map(len, each.rows)])
        lines.append(f"  {table.row:>{width}} | published | ours           | difference")
        for row, cells in _cells(each):
            lines.append(f"  {row:>{width}} | {cells[0]:>9} | {cells[1]:<14} | {cells[2]:>10}".rstrip())
        lines += [*(f"  {line}" for line in _why(each)), ""]
    return "\n".join(lines)


def markdown(table: Table, filled: Sequence[Filled]) -> str:
    """For a document."""
    lines = [f"## {table.title}", "", *(f"- {line}" for line in _header(table, filled)), ""]
    for each in filled:
        lines += [f"**{each.column.name}**, {each.column.unit}", ""]
        lines += [f"| {table.row} | published | ours | difference |", "|---|---|---|---|"]
        lines += [f"| {row} | {' | '.join(cells)} |" for row, cells in _cells(each)]
        lines += ["", *_why(each), ""]
    return "\n".join(lines)


def record(name: str, table: Table, filled: Sequence[Filled]) -> dict[str, Any]:
    """For a program, to be written as JSON: every number with where it comes from."""
    columns = [
        {
            "method": each.column.name,
            "unit": each.column.unit,
            "setting": _paper(each.column.setting or table.setting),
            "comparable": bool(each.ours) and not each.reasons,
            "why_not": list(each.reasons),
            "rows": [_row(each, row) for row in each.rows],
        }
        for each in filled
    ]
    return {
        "table": name,
        "title": table.title,
        "row": table.row,
        "published": _paper(table.setting),
        "ours": [run.describe() for run in _runs(filled)],
        "note": table.note,
        "columns": columns,
    }


def _paper(setting: Setting) -> dict[str, Any]:
    paper = {"text": setting.text, "dataset": setting.dataset, "model": dict(setting.model)}
    return paper | {"views": setting.views}


def _row(each: Filled, row: str) -> dict[str, Any]:
    theirs, ours = each.published.get(row), each.ours.get(row)
    return {
        "row": row,
        "published": theirs.value if theirs else None,
        "source": theirs.source if theirs else None,
        "ours": ours.mean if ours else None,
        "std": ours.std if ours else None,
        "workdirs": [run.path for run in ours.runs] if ours else [],
        "difference": each.difference(row),
    }


def _runs(filled: Sequence[Filled]) -> list[Run]:
    """The runs that have a number here, each once."""
    return list({run.path: run for each in filled for value in each.ours.values() for run in value.runs}.values())


def _header(table: Table, filled: Sequence[Filled]) -> list[str]:
    lines = []
    for setting in (table.setting, *(each.column.setting for each in filled if each.column.setting)):
        model = " ".join(str(value) for value in setting.model.values() if not isinstance(value, bool))
        lines.append(f"published: {setting.text} [model {model}, data {setting.dataset}]")
    lines = list(dict.fromkeys(lines))
    by_model: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in _runs(filled):
        d = run.describe()
        weights = f", weights {d['weights']}" if len(set(d["weights"])) > 1 else ""
        model = (
            f"{' '.join(d['model'].values())} on {d['dataset']}, head {d['head']}, dims {d['dims']}{weights}, "
            f"{d['steps']} steps of {d['batch_size']}"
        )
        but_seed = json.dumps({**run.config, "seed": None}, sort_keys=True)
        by_model.setdefault((model, but_seed), []).append(d)
    for (model, _), found in by_model.items():
        seeds, folders = (", ".join(str(d[name]) for d in found) for name in ("seed", "workdir"))
        lines.append(f"ours: {model}, seed {seeds} [{folders}]")
    if not by_model:
        lines.append("ours: none (name runs with --workdir; --commands prints what makes them)")
    if by_model and table.row == "dim":
        lines.append("~ after a number of ours: the run was not trained at that dim.")
    return [*lines, table.note] if table.note else lines


def _cells(each: Filled) -> list[tuple[str, tuple[str, str, str]]]:
    rows = []
    for row in each.rows:
        theirs, ours, difference = each.published.get(row), each.ours.get(row), each.difference(row)
        spread = f" ± {ours.std:.2f}" if ours and ours.std is not None else ""
        by_dim = bool(ours) and each.column.ours.row == "{dim}"
        untrained = by_dim and int(row) not in ours.runs[0].config["nesting"]["dims"]
        cells = (
            f"{theirs.value:.2f}" if theirs else "",
            f"{ours.mean:.2f}{spread}{' ~' if untrained else ''}" if ours else "",
            f"{difference:+.2f}" if difference is not None else "",
        )
        rows.append((row, cells))
    return rows


def _why(each: Filled) -> list[str]:
    if not each.reasons or not each.published:
        return []
    return [f"No differences: not the paper's setting ({'; '.join(each.reasons)})."]
