"""``rtmo-deploy doctor``: what of this machine can be used, what is broken, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from rtmo_deploy.doctor import Report, Row

_STYLES = {"fine": "green", "warning": "yellow", "broken": "bold red", "absent": "dim"}


def doctor(
    timeout: Annotated[float, typer.Option(metavar="S", min=1, help="Timeout of each probe, in seconds.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Check Python, the runtimes, the GPU and the folders, and say what is broken and how to mend it.

    Each is tried in a process of its own. The exit code is 5 if something that is installed is broken.
    """
    from rtmo_deploy.cli.console import print_json, print_table
    from rtmo_deploy.cli.progress import status
    from rtmo_deploy.doctor import collect, judge
    from rtmo_deploy.errors import SetupError

    with status("looking") as progress:
        report = judge(collect(timeout=timeout, progress=progress))
    if as_json:
        print_json("doctor", **report.to_dict())
    else:
        print_table(_table(report))
    if report.broken:
        names = ", ".join(row.name for row in report.broken)
        verb = "is" if len(report.broken) == 1 else "are"
        raise SetupError(f"What is installed {verb} broken: {names}.", remedy="The row of each tells what to do.")


def _table(report: Report) -> Table:
    from rich.table import Table

    counts = ", ".join(f"{number} {verdict}" for verdict, number in report.counts.items() if number)
    table = Table(title=counts)
    for heading in ("", "what", "finding and remedy"):
        table.add_column(heading)
    area = report.rows[0].area
    for row in report.rows:
        if row.area != area:
            table.add_section()
            area = row.area
        _add(table, row)
    return table


def _add(table: Table, row: Row) -> None:
    from rich.text import Text

    told = Text(row.finding)
    if row.remedy:
        # A command on a line of its own is copied in one piece.
        remedy = row.remedy.replace(": pip ", ":\n   pip ")
        told.append(f"\n-> {remedy}", style="cyan")
    style = _STYLES[row.verdict]
    table.add_row(Text(row.verdict, style=style), Text(row.name), told)
