"""``rtmo-deploy bench``: how fast a model is, stage by stage, and whether it became slower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.console import print_facts, print_json, print_table, stderr
from rtmo_deploy.cli.given import find_model, require_data, require_device
from rtmo_deploy.cli.options import (
    ForceOption,
    IgnoreCfgOption,
    InputSizeOption,
    JsonOption,
    MaxPixelsOption,
    options_of,
)
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import GateFailedError, UsageError
from rtmo_deploy.file_kind import CHECKPOINT
from rtmo_deploy.files import write_whole
from rtmo_deploy.measure.bench.options import BenchOptions, parse_share
from rtmo_deploy.outputs import require_free
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.measure.bench import BaselineReport, BenchResult

#: Share of its time by which a model may be slower than the baseline.
DEFAULT_SLOWDOWN = 0.05


@options_of(BenchOptions, input_hw=InputSizeOption)
def bench(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Checkpoints, exported models, or published ones' names. [default: what was last built here]",
            show_default=False,
        ),
    ] = None,
    options: BenchOptions,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Compare with an earlier --json; exit 6 if slower.")
    ] = None,
    max_slowdown: Annotated[
        float | None,
        typer.Option(parser=parse_share, metavar="SHARE", help="How much slower may be. [default: 5%]"),
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write every stage as a line.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write one page with plots.")] = None,
    md_file: Annotated[Path | None, typer.Option("--md", metavar="FILE", help="Write tables in Markdown.")] = None,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Measure models side by side, each in a process of its own, in turns."""
    if max_slowdown is not None and baseline is None:
        raise UsageError("--max-slowdown needs something to compare with.", remedy="Give --baseline FILE.json.")
    reports = {"csv": csv_file, "html": html_file, "md": md_file}
    inputs = (*(models or ()), options.images, options.reference, baseline)
    require_free(reports.values(), files_of(*inputs), force=force)
    require_data("bench", images=[options.images])
    require_device(options.device)
    before = _load(baseline, options)
    found = options.reference and find_model(options.reference, "bench --reference", CHECKPOINT)
    located = tuple(dict.fromkeys(find_model(model, "bench") for model in models or ())) or (_last_built(),)
    options = replace(options, models=located, reference=found)
    require_free(reports.values(), files_of(*located, found), force=force)
    with status("getting ready") as progress:
        from rtmo_deploy.measure.bench import compare_with_baseline, run_bench

        result = run_bench(options, progress=progress)
    report = None
    if baseline is not None and before is not None:
        bound = DEFAULT_SLOWDOWN if max_slowdown is None else max_slowdown
        report = compare_with_baseline(result.to_dict(), before, bound, file=baseline.name)
    try:
        _show(result, report, as_json=as_json)
    finally:  # even if nobody reads stdout
        _write(result, report, reports)
    if report is not None:
        _gate(report)


def _last_built() -> Path:
    """What this directory last built."""
    from rtmo_deploy.cli.workspace import Workspace

    path, entry = Workspace().last()
    stderr().print(f"No model was named; this is about {path}, made by '{entry.command}' on {entry.made}.")
    return path


def _load(baseline: Path | None, options: BenchOptions) -> dict[str, Any] | None:
    """The baseline, refused before anything is measured if it could not be compared."""
    if baseline is None:
        return None
    from rtmo_deploy.measure.bench.baseline import load_baseline, require_comparable

    document = load_baseline(baseline)
    require_comparable(document, options, baseline)
    return document


def _show(result: BenchResult, report: BaselineReport | None, *, as_json: bool) -> None:
    from rtmo_deploy.measure.bench.report import baseline_table, facts, result_tables

    if as_json:
        print_json("bench", **result.to_dict(), baseline=None if report is None else report.to_dict())
    else:
        print_facts(facts(result))
        tables = result_tables(result) + ([] if report is None else [baseline_table(report)])
        for table in tables:
            print_table(table)
    for note in (*result.warnings, *(() if report is None else report.notes)):
        stderr().print(f"Note: {note}")


def _write(result: BenchResult, report: BaselineReport | None, reports: dict[str, Path | None]) -> None:
    from rtmo_deploy.measure.bench.report import to_csv, to_html, to_markdown

    for kind, file in reports.items():
        if file is not None:
            text = to_csv(result) if kind == "csv" else (to_html if kind == "html" else to_markdown)(result, report)
            write_whole(file, text)
            stderr().print(f"{file} was written.")


def _gate(report: BaselineReport) -> None:
    from rtmo_deploy.measure.bench.report import blamed, percent_change

    if report.slower:
        named = "; ".join(f"{row.label} {percent_change(row)}{blamed(row)}" for row in report.slower)
        raise GateFailedError(
            f"Slower than the baseline by more than {report.max_slowdown:.1%}, and beyond the noise: {named}.",
            remedy="Look at the stages to see which one it is.",
            where=report.file,
        )
    if not report.compared:
        reasons = "; ".join(dict.fromkeys(row.reason for row in report.rows)) or "they have nothing in common"
        raise GateFailedError(
            f"Nothing could be compared with the baseline, so nothing was passed: {reasons}.",
            remedy="Measure the baseline again, with the same models and options.",
            where=report.file,
        )
