"""The report's plots, as SVG that needs nothing but its style sheet: curves, percentiles, bars, provenance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rtmo_deploy.release.markup import Markup, el, join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, LEFT, RIGHT = 640, 56, 16
COLOURS = 8


def curves(title: str, x_label: str, series: Mapping[str, Sequence[tuple[float, float, float]]]) -> Markup:
    """Lines over a number, from zero, with a band from the median to the 95th percentile.

    Args:
        title: Read out where the plot cannot be seen.
        x_label: What the number is.
        series: Name to (x, median, 95th percentile), milliseconds.
    """
    points = [point for line in series.values() for point in line]
    top, bottom = 16, 250
    most_x = max((x for x, _, _ in points), default=1.0) or 1.0
    step, most_y = _scale(max((high for _, _, high in points), default=1.0))

    def at(x: float, y: float) -> str:
        return f"{LEFT + x / most_x * (WIDTH - LEFT - RIGHT):.1f},{bottom - y / most_y * (bottom - top):.1f}"

    parts = [_grid(step, most_y, top, bottom)]
    for x in sorted({x for x, _, _ in points}):
        place = at(x, 0).split(",")[0]
        parts.append(el("text", f"{x:g}", x=place, y=bottom + 18, class_="tick", text_anchor="middle"))
    for number, line in enumerate(series.values()):
        line = sorted(line)
        band = [at(x, high) for x, _, high in line] + [at(x, mid) for x, mid, _ in reversed(line)]
        colour = f"c{number % COLOURS}"
        parts.append(el("polygon", points=" ".join(band), class_=f"band {colour}"))
        parts.append(el("polyline", points=" ".join(at(x, mid) for x, mid, _ in line), class_=f"line {colour}"))
        parts += [
            el("circle", cx=at(x, mid).split(",")[0], cy=at(x, mid).split(",")[1], r=3.5, class_=f"dot {colour}")
            for x, mid, _ in line
        ]
    parts.append(el("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=bottom + 38, class_="label", text_anchor="middle"))
    parts.append(el("text", "ms", x=LEFT - 8, y=bottom + 18, class_="tick", text_anchor="end"))
    legend, height = _legend(list(series), bottom + 60)
    return _svg(title, height, [*parts, legend])


def percentiles(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A row for each contender: a bar from the least to the 99th percentile, marks at the median, 90th and 95th."""
    most = _scale(max((_longest(row) for row in rows.values()), default=1.0))[1]
    left, top, height = 170, 8, 30

    def at(value: float) -> float:
        return round(left + value / most * (WIDTH - left - RIGHT), 1)

    parts: list[Markup] = []
    for number, (name, row) in enumerate(rows.items()):
        middle, colour = top + height * number + height / 2, f"c{number % COLOURS}"
        parts.append(el("text", _short(name, 24), x=left - 10, y=middle + 4, class_="label", text_anchor="end"))
        low, high = at(row["min"]), at(_longest(row))
        parts.append(el("rect", x=low, y=middle - 4, width=max(high - low, 1), height=8, rx=4, class_=f"band {colour}"))
        parts += [
            el("line", x1=at(row[mark]), x2=at(row[mark]), y1=middle - 7, y2=middle + 7, class_=f"line {colour}")
            for mark in ("p90", "p95")
            if row[mark] is not None
        ]
        parts.append(el("circle", cx=at(row["p50"]), cy=middle, r=5, class_=f"dot {colour}"))
    bottom = top + height * len(rows)
    for value in (0.0, most / 2, most):
        anchor = "start" if value == 0 else "end" if value == most else "middle"
        parts.append(el("text", f"{value:g} ms", x=at(value), y=bottom + 16, class_="tick", text_anchor=anchor))
    note = "bar: min to the highest percentile given; dot: median; marks: p90, p95"
    parts.append(el("text", note, x=left, y=bottom + 36, class_="tick"))
    return _svg(title, bottom + 44, parts)


def _longest(row: Mapping[str, Any]) -> float:
    """The highest percentile that enough calls give."""
    return float(next(value for name in ("p99", "p95", "p90", "p50") if (value := row[name]) is not None))


