"""Where things are printed: the result on stdout, everything for people (progress, logs, errors) on stderr."""

from __future__ import annotations

import io
import shutil
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.highlighter import RegexHighlighter

from rtmo_deploy.cli.document import put

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.table import Table

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
    from rtmo_deploy.cli.tables import print_fitted

    print_fitted(stdout(), table)


def print_result(text: str, style: str = "green") -> None:
    """Print one line on stdout that says how it ended; green for success."""
    stdout().print(text, style=style, soft_wrap=False, overflow="fold")


def facts_table(facts: Mapping[str, str]) -> Table:
    """Names and values in two columns."""
    from rtmo_deploy.cli import tables

    return tables.facts_table(facts)


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
    from rtmo_deploy.cli.workspace import Workspace
    from rtmo_deploy.errors import RtmoDeployError

    try:
        Workspace().record(artifact, command=command, source=source)
    except RtmoDeployError as error:
        stderr().print(f"Note: the next command has to be given this file's name. {error}")
