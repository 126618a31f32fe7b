"""``rtmo-deploy diff``: is a release worse than the one before?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import print_facts, print_json, print_table, stderr, stdout
from rtmo_deploy.cli.options import ForceOption, JsonOption, options_of
from rtmo_deploy.cli.progress import status
from rtmo_deploy.release.comparison.options import DiffOptions

if TYPE_CHECKING:
    from rtmo_deploy.release.comparison import ReleaseDiff


@options_of(DiffOptions)
def diff(
    *,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of the earlier release.", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the release to judge.", show_default=False)],
    options: DiffOptions,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write one page.")] = None,
    md_file: Annotated[
        Path | None,
        typer.Option(
            "--md",
            metavar="FILE",
            help="Write Markdown for a pull request; appended, if FILE is that of $GITHUB_STEP_SUMMARY.",
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a release with an earlier one: artifacts, gates, AP, parity, latency, sizes and files.

    Exit 6 if NEW is worse than a bound allows. What could not be compared is no pass.
    """
    from rtmo_deploy.release.comparison import compare_releases
    from rtmo_deploy.release.comparison.documents import require_outputs, write_documents

    require_outputs(old, new, html_file, md_file, force=force)
    with status("comparing"):
        found = compare_releases(old, new, options)
    try:
        _show(found, as_json=as_json)
    finally:  # even if nobody reads stdout
        for file in write_documents(found, html_file, md_file):
            stderr().print(f"{file} was written.")
    if found.error is not None:
        raise found.error


def _show(found: ReleaseDiff, *, as_json: bool) -> None:
    from rtmo_deploy.release.comparison.documents import heads, tables

    if as_json:
        print_json("diff", **found.to_dict())
        return
    for table in tables(found):
        print_table(table)
    if found.recipe:
        stdout().print("\nRecipe", style="bold")
        for line in found.recipe:
            stdout().print(line, style={"+": "green", "-": "red"}.get(line[0]) if line else None)
    stdout().print()
    print_facts({**heads(found), "verdict": f"{found.verdict}: {found.sentence}"})
    for note in found.notes:
        stderr().print(f"Note: {note}")
