"""Where things are printed: the result on stdout, everything for people (progress, logs, errors) on stderr.

Commands import this module at their top: it loads Rich only when something is printed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
from typing import TYPE_CHECKING, Any

from rtmo_deploy.cli.document import notes_so_far, put
from rtmo_deploy.errors import RtmoDeployError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.report.table import Table

#: Columns that a table gets at least.
_NARROWEST = 20


def stdout() -> Console:
    """Console of the result. Made anew each time, so that a redirected stream is honoured.

    It is as wide as COLUMNS says, else as the terminal, else 80 columns. Square brackets and words between colons are
    printed as they are: shapes and paths are full of them.
    """
    from rtmo_deploy.cli.layout import VisibleConsole

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    width = max(_NARROWEST, shutil.get_terminal_size().columns)
    return VisibleConsole(
        file=sys.stdout, width=width, height=25, highlight=False, soft_wrap=True, markup=False, emoji=False
    )


def stderr() -> Console:
    """Console of progress, notes and errors."""
    from rtmo_deploy.cli.layout import Notes, VisibleConsole

    return VisibleConsole(file=sys.stderr, highlighter=Notes(), soft_wrap=True, markup=False, emoji=False)


def print_table(table: Table, *, marked: int | None = None, sections: Collection[int] = ()) -> None:
    """Print a table on stdout in the width that there is; one row can be red, and lines stand between sections."""
    from rtmo_deploy.cli.layout import lay_out_table

    lay_out_table(stdout(), table, marked=marked, sections=sections)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values in two columns on stdout."""
    from rtmo_deploy.cli.layout import lay_out_facts

    lay_out_facts(stdout(), facts)


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


@contextlib.contextmanager
def log_as_notes(name: str, level: int = logging.WARNING) -> Iterator[None]:
    """While it lasts, what a logger is told from this level on is printed on stderr, as notes."""
    logger, handler = logging.getLogger(name), logging.Handler(level)
    handler.emit = lambda record: stderr().print(f"Note: {record.getMessage()}")  # type: ignore[method-assign]
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)  # which also forgets what was not logged before
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def record_made(artifact: Artifact, *, command: str, source: Path | None = None) -> None:
    """Remember what a command made, for the next one; where that cannot be done, say so on stderr and go on."""
    from rtmo_deploy.cli.workspace import Workspace

    try:
        Workspace().record(artifact, command=command, source=source)
    except RtmoDeployError as error:
        stderr().print(f"Note: the next command has to be given this file's name. {error}")
