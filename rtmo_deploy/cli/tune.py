"""``rtmo-deploy tune``: which runtime and precision are fastest for a model on this CPU, and find the same people."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtmo_deploy.cli.console import log_as_notes, print_facts, print_json, print_table, stderr
from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.options import InputSizeOption, JsonOption, MaxPixelsOption, ThreadsOption
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import GRAPH
from rtmo_deploy.report.table import Table

if TYPE_CHECKING:
    from rtmo_deploy.runtime.choice import Decision


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX model, or an OpenVINO model (.xml).")],
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of sample images; the first 24 count. [default: 12 synthetic ones]"),
    ] = None,
    imgsz: InputSizeOption = None,
    threads: ThreadsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again, even if there is a decision.")] = False,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Measure which runtime and precision are fastest on this CPU, among those that find the same people.

    The decision is kept; 'predict', 'eval' and the Python API take it with precision 'auto'.
    """
    path = find_model(model, "tune", GRAPH)
    from rtmo_deploy.measure.tune.run import TuneOptions, to_dict
    from rtmo_deploy.measure.tune.run import tune as decide

    options = TuneOptions(threads=threads, input_hw=imgsz, images=images, force=force)
    with status("getting ready") as progress, log_as_notes("rtmo_deploy", logging.WARNING):
        decision = decide(path, options, progress=progress)
    if as_json:
        print_json("tune", model=str(path), **to_dict(decision))
    else:
        _show(path, decision)
    for note in decision.facts.get("notes", ()):
        stderr().print(f"Note: {note}")
    if decision.chosen is None:
        raise ArtifactError(
            "Nothing was accepted: no candidate runs here and finds the same people as the reference.",
            remedy="Look at the reasons in the table.",
            where=path,
        )


def _show(path: Path, decision: Decision) -> None:
    from rtmo_deploy.measure.tune.run import verdict_of

    rows = []
    for one in decision.trials:
        times = decision.speedup(one)
        judged = one.people is not None
        rows.append(
            (
                *(f"{one.backend}, {one.precision}", one.file or "-"),
                "-" if one.ms is None else f"{one.ms:.2f}",
                "-" if times is None else f"{times:.2f}",
                f"{one.matched}/{one.missed}/{one.extra}" if judged else "-",
                "-" if one.oks is None else f"{one.oks:.4f}",
                "-" if one.shift_px is None else ", ".join(f"{round(value, 2) + 0:.2f}" for value in one.shift_px),
                "-" if one.distance_px is None else f"{one.distance_px:.2f}",
                verdict_of(decision, one),
            )
        )
    headings = ("runtime", "file", "ms", "times as fast", "people", "OKS", "shift px", "px", "verdict")
    caption = (
        "Times as fast: as the first. People: matched/missed/extra. Shift: mean signed displacement in x, y; px: "
        "median distance of keypoints; both in pixels of the network input."
    )
    print_table(Table(str(path), headings, rows, caption, numbers=False))
    facts, load = decision.facts, decision.facts.get("load", {})
    height, width = facts.get("input_hw", ("?", "?"))
    average, busy = load.get("average"), load.get("busy")
    print_facts(
        {
            "CPU": f"{facts.get('cpu')}, {facts.get('cores')} cores",
            "flags": " ".join(facts.get("flags", ())),
            "threads": str(facts.get("threads") or "the runtime's choice"),
            "load": f"{_figure(average, '.2f')} average, {_figure(busy, '.0%')} used by others before",
            "versions": ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items()),
            "input": f"{height}x{width}, one image",
            "samples": str(facts.get("images")),
            "reference": str(facts.get("reference")),
            "measured": str(facts.get("measured")),
        }
    )


def _figure(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{value:{form}}"
