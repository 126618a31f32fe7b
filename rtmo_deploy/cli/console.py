"""Where things are printed: the result on stdout, everything for people (progress, logs, errors) on stderr."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rtmo_deploy.cli.document import SCHEMA_VERSION, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rich.table import Table

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.errors import RtmoDeployError
    from rtmo_deploy.zoo.download import ProgressCallback

__all__ = [
    "SCHEMA_VERSION",
    "download_bar",
    "facts_table",
    "print_error",
    "print_json",
    "print_table",
    "status",
    "stderr",
    "stdout",
]

#: Columns that are written, at least, where there is no terminal.
WIDE = 200


def stdout() -> Console:
    """Console of the result. Made anew each time, so that a redirected stream is honoured.

    Square brackets and words between colons are printed as they are: shapes and paths are full of them.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def stderr() -> Console:
    """Console of progress, notes and errors."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_table(table: Table) -> None:
    """Print a table on stdout; where that is no terminal, as wide as the table needs."""
    console = stdout()
    if not console.is_terminal:
        console.width = max(WIDE, console.measure(table, options=console.options.update(max_width=100_000)).maximum)
    console.print(table, soft_wrap=False)


def print_json(command: str, **fields: Any) -> None:
    """Print one JSON document on stdout: ``schema_version``, ``command``, ``fields``, and ``model_notes`` if any."""
    from rtmo_deploy.cli.notes import notes_so_far

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


@contextlib.contextmanager
def status(first: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done; gives a function that changes it.

    On a terminal it is one line that goes away at the end, elsewhere one line a step.
    """
    console = stderr()
    if not console.is_terminal:

        def say(message: str) -> None:
            console.print(f"{message} ...")

        say(first)
        yield say
        return
    with console.status(first) as line:
        yield line.update


def facts_table(facts: Mapping[str, str]) -> Table:
    """Names and values in two columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    return table


@contextlib.contextmanager
def download_bar(description: str) -> Iterator[ProgressCallback]:
    """A bar on stderr, drawn from the first byte on; nothing where stderr is not a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(description, visible=False)

    def advance(done: int, total: int | None) -> None:
        bar.update(task, completed=done, total=total, visible=True)

    with bar:
        yield advance
