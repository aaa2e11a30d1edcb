"""What an evaluation leaves behind: a JSON file per evaluator, a printed table, a picture of accuracy against dim."""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mrl_jax.nesting import Nesting
from mrl_jax.writers import read_object, write_json

Values = Mapping[str, Mapping[str, float]]  # evaluator -> "metric@dim" -> value


class Measured(NamedTuple):
    """What a clock said, beside values that are the same each time."""

    values: Mapping[str, float]  # "metric@dim" -> value, its unit in the name
    on: str  # the machine, and what it did


def check_name(name: str, taken: Iterable[str], flag: str = "--name") -> None:
    """Raises ValueError unless results may be called so, none of what is taken."""
    if not re.fullmatch(r"[\w.+-]+", name) or name in taken:
        raise ValueError(f"{flag}={name!r} must be letters, digits, _ . + and -, and none of {list(taken)}")


def check(workdir: os.PathLike | str) -> None:
    """Raises ValueError or OSError, before anything is computed, where results could not be written beside what there
    is: `results` or `plots` is no folder, or a result of before is damaged.
    """
    for name in ("results", "plots"):
        path = pathlib.Path(workdir) / name
        if path.exists() and not path.is_dir():
            raise OSError(f"{path} is no folder: move it away")
    for path in sorted((pathlib.Path(workdir) / "results").glob("*.json")):
        read_one(path)


def write(
    workdir: os.PathLike | str,
    values: Values,
    *,
    step: int | None,
    nesting: Nesting,
    head: str | None,
    command: str,
    details: Mapping[str, Any] | None = None,
    recalibrated: int = 0,
    figures: Sequence[str] = (),
    views: int = 1,
    measured: Measured | None = None,
) -> None:
    """Writes `results/<evaluator>.json`: the values, the step, which dims were trained, the command that repeats it,
    and by evaluator what else there is to tell; of how many batches BatchNorm's statistics are, if not the model's; the
    names of the pictures in `plots/` that the command drew, where they do not begin with the evaluator's; of how many
    views of each image the logits are added, if not of one; and, apart from the values, what was timed.
    """
    for name, own in values.items():
        dims = sorted({dim for _, dim in map(split_name, own)})
        write_json(
            pathlib.Path(workdir) / "results" / f"{name}.json",
            {
                "evaluator": name,
                "step": step,
                "head": head,
                "trained_dims": list(nesting.dims),
                "untrained_dims": [m for m in dims if m not in nesting.dims],
                "values": dict(own),
                "command": command,
                **({"details": details[name]} if details else {}),
                **({"recalibrated": recalibrated} if recalibrated else {}),
                **({"figures": list(figures)} if figures else {}),
                **({"views": views} if views != 1 else {}),
                **({"measured": measured._asdict()} if measured else {}),
            },
        )


def earlier(
    workdir: os.PathLike | str, name: str, *, step: int, recalibrated: int = 0
) -> tuple[dict[str, float], list[str]]:
    """What the file of an evaluator already holds of this model, and the commands behind it; of another nothing."""
    path = pathlib.Path(workdir) / "results" / f"{name}.json"
    found = read_one(path) if path.exists() else {}
    if found.get("step") != step or found.get("recalibrated", 0) != recalibrated:
        return {}, []
    return found["values"], found["command"].split("\n")


def read(workdir: os.PathLike | str) -> dict[str, dict[str, Any]]:
    """The results of a run by evaluator.

    Raises:
      FileNotFoundError: if there are none.
    """
    paths = sorted((pathlib.Path(workdir) / "results").glob("*.json"))
    if not paths:
        raise FileNotFoundError(
            f"{workdir}/results is empty: run `python -m mrl_jax.evaluate --workdir={workdir}` first"
        )
    return {path.stem: read_one(path) for path in paths}


def read_one(path: pathlib.Path) -> dict[str, Any]:
    """One file of `results/`. Raises ValueError or OSError, with the remedy, if it is damaged or cannot be read."""
    found = read_object(path, "move it away")
    if not isinstance(found.get("values"), dict):
        raise ValueError(f"{path} holds no values: move it away")
    return found


