"""Charts as inline SVG that take their colours from the page's style sheet: lines, bars, ratios, provenance ..."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The style sheet has the colours ``c0``, ``c1``, ...
COLOURS = 8
WIDTH, LEFT, RIGHT = 640, 56, 16
#: Colours of what was and what is.
_SIDES = ("c6", "c0")
_MARKS = ("circle", "square", "diamond", "triangle")


def lines(title: str, x_label: str, series: Mapping[str, Sequence[tuple[float, float, float]]]) -> Markup:
    """A line of medians for each name, with a band up to the 95th percentile; the y axis, in ms, begins at 0.

    ``series`` maps names to (x, median, 95th percentile). As for every chart, ``title`` is read out where it cannot be
    seen.
    """
    points = [point for line in series.values() for point in line]
    xs = sorted({x for x, _, _ in points})
    ticks = nice_ticks(max(high for _, _, high in points))
    top, bottom, low, span = 16, 250, xs[0], xs[-1] - xs[0] or 1

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + 10 + (x - low) / span * (WIDTH - LEFT - RIGHT - 20)
        return round(across, 1), round(bottom - y / ticks[-1] * (bottom - top), 1)

    svg = _svg(title)
    for tick in ticks:
        y = at(low, tick)[1]
        _add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        _text(svg, f"{tick:g}", LEFT - 8, y + 4, "end")
    for x in xs:
        _text(svg, f"{x:g}", at(x, 0)[0], bottom + 18, "middle")
    _text(svg, x_label, (LEFT + WIDTH - RIGHT) / 2, bottom + 38, "middle", "label")
    _text(svg, "ms", LEFT - 8, bottom + 18, "end")
    for index, (name, line) in enumerate(series.items()):
        line, colour = sorted(line), f"c{index % COLOURS}"
        middle = [at(x, median) for x, median, _ in line]
        above = [at(x, high) for x, _, high in reversed(line)]
        _add(svg, "polygon", points=_path([*middle, *above]), class_=f"band {colour}")
        _add(svg, "polyline", points=_path(middle), class_=f"line {colour}")
        for place, (x, median, _) in zip(middle, line, strict=True):
            _mark(svg, index, place, f"{name}: {median:.4g} at {x:g}")
    return _done(svg, _legend(svg, list(series), bottom + 60, _mark))


def bars(title: str, rows: Mapping[str, tuple[Mapping[str, float], str]]) -> Markup:
    """A bar for each name, the text behind it. Several parts are stacked, coloured by part and named in a legend."""
    parts = list(dict.fromkeys(part for values, _ in rows.values() for part in values))
    most = max((sum(values.values()) for values, _ in rows.values()), default=0.0) or 1.0
    space, height = 110, 40
    svg = _svg(title)
    for row, (name, (values, text)) in enumerate(rows.items()):
        top, begin = 4 + height * row, 0.0
        _text(svg, name, 4, top + 14, "start", "label")
        for part, value in values.items():
            left, width = 4 + begin / most * (WIDTH - space), value / most * (WIDTH - space)
            colour = parts.index(part) if len(parts) > 1 else row
            place = {"x": round(left, 1), "y": top + 19, "width": round(max(width, 1.0), 1), "height": 16}
            bar = _add(svg, "rect", **place, class_=f"fill c{colour % COLOURS}")
            _add(bar, "title").text = f"{part}: {value:.4g}" if part else text
            begin += value
        _text(svg, text, round(12 + begin / most * (WIDTH - space), 1), top + 32)
    bottom = 8 + height * len(rows)
    return _done(svg, _legend(svg, parts, bottom + 16, _square) if len(parts) > 1 else bottom)


def percentiles(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A row for each name: a bar from the least to the highest percentile given, marks at the 50th, 90th and 95th.

    Each row has ``min``, ``p50``, ``p90``, ``p95`` and ``p99`` in ms; a percentile that too few calls give is None.
    """
    ends = [
        next(float(row[name]) for name in ("p99", "p95", "p90", "p50") if row[name] is not None)
        for row in rows.values()
    ]
    most = nice_ticks(max(ends, default=1.0))[-1]
    left, height = 170, 30

    def at(value: float) -> float:
        return round(left + value / most * (WIDTH - left - RIGHT), 1)

    svg = _svg(title)
    for index, ((name, row), end) in enumerate(zip(rows.items(), ends, strict=True)):
        y, colour = 8 + height * index + height / 2, f"c{index % COLOURS}"
        _text(svg, _short(name, 24), left - 10, y + 4, "end", "label")
        low = at(row["min"])
        _add(svg, "rect", x=low, y=y - 4, width=max(at(end) - low, 1), height=8, rx=4, class_=f"band {colour}")
        for value in (row["p90"], row["p95"]):
            if value is not None:
                _add(svg, "line", x1=at(value), x2=at(value), y1=y - 7, y2=y + 7, class_=f"line {colour}")
        _add(svg, "circle", cx=at(row["p50"]), cy=y, r=5, class_=f"dot {colour}")
    bottom = 8 + height * len(rows)
    for value, anchor in ((0.0, "start"), (most / 2, "middle"), (most, "end")):
        _text(svg, f"{value:g} ms", at(value), bottom + 16, anchor)
    _text(svg, "bar: min to the highest percentile given; dot: median; marks: p90, p95", left, bottom + 36)
    return _done(svg, bottom + 44)


