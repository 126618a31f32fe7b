"""Prints facts and tables in the width of a console; nothing is cut off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from rtmo_deploy.plain import visible

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rich.console import JustifyMethod

    from rtmo_deploy.report.table import Table

_GAP = 2
#: Columns that a text gets at least, if it is as long: where a line holds it, and where it is prose.
_WORD, _PROSE = 10, 24
#: Columns that the last column gets at most, where there is more room than is good to read.
_LINE = 66
_NUMBER = re.compile(r"[-+±<>≤≥~]? ?\d[\d.,:x]*(e[-+]?\d+)?( ?(%|px|ms|s|dB|x|[KMG]?i?B))?|-|")
_STYLES = {
    **dict.fromkeys(("passed", "ok", "fine", "not worse", "finished", "they agree", "chosen", "accepted"), "green"),
    **dict.fromkeys(("failed", "broken", "slower", "worse", "they differ", "refused"), "bold red"),
    **dict.fromkeys(
        (
            "warning",
            "not checked",
            "not measured",
            "not verified",
            "not compared",
            "incomplete",
            "skipped",
            "unavailable",
            "neither found anybody",
        ),
        "yellow",
    ),
    **dict.fromkeys(("absent", "not available"), "dim"),
}
_REMEDY = re.compile(r"(?s)\n-> .*")


class Notes(RegexHighlighter):
    """Colours the word that a note begins with."""

    highlights: ClassVar = [r"^(?P<yellow>(Note|Skipped|cfg):)"]


class VisibleConsole(Console):
    """A console that prints control characters of a text as escapes."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(visible(text), **settings)


def _cell(text: str) -> Text:
    """A text in the colour of the result that it begins with: passed, failed, not measured ...; and its remedy."""
    cell = Text(text, style=_STYLES.get(re.split(r"[:;,.(]", text.lower(), maxsplit=1)[0].strip(), ""))
    cell.highlight_regex(_REMEDY, "cyan")
    return cell


def lay_out_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print names and values; a word that is too long to stand beside its name goes below it."""
    facts = {visible(name): visible(text) for name, text in facts.items()}
    longest = _longest(facts)
    beside = max(1, console.width - longest - _GAP)
    for name, text in facts.items():
        value = _cell(text)
        row = Grid.grid(padding=(0, _GAP, 0, 0))
        row.add_column(style="bold", width=min(longest, console.width - _GAP - 1), overflow="fold")
        row.add_column(width=beside, overflow="fold")
        below = beside < _longest(text.split()) <= console.width - _GAP
        row.add_row(Text(name), "" if below else _broken(value, beside))
        console.print(row, soft_wrap=False)
        if below:
            console.print(Padding(value, (0, 0, 0, _GAP)), soft_wrap=False)


def lay_out_table(console: Console, table: Table, *, marked: int | None, sections: Collection[int]) -> None:
    """Print a table. Columns that do not fit follow below, beside those that name the rows.

    The row ``marked`` is red; a line stands below each row of ``sections``.
    """
    columns = [_Column.of(table, place) for place in range(len(table.headings))]
    last = columns[-1]  # where prose stands
    columns[-1] = last._replace(natural=max(last.least, min(last.natural, _LINE)))
    console.print()
    _print_line(console, table.title, "bold")
    for number, chosen in enumerate(_blocks(columns, console.width)):
        if number:
            console.print()
        block = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        widths = _widths([columns[i] for i in chosen], console.width)
        for i, width in zip(chosen, widths, strict=True):
            block.add_column(Text(columns[i].heading), justify=columns[i].justify, width=width, overflow="fold")
        for place in range(len(table.rows)):
            cells = [_broken(columns[i].cells[place], width) for i, width in zip(chosen, widths, strict=True)]
            block.add_row(*cells, style="bold red" if place == marked else None, end_section=place in sections)
        console.print(block, soft_wrap=False)
    _print_line(console, table.caption, "dim")


def _broken(text: Text, width: int) -> Text:
    """The text with line breaks within words that are too long: after a slash or a dash, where there is one."""
    cuts = []
    for word in re.finditer(r"\S+", text.plain):
        start = word.start()
        while word.end() - start > width:
            part = text.plain[start : start + width]
            start += max(part.rfind(mark) for mark in "/\\-_,") + 1 or width
            cuts.append(start)
    return Text("\n").join(text.divide(cuts)) if cuts else text


def _print_line(console: Console, line: str, style: str) -> None:
    if line:
        console.print(Text(visible(line), style=style), soft_wrap=False, overflow="fold")


class _Column(NamedTuple):
    heading: str
    cells: list[Text]
    justify: JustifyMethod
    natural: int
    least: int

    @classmethod
    def of(cls, table: Table, place: int) -> _Column:
        heading, texts = table.headings[place], [visible(row[place]) for row in table.rows]
        natural = max(_longest(text.split("\n")) for text in (heading, *texts))
        numbers = all(_NUMBER.fullmatch(text) for text in texts)
        if numbers:
            least = _longest(texts)
        else:
            words = _longest(word for text in (heading, *texts) for word in text.split())
            least = max(min(words, _PROSE), min(natural, _WORD if natural <= 2 * _PROSE else _PROSE))
        right = any(texts) if numbers else place and table.numbers
        least = max(least, _longest(heading.split()), 1)
        return cls(heading, [_cell(text) for text in texts], "right" if right else "left", natural, least)


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _blocks(columns: Sequence[_Column], width: int) -> list[list[int]]:
    """Columns that stand side by side; first, in each block, those that tell the rows apart."""
    rows = [tuple(column.cells[row].plain for column in columns) for row in range(len(columns[0].cells))]
    lead = next((n for n in range(1, len(columns)) if len({row[:n] for row in rows}) == len(rows)), 1)
    if _taken(columns[:lead]) > width / 2:
        lead = 1
    blocks = [list(range(lead))]
    for column in range(lead, len(columns)):
        if len(blocks[-1]) > lead and _taken([columns[i] for i in [*blocks[-1], column]]) > width:
            blocks.append(list(range(lead)))
        blocks[-1].append(column)
    return blocks


def _taken(columns: Sequence[_Column]) -> int:
    return sum(column.least for column in columns) + _GAP * (len(columns) - 1)


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """What each column gets: its least, and of the rest what it can use, small wishes first."""
    room = width - _GAP * (len(columns) - 1)
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