def bars(title: str, values: Mapping[str, tuple[float, str]]) -> Markup:
    """A bar for each name; the text stands behind it."""
    most = max((value for value, _ in values.values()), default=0.0) or 1.0
    left, space, height = 170, 110, 28
    parts: list[Markup] = []
    for number, (name, (value, text)) in enumerate(values.items()):
        middle = 8 + height * number + height / 2
        width = max(1.0, value / most * (WIDTH - left - space))
        parts.append(el("text", _short(name, 24), x=left - 10, y=middle + 4, class_="label", text_anchor="end"))
        parts.append(
            el("rect", x=left, y=middle - 8, width=f"{width:.1f}", height=16, rx=3, class_=f"fill c{number % COLOURS}")
        )
        parts.append(el("text", text, x=f"{left + width + 8:.1f}", y=middle + 4, class_="tick"))
    return _svg(title, 16 + height * len(values), parts)


def provenance(title: str, nodes: Mapping[str, tuple[str, str]], edges: Sequence[tuple[str, str]]) -> Markup:
    """What was made of what, from left to right.

    Args:
        title: Read out where the graph cannot be seen.
        nodes: Name to (second line, class); each after what it is made of.
        edges: (from, to).
    """
    depth: dict[str, int] = {}
    for name in nodes:
        depth[name] = max((depth[start] + 1 for start, end in edges if end == name and start in depth), default=0)
    columns = max(depth.values(), default=0) + 1
    wide, high, gap_x, gap_y = 150, 46, 42, 14
    rows: dict[int, int] = {}
    place: dict[str, tuple[float, float]] = {}
    for name, column in depth.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        place[name] = (4 + column * (wide + gap_x), 4 + row * (high + gap_y))
    parts = []
    for start, end in edges:
        if start in place and end in place:
            (x1, y1), (x2, y2) = place[start], place[end]
            x1, y1, y2 = x1 + wide, y1 + high / 2, y2 + high / 2
            bend = (x2 - x1) / 2
            curve = f"M{x1:g} {y1:g} C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2 - 6:g} {y2:g}"
            parts.append(el("path", d=curve, class_="edge"))
            parts.append(
                el("polygon", points=f"{x2 - 7:g},{y2 - 4:g} {x2:g},{y2:g} {x2 - 7:g},{y2 + 4:g}", class_="tip")
            )
    for name, (x, y) in place.items():
        second, kind = nodes[name]
        parts.append(el("rect", x=x, y=y, width=wide, height=high, rx=6, class_=f"node {kind}"))
        parts.append(el("text", _short(name, 19), x=x + 10, y=y + 19, class_="label strong"))
        parts.append(el("text", _short(second, 23), x=x + 10, y=y + 36, class_="tick"))
    width = columns * (wide + gap_x) - gap_x + 8
    height = max(rows.values(), default=1) * (high + gap_y) - gap_y + 8
    return el("div", _svg(title, height, parts, width=width, fixed=True), class_="wide")


def _svg(title: str, height: float, parts: Sequence[Markup], *, width: float = WIDTH, fixed: bool = False) -> Markup:
    style = f"min-width:{min(width, 900):g}px;max-width:{width:g}px" if fixed else None
    return el(
        "svg",
        el("title", title),
        join(parts),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        class_="plot",
        style=style,
    )


def _grid(step: float, most: float, top: float, bottom: float) -> Markup:
    parts = []
    for number in range(round(most / step) + 1):
        y = round(bottom - number * step / most * (bottom - top), 1)
        parts.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{number * step:g}", x=LEFT - 8, y=y + 4, class_="tick", text_anchor="end"))
    return join(parts)


def _scale(most: float) -> tuple[float, float]:
    """A round step of four to eight parts, and a round end that is not below ``most``."""
    if not (math.isfinite(most) and most > 0):
        return 1.0, 4.0
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 8 >= most)
    return step, step * math.ceil(most / step - 1e-9)


def _legend(names: Sequence[str], y: float) -> tuple[Markup, float]:
    parts, x = [], float(LEFT)
    for number, name in enumerate(names):
        text = _short(name, 28)
        width = 30 + 7.2 * len(text)
        if x + width > WIDTH and x > LEFT:
            x, y = float(LEFT), y + 20
        parts.append(el("rect", x=x, y=y - 9, width=10, height=10, rx=2, class_=f"fill c{number % COLOURS}"))
        parts.append(el("text", text, x=x + 16, y=y, class_="tick"))
        x += width
    return join(parts), y + 12


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