def split_name(name: str) -> tuple[str, int]:
    """`metric@dim` as (metric, dim)."""
    metric, _, dim = name.rpartition("@")
    return metric, int(dim)


def curves(values: Values) -> dict[str, dict[int, float]]:
    """`evaluator metric` -> dim -> value."""
    found: dict[str, dict[int, float]] = {}
    for evaluator, measured in values.items():
        for name, value in measured.items():
            metric, dim = split_name(name)
            found.setdefault(f"{evaluator} {metric}", {})[dim] = value
    return found


def table(values: Values, nesting: Nesting, step: int | None, measured: Measured | None = None) -> str:
    """Percent by dim and metric, and what was timed as it is; dims that were not trained are marked."""
    columns, times = curves(values), curves({"measured": measured.values}) if measured else {}
    dims = sorted({dim for curve in columns.values() for dim in curve})
    lines = [("In percent" if step is None else f"After {step} updates, in percent") + " (~ dim not trained):"]
    lines.append("     dim  " + "  ".join(f"{name:>{_width(name)}}" for name in (*columns, *times)))
    for dim in dims:
        cells = [f"{100 * c[dim]:{_width(n)}.2f}" if dim in c else " " * _width(n) for n, c in columns.items()]
        cells += [f"{c[dim]:{_width(n)}.4f}" if dim in c else " " * _width(n) for n, c in times.items()]
        lines.append(f"{' ' if dim in nesting.dims else '~'} {dim:6d}  " + "  ".join(cells))
    return "\n".join([*lines, f"measured on {measured.on}"] if measured else lines)


def _width(name: str) -> int:
    return max(len(name), 6)


