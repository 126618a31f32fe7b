"""Where things are printed: the result on stdout, everything for people (progress, logs, errors) on stderr."""

from __future__ import annotations

import io
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rich import box
from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rtmo_deploy.cli.document import notes_so_far, put

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import JustifyMethod
    from rich.table import Column

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.errors import RtmoDeployError


#: Columns that a table gets at least.
_NARROWEST = 20


class _Notes(RegexHighlighter):
    """Colours the word that a note begins with."""

    highlights: ClassVar = [r"^(?P<yellow>(Note|Skipped|cfg):)"]


def stdout() -> Console:
    """Console of the result. Made anew each time, so that a redirected stream is honoured.

    It is as wide as COLUMNS says, else as the terminal, else 80 columns. Square brackets and words between colons are
    printed as they are: shapes and paths are full of them.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    width = max(_NARROWEST, shutil.get_terminal_size().columns)
    return Console(file=sys.stdout, width=width, height=25, highlight=False, soft_wrap=True, markup=False, emoji=False)


def stderr() -> Console:
    """Console of progress, notes and errors."""
    return Console(file=sys.stderr, highlighter=_Notes(), soft_wrap=True, markup=False, emoji=False)


def print_table(table: Table) -> None:
    """Print a table on stdout in the width that there is; nothing is cut off."""
    print_fitted(stdout(), table)


def print_result(text: str, style: str = "green") -> None:
    """Print one line on stdout that says how it ended; green for success."""
    stdout().print(text, style=style, soft_wrap=False, overflow="fold")


def print_json(command: str, **fields: Any) -> None:
    """Print one JSON document on stdout: ``schema_version``, ``command``, ``fields``, and ``model_notes`` if any."""
    notes = notes_so_far()
    put(command, {**fields, "model_notes": notes} if notes else fields)


def print_error(error: RtmoDeployError) -> None:
    """Print an error as one paragraph on stderr."""
    console = stderr()
    console.print("Error:", style="bold red", end=" ")
    console.print(str(error))


def record_made(artifact: Artifact, *, command: str, source: Path | None = None) -> None:
    """Remember what a command made, for the next one; where that cannot be done, say so on stderr and go on."""
    from rtmo_deploy.errors import RtmoDeployError
    from rtmo_deploy.release.workspace import Workspace

    try:
        Workspace().record(artifact, command=command, source=source)
    except RtmoDeployError as error:
        stderr().print(f"Note: the next command has to be given this file's name. {error}")


_GAP = 2
#: Columns that a text gets at least, if it is as long: where a line holds it, and where it is prose.
_WORD, _PROSE = 10, 24
#: Columns that the last column gets at most, where there is more room than is good to read.
_LINE = 66
_NUMBER = re.compile(r"[-+±<>≤≥~]? ?\d[\d.,:x]*(e[-+]?\d+)?( ?(%|px|ms|s|dB|x|[KMG]?i?B))?|-|")
_STYLES = {
    **dict.fromkeys(("passed", "ok", "fine", "finished", "they agree"), "green"),
    **dict.fromkeys(("failed", "broken", "slower", "they differ"), "bold red"),
    **dict.fromkeys(
        ("warning", "not checked", "not measured", "not verified", "skipped", "unavailable", "neither found anybody"),
        "yellow",
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
    """Print a table in the console's width. Columns that do not fit follow below, beside those that name the rows."""
    if not table.show_header:
        _print_facts(console, table)
        return
    columns = [_Column.of(column) for column in table.columns]
    last = columns[-1]  # where prose stands
    columns[-1] = last._replace(natural=max(last.least, min(last.natural, _LINE)))
    console.print()
    _print_line(console, table.title, "bold")
    for number, chosen in enumerate(_blocks(columns, console.width)):
        if number:
            console.print()
        block = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        widths = _widths([columns[i] for i in chosen], console.width)
        for i, width in zip(chosen, widths, strict=True):
            block.add_column(columns[i].heading, justify=columns[i].justify, width=width, overflow="fold")
        for place, row in enumerate(table.rows):
            cells = [_broken(columns[i].cells[place], width) for i, width in zip(chosen, widths, strict=True)]
            block.add_row(*cells, style=row.style, end_section=row.end_section)
        console.print(block, soft_wrap=False)
    _print_line(console, table.caption, "dim")


def _print_facts(console: Console, table: Table) -> None:
    """Names and values; a word that is too long to stand beside its name goes below it."""
    names, values = (_Column.of(column) for column in table.columns)
    beside = max(1, console.width - names.natural - _GAP)
    for name, value in zip(names.cells, values.cells, strict=True):
        row = Table.grid(padding=(0, _GAP, 0, 0))
        row.add_column(style="bold", width=min(names.natural, console.width - _GAP - 1), overflow="fold")
        row.add_column(width=beside, overflow="fold")
        below = beside < _longest(value.plain.split()) <= console.width - _GAP
        row.add_row(name, "" if below else _broken(value, beside))
        console.print(row, soft_wrap=False)
        if below:
            console.print(Padding(value, (0, 0, 0, _GAP)), soft_wrap=False)


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
            words = _longest(word for text in (heading, *cells) for word in text.plain.split())
            least = max(min(words, _PROSE), min(natural, _WORD if natural <= 2 * _PROSE else _PROSE))
        justify = "right" if numbers and any(cell.plain for cell in cells) else column.justify
        return cls(heading, cells, justify, natural, max(least, _longest(heading.plain.split()), 1))


def _longest(texts: object) -> int:
    from rich.cells import cell_len

    return max((cell_len(text) for text in texts), default=0)  # type: ignore[attr-defined]


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
