"""`report.html`: a run on one self-contained page: every result, picture and curve it has, each with the command that
repeats it. Every text that comes from the run is escaped.
"""

import base64
import html
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from mrl_jax import charts, results, writers
from mrl_jax import config as configs

_STYLE = """
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:#1c2733}
body{max-width:66rem;margin:0 auto;padding:1.5rem}
h1{margin:0 0 .2rem}h2{margin:2.4rem 0 .6rem;padding-top:.8rem;border-top:1px solid #d8dee6}
nav{margin:.6rem 0}nav a{margin-right:1rem;white-space:nowrap}a{color:#1d5fb0}
.facts span{display:inline-block;background:#eef2f7;border-radius:1rem;padding:.1rem .8rem;margin:.15rem .3rem .15rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6rem 0}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #e3e8ee;white-space:nowrap}
th:first-child{text-align:left}tr:first-child th{border-bottom:2px solid #b9c4d0}
pre{background:#f4f6f9;border-radius:.4rem;padding:.7rem .9rem;overflow-x:auto;font-size:13px}
img{max-width:min(100%,44rem);border:1px solid #e3e8ee;border-radius:.4rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));gap:1rem}
figure{margin:0}figcaption{font-weight:600}svg{width:100%}svg text{font-size:11px;fill:#5b6b7b}
.grid{stroke:#e3e8ee;fill:none}polyline{fill:none;stroke-width:1.6}
.legend{margin:0;font-size:13px;color:#41505f}.legend span{margin-right:.8rem;white-space:nowrap}
.legend i{display:inline-block;width:.8rem;height:.25rem;margin-right:.3rem;vertical-align:middle}
.note{color:#5b6b7b;font-size:13px;margin:.2rem 0}
@media print{pre{white-space:pre-wrap}}
"""
_MOST_CHARACTERS = 20_000  # of the details of one result
_MOST_ROWS = 64  # of a matrix


def write(workdir: os.PathLike | str, config: Mapping[str, Any] | None) -> pathlib.Path:
    """Writes `report.html` from what the workdir holds and returns its path; results alone have no config."""
    path = pathlib.Path(workdir)
    found = results.read(path)
    pictures = {picture.stem: picture for picture in sorted((path / "plots").glob("*.png"))}
    sections = {"Training": _training(path / "metrics.jsonl")} if config else {}
    for name, result in found.items():
        drawn = result.get("figures", ())
        own = [stem for stem in pictures if stem in drawn or stem == name or stem.startswith(f"{name}-")]
        sections[name] = _result(result, [pictures.pop(stem) for stem in own])
    if pictures:
        sections["More plots"] = "".join(map(_picture, pictures.values()))
    if config:
        sections["Config"] = _config(path, config)
    last = ("Training", "Config")
    order = [*(name for name in sections if name not in last), *(name for name in last if name in sections)]
    facts = _facts(config, found) if config else ""
    title = html.escape(path.resolve().name)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>{facts}"
        f"<nav>{' '.join(_link(name) for name in order)}</nav>"
        f"{''.join(f'<h2 id={_id(name)}>{html.escape(name)}</h2>{sections[name]}' for name in order)}</body></html>\n"
    )
    unfinished = path / "report.html.tmp"
    unfinished.write_text(page, encoding="utf-8")
    return unfinished.replace(path / "report.html")


def refresh(workdir: os.PathLike | str) -> pathlib.Path:
    """`write` with the config that the folder holds, if it is a run's."""
    config = pathlib.Path(workdir) / "config.json"
    return write(workdir, writers.read_object(config, "move it away") if config.is_file() else None)


def _config(path: pathlib.Path, config: Mapping[str, Any]) -> str:
    return (
        f"<pre>{html.escape(_train_command(path))}</pre>"
        f"<details><summary>config.json</summary><pre>{html.escape(json.dumps(config, indent=1))}</pre></details>"
    )


def _link(name: str) -> str:
    return f"<a href={_id(name, '#')}>{html.escape(name)}</a>"


def _id(name: str, before: str = "") -> str:
    return f'"{before}{html.escape(name.replace(" ", "-"))}"'


