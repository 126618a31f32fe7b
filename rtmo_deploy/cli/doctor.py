"""``rtmo-deploy doctor``: what of this machine can be used, what is broken, and what to do about it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import print_json, print_table
from rtmo_deploy.cli.options import JsonOption
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import SetupError
from rtmo_deploy.report.table import Table

if TYPE_CHECKING:
    from rtmo_deploy.doctor import Report, Row


def doctor(
    timeout: Annotated[float, typer.Option(metavar="S", min=1, help="Timeout of each probe, in seconds.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Check Python, the runtimes, the GPU and the folders, and say what is broken and how to mend it.

    Each is tried in a process of its own. The exit code is 5 if something that is installed is broken.
    """
    from rtmo_deploy.doctor import collect, judge

    with status("probing") as progress:
        report = judge(collect(timeout=timeout, progress=progress))
    if as_json:
        print_json("doctor", **report.to_dict())
    else:
        _print(report)
    if report.broken:
        names = ", ".join(row.name for row in report.broken)
        raise SetupError(f"What is installed is broken: {names}.", remedy="The row of each tells what to do.")


def _print(report: Report) -> None:
    counts = ", ".join(f"{number} {verdict}" for verdict, number in report.counts.items() if number)
    rows = [(row.verdict, row.name, row.finding + _remedy(row)) for row in report.rows]
    pairs = enumerate(pairwise(report.rows))
    ends = [place for place, (row, following) in pairs if row.area != following.area]
    print_table(Table(counts, ("", "what", "finding and remedy"), rows, numbers=False), sections=ends)


def _remedy(row: Row) -> str:
    # A command on a line of its own is copied in one piece.
    return "\n-> " + row.remedy.replace(": pip ", ":\n   pip ") if row.remedy else ""