def plot(
    path: os.PathLike | str, values: Values, nesting: Nesting, beside: Sequence[tuple[str, str, int, float]] = ()
) -> None:
    """A PNG of top-1 accuracy against dim.

    Args:
      path: where to write it.
      values: by evaluator.
      nesting: its dims are drawn as filled marks, those between as open ones.
      beside: other runs, each a point (label, curve as in `curves`, dim, value): fixed-feature baselines.
    """
    figure, axes = _figure((6.4, 4.2))
    found = curves(values)
    shown = {name: curve for name, curve in found.items() if name.endswith("top1")} or found
    for name, curve in shown.items():
        trained = [m for m in sorted(curve) if m in nesting.dims]
        (line,) = axes.plot(trained, [100 * curve[m] for m in trained], "o-", label=name, linewidth=1.5)
        others = [m for m in sorted(curve) if m not in nesting.dims]
        axes.plot(others, [100 * curve[m] for m in others], "o", color=line.get_color(), markerfacecolor="white")
        points = sorted((dim, 100 * value) for _, other, dim, value in beside if other == name)
        if points:
            axes.plot(*zip(*points), "x--", color=line.get_color(), linewidth=0.8, label=f"{name}, separate FF models")
    axes.set_xscale("log", base=2)
    axes.set_xticks(nesting.dims if len(nesting) <= 12 else nesting.dims[:: len(nesting) // 8])
    _plain_numbers(axes)
    axes.set_xlabel("embedding dim (filled: trained, open: in between)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8) if len(shown) > 6 else axes.legend()
    _save(figure, pathlib.Path(path))


def plot_tradeoff(
    path: os.PathLike | str, points: Sequence[Any], front: Sequence[Any], chosen: Any, exact_ms: float, quality: str
) -> None:
    """A PNG of quality against time a query: all settings tried, their Pareto front, the chosen one, the exact search.

    Args:
      path: where to write it.
      points: what has `ms`, `quality` and `setting.name`.
      front: those of them that no other beats, fastest first.
      chosen: one of them.
      exact_ms: time of the exact search.
      quality: what quality means, for the axis.
    """
    figure, axes = _figure((7.2, 4.6))
    axes.plot([p.ms for p in points], [p.quality for p in points], ".", color="0.75", markersize=3, label="tried")
    axes.step([p.ms for p in front], [p.quality for p in front], "o-", where="post", markersize=3, label="Pareto front")
    axes.plot([chosen.ms], [chosen.quality], "*", color="crimson", markersize=13, label=chosen.setting.name)
    axes.axvline(exact_ms, color="0.4", linestyle="--", linewidth=1, label="exact search at full dim")
    axes.set_xscale("log")
    best = max(p.quality for p in points)
    axes.set_ylim(max(best - 0.4, 0) if best > 0.4 else 0, best + 0.02)
    axes.set_xlabel("ms a query")
    axes.set_ylabel(quality)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    _save(figure, pathlib.Path(path))


class Lines(NamedTuple):
    """Curves over dims (or what they cost), on a logarithmic axis."""

    name: str  # of the file, without .png
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]  # label -> x, y


class HeatMap(NamedTuple):
    """A matrix with its numbers in it."""

    name: str
    title: str
    rows: Sequence[Any]
    columns: Sequence[Any]
    values: Any  # (rows, columns)
    x_label: str = "embedding dim"
    y_label: str = ""


class Pictures(NamedTuple):
    """Images, each in a row of its own, plain and then under one map of heat after the other."""

    name: str
    images: Sequence[Any]  # of each row (H, W, 3) uint8
    heat: Sequence[Sequence[Any]]  # of each row and column (h, w) in 0..1
    titles: Sequence[Sequence[str]]  # of the plain image and of each map


def draw(directory: os.PathLike | str, what: "Lines | HeatMap | Pictures") -> pathlib.Path:
    """Draws to `directory`/`what.name`.png and returns the path."""
    figure = {Lines: _lines, HeatMap: _heat_map, Pictures: _pictures}[type(what)](what)
    return _save(figure, pathlib.Path(directory) / f"{what.name}.png")


def _lines(what: Lines) -> Any:
    figure, axes = _figure((6.4, 4.2))
    for label, (x, y) in what.series.items():
        axes.plot(x, y, "o-", label=label, linewidth=1.5, markersize=4)
    axes.set_xscale("log", base=2)
    _plain_numbers(axes)
    axes.set_xlabel(what.x_label)
    axes.set_ylabel(what.y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _heat_map(what: HeatMap) -> Any:
    longest = max(len(str(name)) for name in (*what.rows, *what.columns))
    each = max(0.6, 0.09 * longest)
    figure, axes = _figure((1.6 + each * len(what.columns) + 0.06 * longest, 1.2 + 0.4 * len(what.rows)))
    axes.imshow(what.values, cmap="viridis", aspect="auto")
    middle = (min(map(min, what.values)) + max(map(max, what.values))) / 2
    for i, row in enumerate(what.values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color="white" if value <= middle else "black")
    axes.set_xticks(range(len(what.columns)), what.columns)
    axes.set_yticks(range(len(what.rows)), what.rows)
    axes.set_xlabel(what.x_label)
    axes.set_ylabel(what.y_label)
    axes.set_title(what.title, fontsize=10)
    return figure


def _pictures(what: Pictures) -> Any:
    columns = 1 + len(what.heat[0])
    figure, grid = _figure((1.3 * columns, 1.55 * len(what.images)), len(what.images), columns)
    for axes_row, image, maps, titles in zip(grid, what.images, what.heat, what.titles):
        for axes, heat, title in zip(axes_row, (None, *maps), titles):
            axes.imshow(image)
            if heat is not None:
                height, width = image.shape[:2]
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                axes.imshow(heat, cmap="jet", alpha=0.5, vmin=0, vmax=1, extent=extent, interpolation="bilinear")
            axes.set_title(title, fontsize=7)
            axes.set_axis_off()
    return figure


def _figure(size: tuple[float, float], rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes: one, or a grid (rows, columns) of them."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    grid = rows * columns > 1
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=not grid)


def _plain_numbers(axes: Any) -> None:
    import matplotlib.ticker

    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    """Writes a PNG in one rename and lets go of the figure."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    figure.savefig(unfinished, dpi=150, format="png")
    plt.close(figure)
    return unfinished.replace(path)