def _facts(config: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    steps = sorted({result["step"] for result in found.values() if result["step"] is not None})
    model, weights = config["model"], config["nesting"]["weights"]
    facts = [
        configs.name_of(model),
        f"data {config['data']['name']}",
        f"head {config['head']}",
        f"dims {', '.join(map(str, config['nesting']['dims']))}",
        *([f"weights {', '.join(map(str, weights))}"] if weights else []),
        f"{config['total_steps']} steps of {config['batch_size']}",
        f"evaluated at step {', '.join(map(str, steps))}",
        f"seed {config['seed']}",
    ]
    return f'<p class="facts">{"".join(f"<span>{html.escape(fact)}</span>" for fact in facts)}</p>'


def _result(result: Mapping[str, Any], pictures: list[pathlib.Path]) -> str:
    body = [_table(result), *map(_picture, pictures)]
    details = result.get("details") or {}
    body += [_matrix(name, rows, details) for name, rows in _matrices(details)]
    body.append(f"<pre>{html.escape(result['command'])}</pre>")
    if details:
        text = json.dumps(details, indent=1)
        if len(text) > _MOST_CHARACTERS:
            text = f"{text[:_MOST_CHARACTERS]}\n... {len(text) - _MOST_CHARACTERS:,} more characters in results/*.json"
        body.append(f"<details><summary>Details</summary><pre>{html.escape(text)}</pre></details>")
    return "".join(body)


def _table(result: Mapping[str, Any]) -> str:
    """Metrics down, dims across: there may be many metrics, and never many dims."""
    curves: dict[str, dict[int, float]] = {}
    for name, value in result["values"].items():
        metric, dim = results.split_name(name)
        curves.setdefault(metric, {})[dim] = value
    dims = sorted({dim for curve in curves.values() for dim in curve})
    rows = []
    for metric, curve in curves.items():
        share = all(0 <= v <= 1 for v in curve.values())
        values = [None if dim not in curve else 100 * curve[dim] if share else curve[dim] for dim in dims]
        rows.append((f"{metric}, %" if share else metric, values))
    untrained = [dim for dim in dims if dim not in result["trained_dims"]]
    note = '<p class="note">~ not a trained dim</p>' if untrained else ""
    columns = [f"~{dim}" if dim in untrained else str(dim) for dim in dims]
    table = charts.heat_table("dim", columns, rows, shared=all(name.endswith(", %") for name, _ in rows)) + note
    return table + _measured(result["measured"], columns, dims) if "measured" in result else table


def _measured(measured: Mapping[str, Any], columns: list[str], dims: list[int]) -> str:
    times = results.curves({"measured": measured["values"]})
    rows = [(name, [curve.get(dim) for dim in dims]) for name, curve in times.items()]
    note = f'<p class="note">measured on {html.escape(measured["on"])}</p>'
    return charts.heat_table("dim", columns, rows) + note


def _matrices(details: Any, name: str = "") -> list[tuple[str, list[list[float]]]]:
    """The matrices of numbers in it by dotted name."""
    if isinstance(details, Mapping):
        return [found for key, value in details.items() for found in _matrices(value, f"{name}.{key}".lstrip("."))]
    rows = details if isinstance(details, list) and 1 < len(details) <= _MOST_ROWS else []
    if not rows or not all(isinstance(row, list) and len(row) == len(rows[0]) > 1 for row in rows):
        return []
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for row in rows for v in row)
    return [(name, rows)] if numbers and len(rows[0]) <= _MOST_ROWS else []


def _matrix(name: str, rows: list[list[float]], details: Mapping[str, Any]) -> str:
    """A heat map, its sides named by lists of the details that are as long: rows by the first, columns by the last."""
    lists = [v for v in details.values() if isinstance(v, list) and v and not isinstance(v[0], list | dict)]

    def side(length: int, last: bool) -> list[str]:
        fitting = [list(map(str, v)) for v in lists if len(v) == length]
        return fitting[-last] if fitting else [str(i) for i in range(length)]

    named = list(zip(side(len(rows), False), rows))
    return f"<h3>{html.escape(name)}</h3>{charts.heat_table('', side(len(rows[0]), True), named)}"


def _picture(path: pathlib.Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


def _training(metrics: pathlib.Path) -> str:
    """A chart for every `group/metric` measured at two steps or more, over the steps, a line for each of its dims."""
    families: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in writers.read_metrics(metrics) if metrics.exists() else []:
        for name, value in line.items():
            if name != "step" and value is not None and math.isfinite(value):
                family, _, dim = name.partition("@")
                title = f"{family} of each dim" if dim else family
                families.setdefault(title, {}).setdefault(dim or family, []).append((line["step"], value))
    drawn = [
        charts.line_chart(title, {n: sorted(lines[n]) for n in sorted(lines, key=_number) if len(lines[n]) > 1})
        for title, lines in families.items()
        if any(len(points) > 1 for points in lines.values())
    ]
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else "<p>Too few measurements for a curve.</p>"


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else 0


def _train_command(path: pathlib.Path) -> str:
    return f"python -m mrl_jax.train --config=<this config> --workdir={path}"
