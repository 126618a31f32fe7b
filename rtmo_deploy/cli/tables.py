"""Fits tables to a width: text is folded, numbers stay whole, and what does not fit beside goes below."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, JustifyMethod
    from rich.table import Column

__all__ = ["facts_table", "print_fitted", "result_text"]

_GAP = 2
#: Columns that a text gets at least, if it is as long: where a line holds it, and where it is prose.
_WORD, _PROSE = 12, 24
_NUMBER = re.compile(r"[-+±<>≤≥~]? ?\d[\d.,:x]*(e[-+]?\d+)?( ?(%|px|ms|s|dB|x|[KMG]?i?B))?|-|")
_STYLES = {
    **dict.fromkeys(("passed", "fine", "finished"), "green"),
    **dict.fromkeys(("failed", "broken", "slower", "interrupted"), "bold red"),
    **dict.fromkeys(
        ("warning", "not checked", "not measured", "not verified", "skipped", "not available", "unavailable"), "yellow"
    ),
}


def result_text(text: str) -> Text:
    """A text in the colour of the result that it begins with: passed, failed, not measured ..."""
    return Text(text, style=_STYLES.get(re.split(r"[:;,.(]", text.lower(), maxsplit=1)[0].strip(), ""))


def facts_table(facts: Mapping[str, str]) -> Table:
    """Names and values in two columns."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, result_text(value))
    return table


def print_fitted(console: Console, table: Table) -> None:
    """Print a table in the console's width. Columns that do not fit follow below, each time beside the first one."""
    if not table.show_header:
        console.print(table, soft_wrap=False)
        return
    columns = [_Column.of(column) for column in table.columns]
    _print_line(console, table.title, "bold")
    for chosen in _blocks([column.least for column in columns], console.width):
        block = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        room = console.width - _GAP * (len(chosen) - 1)
        for column, width in zip(chosen, _widths([columns[i] for i in chosen], room), strict=True):
            shown = columns[column]
            block.add_column(shown.heading, justify=shown.justify, width=width, overflow="fold")
        for number, row in enumerate(table.rows):
            cells = [columns[i].cells[number] for i in chosen]
            block.add_row(*cells, style=row.style, end_section=row.end_section)
        console.print(block, soft_wrap=False)
    _print_line(console, table.caption, "dim")


def _print_line(console: Console, line: object, style: str) -> None:
    if line:
        text = line.copy() if isinstance(line, Text) else Text(str(line))
        text.stylize_before(style)
        console.print(text, soft_wrap=False, overflow="fold")


class _Column(NamedTuple):
    heading: Text
    cells: list[Text]
    justify: JustifyMethod
    natural: int
    least: int

    @classmethod
    def of(cls, column: Column) -> _Column:
        heading = column.header if isinstance(column.header, Text) else Text(str(column.header))
        cells = [cell if isinstance(cell, Text) else result_text(str(cell)) for cell in column.cells]
        natural = max(_longest(text.plain.split("\n")) for text in (heading, *cells))
        numbers = all(_NUMBER.fullmatch(cell.plain) for cell in cells)
        if numbers:
            least = _longest(cell.plain for cell in cells)
        else:
            words = _longest(word for cell in cells for word in cell.plain.split())
            least = max(min(words, _PROSE), min(natural, _WORD if natural <= 2 * _PROSE else _PROSE))
        justify = "right" if numbers and any(cell.plain for cell in cells) else column.justify
        return cls(heading, cells, justify, natural, max(least, _longest(heading.plain.split()), 1))


def _longest(texts: object) -> int:
    from rich.cells import cell_len

    return max((cell_len(text) for text in texts), default=0)  # type: ignore[attr-defined]


def _blocks(least: Sequence[int], width: int) -> list[list[int]]:
    """Columns that stand side by side; the first one in each block."""
    blocks: list[list[int]] = [[0]]
    for column in range(1, len(least)):
        beside = [*blocks[-1], column]
        if len(blocks[-1]) > 1 and sum(least[i] for i in beside) + _GAP * (len(beside) - 1) > width:
            blocks.append([0, column])
        else:
            blocks[-1] = beside
    return blocks


def _widths(columns: Sequence[_Column], room: int) -> list[int]:
    """What each column gets of the room: its least, and of the rest what it can use, small wishes first."""
    widths = [column.least for column in columns]
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    rest = room - sum(widths)
    order = sorted(range(len(columns)), key=lambda i: columns[i].natural - widths[i])
    for place, column in enumerate(order):
        share = min(columns[column].natural - widths[column], rest // (len(order) - place))
        widths[column] += max(share, 0)
        rest -= max(share, 0)
    return widths