def pairs(
    title: str, rows: Mapping[str, tuple[tuple[float, str], tuple[float, str]]], sides: tuple[str, str]
) -> Markup:
    """Two bars for each name, each a value of at least 0 and the text behind it; ``sides`` name them in a legend."""
    most = max((value for pair in rows.values() for value, _ in pair), default=0.0) or 1.0
    space, height = 110, 56
    svg = _svg(title)
    for row, (name, pair) in enumerate(rows.items()):
        top = 4 + height * row
        _text(svg, _short(name, 80), 4, top + 14, "start", "label")
        for side, (value, text) in enumerate(pair):
            y, width = top + 19 + 15 * side, value / most * (WIDTH - space)
            place = {"x": 4, "y": y, "width": round(max(width, 1.0), 1), "height": 12}
            bar = _add(svg, "rect", **place, class_=f"fill {_SIDES[side]}")
            _add(bar, "title").text = f"{sides[side]}: {text}"
            _text(svg, text, round(12 + width, 1), y + 10)

    def mark(svg: ET.Element, index: int, place: tuple[float, float], tooltip: str) -> None:
        _square(svg, int(_SIDES[index][1:]), place, tooltip)

    return _done(svg, _legend(svg, sides, 24 + height * len(rows), mark))


def ratios(title: str, rows: Mapping[str, tuple[float, float, float, bool]], bound: float | None = None) -> Markup:
    """A dot at the ratio and a bar over its interval for each name, with marks at 1 and at a bound.

    ``rows`` maps names to (ratio, low, high, whether it is bad), all positive.
    """
    ends = [end for value, low, high, _ in rows.values() for end in (value, low, high)]
    marks = [1.0] if bound is None else [1.0, bound]
    least, most = min([*ends, *marks]), max([*ends, *marks])
    margin = 0.08 * (most - least) or 0.1
    least, most = least - margin, most + margin
    height, bottom = 42, 8 + 42 * len(rows)

    def at(value: float) -> float:
        return round(20 + (value - least) / (most - least) * (WIDTH - 40), 1)

    svg = _svg(title)
    for number, value in enumerate(marks):
        kind = "line c6" if value == 1 else "line c1"
        for row in range(len(rows)):
            _add(svg, "line", x1=at(value), x2=at(value), y1=25 + height * row, y2=39 + height * row, class_=kind)
        label = "1" if value == 1 else f"bound {value:g}"
        _text(svg, label, at(value), bottom + 16 + 16 * number, "middle")
    for row, (name, (value, low, high, bad)) in enumerate(rows.items()):
        y, colour = 8 + height * row, "c1" if bad else "c0"
        text = f"{name}: {value:.3f} ({low:.3f} to {high:.3f})"
        _text(svg, _short(text, 88), 4, y + 12, "start", "label")
        bar = _add(
            svg, "rect", x=at(low), y=y + 20, width=max(at(high) - at(low), 1), height=8, rx=4, class_=f"band {colour}"
        )
        _add(bar, "title").text = text
        _add(svg, "circle", cx=at(value), cy=y + 24, r=5, class_=f"dot {colour}")
    return _done(svg, bottom + 20 + 16 * (len(marks) - 1))


