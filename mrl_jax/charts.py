"""Line charts and heat maps for a page: inline SVG and HTML tables, every text escaped."""

import html
import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 460, 250, 46, 18, 22, 8


def line_chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A figure with one line per series, points (x, y) in the order of x; the first series red, the last blue."""
    points = [p for line in series.values() for p in line]
    x_ticks = _ticks(min(p[0] for p in points), max(p[0] for p in points))
    y_ticks = _ticks(min(p[1] for p in points), max(p[1] for p in points))
    x_span, y_span = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])

    def place(x: float, y: float) -> str:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (x - x_span[0]) / (x_span[1] - x_span[0])
        down = _TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - (y - y_span[0]) / (y_span[1] - y_span[0]))
        return f"{across:.1f},{down:.1f}"

    drawn = []
    for tick in y_ticks:
        across, down = place(x_span[0], tick).split(",")
        drawn.append(f'<path class="grid" d="M{across} {down}H{_WIDTH - _RIGHT}"/>')
        drawn.append(f'<text x="{_LEFT - 5}" y="{float(down) + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_ticks:
        across = place(tick, y_span[0]).split(",")[0]
        drawn.append(f'<text x="{across}" y="{_HEIGHT - 5}" text-anchor="middle">{_short(tick)}</text>')
    for i, (name, line) in enumerate(series.items()):
        path = " ".join(place(*p) for p in line)
        label = html.escape(name)
        drawn.append(f'<polyline stroke="{_colour(i, len(series))}" points="{path}"><title>{label}</title></polyline>')
    legend = " ".join(
        f'<span><i style="background:{_colour(i, len(series))}"></i>{html.escape(name)}</span>'
        for i, name in enumerate(series)
    )
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(drawn)}</svg>'
    return f'<figure><figcaption>{html.escape(title)}</figcaption>{svg}<p class="legend">{legend}</p></figure>'


def heat_table(
    corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]], *, shared: bool = True
) -> str:
    """A table of numbers whose cells are the darker, the larger they are.

    Args:
      corner: what stands above the names of the rows.
      columns: names.
      rows: name and numbers, None for an empty cell.
      shared: whether all rows share one scale, or each has its own.
    """
    every = [v for _, values in rows for v in values if v is not None]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (corner, *columns))
    body = []
    for name, values in rows:
        scale = every if shared else [v for v in values if v is not None]
        cells = "".join(_cell(v, min(scale), max(scale)) for v in values) if scale else ""
        body.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def _cell(value: float | None, low: float, high: float) -> str:
    if value is None:
        return "<td></td>"
    share = (value - low) / (high - low) if high > low else 0.0
    return f'<td style="background:rgba(38,108,194,{0.04 + 0.42 * share:.3f})">{_number(value)}</td>'


def _number(value: float) -> str:
    if not math.isfinite(value):
        return html.escape(str(value))
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value / 1000:.4g}k"


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers, the first at or below `low`, the last at or above `high`."""
    span = high - low or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= span / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _colour(index: int, count: int) -> str:
    return f"hsl({225 * index // max(count - 1, 1)},68%,44%)"
