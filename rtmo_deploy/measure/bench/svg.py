"""Line and bar plots as inline SVG. Colours come from CSS variables of the page, so that they follow its scheme."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How many CSS variables ``--c0``, ``--c1``, ... a page must define.
COLOURS = 8
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 64, 16, 14, 46
_MARKS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        label: In the legend.
        points: x and y, by x.
        upper: A second y at each x, up to which a band is drawn; empty for none.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    upper: tuple[float, ...] = ()


def nice_ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 up to at least ``top``, about ``count`` of them above 0."""
    if not (math.isfinite(top) and top > 0):
        return [0.0, 1.0]
    rough = top / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def line_plot(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, height: int = 320) -> str:
    """A plot whose y axis begins at 0. Each point carries its numbers as a tooltip."""
    xs = sorted({x for line in lines for x, _ in line.points})
    tops = [y for line in lines for _, y in line.points] + [y for line in lines for y in line.upper]
    ticks = nice_ticks(max(tops))
    low, high = xs[0], xs[-1] if xs[-1] > xs[0] else xs[0] + 1

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT - 20) + _LEFT + 10
        return round(across, 1), round(height - _BOTTOM - y / ticks[-1] * (height - _TOP - _BOTTOM), 1)

    parts = [_frame(title, height, ticks, lambda y: at(low, y)[1], y_label)]
    for x in xs:
        place = at(x, 0)
        parts.append(f'<text class="tick" x="{place[0]}" y="{place[1] + 18}" text-anchor="middle">{x:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height - 8}" text-anchor="middle">{_text(x_label)}</text>')
    for number, line in enumerate(lines):
        parts += _line(number, line, at)
    parts.append("</svg>")
    return "".join(parts) + _legend([line.label for line in lines])


def _line(number: int, line: Line, at: object) -> list[str]:
    assert callable(at)
    colour = f"var(--c{number % COLOURS})"
    places = [at(x, y) for x, y in line.points]
    parts = []
    if line.upper:
        above = [at(x, y) for (x, _), y in zip(line.points, line.upper, strict=True)]
        outline = " ".join(f"{x},{y}" for x, y in [*places, *reversed(above)])
        parts.append(f'<polygon points="{outline}" fill="{colour}" opacity="0.15"/>')
    path = " ".join(f"{x},{y}" for x, y in places)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for (px, py), (x, y) in zip(places, line.points, strict=True):
        parts.append(_mark(number, px, py, colour, f"{line.label}: {y:.4g} at {x:g}"))
    return parts


def stacked_bars(title: str, unit: str, bars: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Horizontal bars of parts, such as stages; one row a bar."""
    names = list(dict.fromkeys(name for _, parts in bars for name, _ in parts))
    height = 34 + 40 * len(bars)
    ticks = nice_ticks(max(sum(value for _, value in parts) for _, parts in bars))
    span = _WIDTH - _RIGHT - 12

    def across(value: float) -> float:
        return round(12 + value / ticks[-1] * (span - 12), 1)

    drawn = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_text(title)}">']
    for tick in ticks:
        x = across(tick)
        drawn.append(f'<line class="grid" x1="{x}" y1="4" x2="{x}" y2="{height - 28}"/>')
        drawn.append(f'<text class="tick" x="{x}" y="{height - 12}" text-anchor="middle">{tick:g}</text>')
    for row, (label, parts) in enumerate(bars):
        top, begin = 8 + 40 * row, 0.0
        drawn.append(f'<text class="axis" x="12" y="{top + 8}">{_text(label)}</text>')
        for name, value in parts:
            left, right = across(begin), across(begin + value)
            colour = f"var(--c{names.index(name) % COLOURS})"
            drawn.append(
                f'<rect x="{left}" y="{top + 12}" width="{max(right - left, 0):.1f}" height="16" fill="{colour}">'
                f"<title>{_text(name)}: {value:.4g} {_text(unit)}</title></rect>"
            )
            begin += value
    drawn.append("</svg>")
    return "".join(drawn) + _legend(names, marks=False)


def _frame(title: str, height: int, ticks: Sequence[float], y_of: object, y_label: str) -> str:
    assert callable(y_of)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_text(title)}">']
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    turn = (height - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text class="axis" x="16" y="{turn}" text-anchor="middle" transform="rotate(-90 16 {turn})">'
        f"{_text(y_label)}</text>"
    )
    return "".join(parts)


def _mark(number: int, x: float, y: float, colour: str, tooltip: str) -> str:
    """Lines differ by shape as well as by colour."""
    title = f"<title>{_text(tooltip)}</title>"
    kind = _MARKS[number % len(_MARKS)]
    if kind == "circle":
        return f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}">{title}</circle>'
    if kind == "square":
        return f'<rect x="{x - 3.5}" y="{y - 3.5}" width="7" height="7" fill="{colour}">{title}</rect>'
    corners = ((0, -5), (5, 0), (0, 5), (-5, 0)) if kind == "diamond" else ((0, -5), (5, 4), (-5, 4))
    points = " ".join(f"{x + dx},{y + dy}" for dx, dy in corners)
    return f'<polygon points="{points}" fill="{colour}">{title}</polygon>'


def _legend(labels: Sequence[str], *, marks: bool = True) -> str:
    items = []
    for number, label in enumerate(labels):
        colour = f"var(--c{number % COLOURS})"
        mark = _mark(number if marks else 1, 7, 7, colour, label)
        items.append(f'<li><svg class="key" viewBox="0 0 14 14" aria-hidden="true">{mark}</svg>{_text(label)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)
