"""`report.html`: a run on one self-contained page: its table, its plots, its curves, the commands that repeat it."""

import base64
import html
import json
import os
import pathlib
from typing import Any

from mrl_jax import results, writers

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "img{max-width:100%}pre{background:#f5f5f5;padding:.7rem;overflow-x:auto}"
)


def write(workdir: os.PathLike | str, config: dict[str, Any]) -> pathlib.Path:
    """Writes `report.html` from what the workdir holds and returns its path; every text from the run is escaped."""
    path = pathlib.Path(workdir)
    found = results.read(path)
    body = [f"<h1>{html.escape(path.name)}</h1>", _summary(config, found), "<h2>Accuracy by dim</h2>", _table(found)]
    body += [_picture(picture) for picture in sorted((path / "plots").glob("*.png"))]
    body += ["<h2>Training</h2>", _curves(path / "metrics.jsonl"), "<h2>Commands</h2>", _commands(path, found)]
    body += ["<h2>Config</h2>", f"<pre>{html.escape(json.dumps(config, indent=1))}</pre>"]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(path.name)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    unfinished = path / "report.html.tmp"
    unfinished.write_text(page, encoding="utf-8")
    return unfinished.replace(path / "report.html")


def _summary(config: dict[str, Any], found: dict[str, Any]) -> str:
    steps = sorted({result["step"] for result in found.values()})
    model, data, dims = config["model"]["name"], config["data"]["name"], config["nesting"]["dims"]
    text = f"{model}, head {config['head']}, dims {dims}, {data}, step {steps}"
    return f"<p>{html.escape(text)}</p>"


def _table(found: dict[str, Any]) -> str:
    curves = results.curves({name: result["values"] for name, result in found.items()})
    trained = {dim for result in found.values() for dim in result["trained_dims"]}
    rows = ["<tr><th>dim</th>" + "".join(f"<th>{html.escape(name)}</th>" for name in curves) + "</tr>"]
    for dim in sorted({dim for curve in curves.values() for dim in curve}):
        cells = "".join(f"<td>{100 * c[dim]:.2f}</td>" if dim in c else "<td></td>" for c in curves.values())
        rows.append(f"<tr><td>{dim}{'' if dim in trained else ' (not trained)'}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table><p>Percent.</p>"


def _picture(path: pathlib.Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


def _curves(metrics: pathlib.Path) -> str:
    """The loss of every dim over the steps, as an inline SVG."""
    lines = [line for line in writers.read_lines(metrics) if "train/loss" in line] if metrics.exists() else []
    names = [name for name in lines[0] if name.startswith("train/loss@")] if lines else []
    if len(lines) < 2:
        return "<p>Too few measurements for a curve.</p>"
    steps = [line["step"] for line in lines]
    top = max(line[name] or 0.0 for line in lines for name in names) or 1.0
    width, height = 720, 260
    drawn = []
    for i, name in enumerate(names):
        points = [
            f"{width * (s - steps[0]) / max(steps[-1] - steps[0], 1):.1f},{height * (1 - line[name] / top):.1f}"
            for s, line in zip(steps, lines)
            if line.get(name) is not None
        ]
        colour = f"hsl({240 * i // max(len(names) - 1, 1)},70%,45%)"
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" points="{" ".join(points)}"><title>{name}</title></polyline>'
        )
    ends = f"loss of each dim, 0 to {top:.2f}, steps {steps[0]} to {steps[-1]}; red: {names[0]}, blue: {names[-1]}"
    return f'<svg viewBox="0 0 {width} {height}" width="100%">{"".join(drawn)}</svg><p>{html.escape(ends)}</p>'


def _commands(path: pathlib.Path, found: dict[str, Any]) -> str:
    commands = sorted({result["command"] for result in found.values()})
    train = f"python -m mrl_jax.train --config=<the config below> --workdir={path}"
    return f"<pre>{html.escape(chr(10).join([train, *commands]))}</pre>"
