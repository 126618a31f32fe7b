"""``rtmo-deploy release``: a recipe becomes a folder that can be handed over. ``rtmo-deploy verify`` checks one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import print_facts, print_json, print_table
from rtmo_deploy.cli.options import JsonOption
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import described
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import plain
from rtmo_deploy.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.record import Release


def release(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What is built, measured and required.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Folder of the release. [default: releases/NAME]"),
    ] = None,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Run again this step and all that depends on it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and what is there already.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A gate that could not be measured here is a failure.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build, measure and judge what a recipe asks for; write artifacts, manifest, hashes and a report.

    Steps that nothing has changed for are not run again, and a run that was killed goes on where it was.
    Exit 6 if a gate did not pass.
    """
    with status("reading the recipe") as progress:
        from rtmo_deploy.release.pipeline import plan_release, run_release
        from rtmo_deploy.release.schema import load_release

        folder = output or Path("releases") / load_release(recipe).name
        require_free([folder / "manifest.json"], [recipe], force=True)
        if dry_run:
            planned = plan_release(recipe, folder, force=from_step)
        else:
            done = run_release(recipe, folder, force=from_step, strict=strict, progress=progress)
    if dry_run:
        _show_plan(planned, folder, as_json=as_json)
        return
    _show(done, as_json=as_json)
    if done.error is not None:
        raise done.error


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a release.")],
    as_json: JsonOption = False,
) -> None:
    """Compare every file of a release with its manifest; exit 6 if one is missing, changed or extra."""
    if directory.is_file():
        raise ArtifactError(
            f"It is {described(directory)}, and 'verify' takes the folder of a release.",
            remedy="Name the folder that holds manifest.json.",
            where=directory,
        )
    from rtmo_deploy.release.integrity import verify_release

    with status("comparing"):
        found = verify_release(directory)
    if as_json:
        print_json("verify", **plain(found), ok=found.ok)
    else:
        facts = {
            "release": f"{found.name} ({found.verdict} when it was made)",
            "compared": f"{found.checked} files",
            "result": "passed: every file is as it was made" if found.ok else "failed: not as it was made",
        }
        for name in ("changed", "missing", "extra"):
            if getattr(found, name):
                facts[name] = ", ".join(getattr(found, name))
        print_facts(facts)
    found.require_ok()


def _show_plan(planned: Sequence[tuple[Step, str]], folder: Path, *, as_json: bool) -> None:
    if as_json:
        steps = [{"name": step.name, "action": step.action, "cached": not why, "why": why} for step, why in planned]
        print_json("release", dry_run=True, directory=str(folder), steps=steps)
        return
    rows = [(step.name, step.action, "would run" if why else "cached", why) for step, why in planned]
    title = f"{sum(bool(why) for _, why in planned)} of {len(planned)} steps would be carried out"
    print_table(Table(title, ("step", "action", "", "why"), rows, numbers=False))


def _show(done: Release, *, as_json: bool) -> None:
    from collections import Counter

    from rtmo_deploy.release.integrity import read_manifest

    if as_json:
        print_json("release", dry_run=False, directory=str(done.folder), manifest=read_manifest(done.folder))
        return
    if done.gates:
        rows = [
            (gate.name, gate.status.value, gate.bound, gate.measured or "-", gate.message) for gate in done.ranked_gates
        ]
        print_table(Table("Gates", ("gate", "result", "bound", "measured", "note"), rows, numbers=False))
    counts = Counter(result.status.value for result in done.results.values())
    facts = {
        "verdict": done.verdict,
        "steps": ", ".join(f"{count} {name}" for name, count in counts.items()),
        "release": str(done.folder),
        "report": str(done.folder / "report.html"),
    }
    for result in done.results.values():
        if result.message:
            facts[f"{result.name} ({result.status.value})"] = result.message
    print_facts(facts)