def provenance(title: str, nodes: Mapping[str, tuple[str, str]], edges: Sequence[tuple[str, str]]) -> Markup:
    """What was made of what, from left to right.

    ``nodes`` maps names to (second line, class), each after what it is made of; ``edges`` are (from, to).
    """
    wide, high, gap_x, gap_y = 150, 46, 42, 14
    column: dict[str, int] = {}
    place: dict[str, tuple[float, float]] = {}
    for name in nodes:
        column[name] = max((column[start] + 1 for start, end in edges if end == name), default=0)
        row = list(column.values()).count(column[name]) - 1
        place[name] = (4 + column[name] * (wide + gap_x), 4 + row * (high + gap_y))
    width = max((x for x, _ in place.values()), default=4) + wide + 4
    svg = _svg(title, width)
    svg.set("style", f"min-width:{min(width, 900):g}px;max-width:{width:g}px")
    for start, end in edges:
        x1, y1 = place[start][0] + wide, place[start][1] + high / 2
        x2, y2 = place[end][0], place[end][1] + high / 2
        bend = (x2 - x1) / 2
        curve = f"M{x1:g} {y1:g} C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2 - 6:g} {y2:g}"
        _add(svg, "path", d=curve, class_="edge")
        _add(svg, "polygon", points=_path([(x2 - 7, y2 - 4), (x2, y2), (x2 - 7, y2 + 4)]), class_="tip")
    for name, (x, y) in place.items():
        second, kind = nodes[name]
        _add(svg, "rect", x=x, y=y, width=wide, height=high, rx=6, class_=f"node {kind}")
        _text(svg, _short(name, 19), x + 10, y + 19, "start", "label strong")
        _text(svg, _short(second, 23), x + 10, y + 36)
    return _done(svg, max((y for _, y in place.values()), default=4) + high + 4)


def nice_ticks(top: float) -> list[float]:
    """Round numbers from 0 up to at least ``top``, four to eight of them above 0."""
    if not (math.isfinite(top) and top > 0):
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 5 >= top * (1 - 1e-9))
    return [step * index for index in range(math.ceil(top / step - 1e-9) + 1)]


def _svg(title: str, width: float = WIDTH) -> ET.Element:
    svg = ET.Element("svg", {"viewBox": f"0 0 {width:g} 0", "role": "img", "class": "plot"})
    _add(svg, "title").text = title
    return svg


def _done(svg: ET.Element, height: float) -> Markup:
    svg.set("viewBox", f"{svg.get('viewBox', '').removesuffix(' 0')} {height:g}")
    return Markup(ET.tostring(svg, encoding="unicode"))  # noqa: S704  ElementTree escapes


def _add(parent: ET.Element, tag: str, **attributes: object) -> ET.Element:
    """An element; ``class_`` is the attribute ``class``, an underscore within a name a hyphen."""
    written = {name.strip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    return ET.SubElement(parent, tag, written)


def _text(svg: ET.Element, text: str, x: float, y: float, anchor: str = "start", kind: str = "tick") -> None:
    _add(svg, "text", x=x, y=y, class_=kind, text_anchor=anchor).text = text


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _mark(svg: ET.Element, index: int, place: tuple[float, float], tooltip: str) -> None:
    """Lines differ by the shape of their points as well as by colour."""
    (x, y), colour = place, f"dot c{index % COLOURS}"
    kind = _MARKS[index % len(_MARKS)]
    if kind == "circle":
        mark = _add(svg, "circle", cx=x, cy=y, r=4, class_=colour)
    elif kind == "square":
        mark = _add(svg, "rect", x=x - 4, y=y - 4, width=8, height=8, class_=colour)
    else:
        corners = ((0, -5), (5, 0), (0, 5), (-5, 0)) if kind == "diamond" else ((0, -5), (5, 4), (-5, 4))
        mark = _add(svg, "polygon", points=_path([(x + dx, y + dy) for dx, dy in corners]), class_=colour)
    _add(mark, "title").text = tooltip


def _square(svg: ET.Element, index: int, place: tuple[float, float], tooltip: str) -> None:
    x, y = place
    square = _add(svg, "rect", x=x - 5, y=y - 5, width=10, height=10, rx=2, class_=f"fill c{index % COLOURS}")
    _add(square, "title").text = tooltip


def _legend(
    svg: ET.Element, names: Sequence[str], y: float, mark: Callable[[ET.Element, int, tuple[float, float], str], None]
) -> float:
    """Marks and names in rows; returns the height that the chart then has."""
    x = float(LEFT)
    for index, name in enumerate(names):
        text = _short(name, 80)
        width = 32 + 8.2 * len(text)
        if x + width > WIDTH and x > LEFT:
            x, y = float(LEFT), y + 20
        mark(svg, index, (x + 5, y - 4), name)
        _text(svg, text, x + 16, y)
        x += width
    return y + 12


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
