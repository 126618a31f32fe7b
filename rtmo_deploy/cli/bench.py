"""``rtmo-deploy bench``: how fast a model is, stage by stage, and whether it became slower."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.options import (
    DeviceOption,
    ForceOption,
    IgnoreCfgOption,
    InputSizeOption,
    MaxPixelsOption,
    find_model,
    require_data,
    require_device,
)
from rtmo_deploy.file_kind import CHECKPOINT
from rtmo_deploy.outputs import require_free
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.measure.bench import BaselineReport, BenchOptions, BenchResult
    from rtmo_deploy.measure.bench.tables import Table


class ProtocolChoice(StrEnum):
    """What is inside a number."""

    E2E = "e2e"
    V100 = "v100"


class SpinningChoice(StrEnum):
    """What ONNX Runtime's idle threads do."""

    STOP = "stop"
    ON = "on"
    OFF = "off"


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Checkpoints, exported models, or published ones' names. [default: what was last built here]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "cpu",
    backend: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME...]", help="Runtimes. [default: the one that fits each file]")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="Images a call. [default: 1, or what the model has fixed]")
    ] = None,
    imgsz: InputSizeOption = None,
    people: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]", help="Synthetic images with so many people each, 0 to 60. [default: 1 to 12, mixed]"
        ),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="CPU threads. [default: the runtime's choice]")
    ] = None,
    protocol: Annotated[
        ProtocolChoice,
        typer.Option(
            help="e2e: from the file to the poses, stage by stage, and drawing beside it. v100: what MMDeploy's "
            "profiler measures: the network alone, batch 1, 10 calls unmeasured and 100 measured."
        ),
    ] = ProtocolChoice.E2E,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Images. [default: synthetic ones]")] = None,
    duration: Annotated[float, typer.Option(metavar="S", help="Measured seconds for each model in each case.")] = 5.0,
    warmup: Annotated[float, typer.Option(metavar="S", help="Unmeasured seconds before.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that the seconds are split into; models take turns.")] = 10,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="CKPT", help="Checkpoint for PyTorch, the reference. [default: the model's own, if found]"
        ),
    ] = None,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="Leave PyTorch out; compare with the first model.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure PyTorch compiled as well.")] = False,
    spinning: Annotated[
        SpinningChoice,
        typer.Option(
            help="ONNX Runtime's idle threads. stop: spin within a call, not after it. on: its default. off: never."
        ),
    ] = SpinningChoice.STOP,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Compare with an earlier --json; exit 6 if slower.")
    ] = None,
    max_slowdown: Annotated[
        str | None, typer.Option(metavar="SHARE", help="How much slower may be. [default: 5%]")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write every stage as a line.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write one page with plots.")] = None,
    md_file: Annotated[Path | None, typer.Option("--md", metavar="FILE", help="Write tables in Markdown.")] = None,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Measure models side by side, each in a process of its own, in turns."""
    from rtmo_deploy.cli.progress import status
    from rtmo_deploy.errors import UsageError
    from rtmo_deploy.measure.bench.options import BenchOptions, Protocol, Spinning, parse_counts, parse_share

    if max_slowdown is not None and baseline is None:
        raise UsageError("--max-slowdown needs something to compare with.", remedy="Give --baseline FILE.json.")
    require_free([csv_file, html_file, md_file], files_of(*(models or ()), images, reference, baseline), force=force)
    bound = parse_share(max_slowdown or "5%", "max-slowdown")
    batches = parse_counts(batch, "batch")
    counts = parse_counts(people, "people", least=0)
    sweep = parse_counts(threads, "threads") or (None,)
    backends = tuple(dict.fromkeys(name.strip() for name in backend.split(","))) if backend else ()
    options = BenchOptions(
        models=tuple(map(Path, models or ("the last",))),
        backends=backends,
        device=device,
        batches=batches,
        threads=sweep,
        people=counts,
        input_hw=imgsz,
        protocol=Protocol(protocol.value),
        images=images,
        seconds=duration,
        warmup_s=warmup,
        rounds=rounds,
        reference=reference,
        no_reference=no_reference,
        compiled=compiled,
        spinning=Spinning(spinning.value),
    )
    require_data("bench", images=[images])
    require_device(device)
    before = _baseline(baseline, options)
    found = None if reference is None else find_model(reference, "bench --reference", CHECKPOINT)
    options = replace(options, models=_locate(models), reference=found)
    require_free([csv_file, html_file, md_file], files_of(*options.models, found), force=force)
    with status("getting ready") as progress:
        from rtmo_deploy.measure.bench import run_bench

        result = run_bench(options, progress=progress)
    report = _judge(result, before, bound, baseline)
    _show(result, report, as_json=as_json)
    _write(result, report, csv_file, html_file, md_file)
    if report is not None:
        _gate(report)


def _locate(models: list[str] | None) -> tuple[Path, ...]:
    if not models:
        return (_last_built(),)
    return tuple(dict.fromkeys(find_model(model, "bench") for model in models))


def _last_built() -> Path:
    """What this directory last built.

    Raises:
        UsageError: Nothing was.
        ArtifactError: It was moved or changed since.
    """
    from rtmo_deploy.cli.console import stderr
    from rtmo_deploy.release.workspace import Workspace

    path, entry = Workspace().last()
    stderr().print(f"No model was named; this is about {path}, made by '{entry.command}' on {entry.made}.")
    return path


def _baseline(file: Path | None, options: BenchOptions) -> dict[str, Any] | None:
    """The baseline, refused before anything is measured if it could not be compared."""
    if file is None:
        return None
    from rtmo_deploy.measure.bench.baseline_file import load_baseline, require_comparable

    document = load_baseline(file)
    require_comparable(document, options, file)
    return document


def _judge(
    result: BenchResult, before: dict[str, Any] | None, bound: float, file: Path | None
) -> BaselineReport | None:
    if before is None or file is None:
        return None
    from rtmo_deploy.measure.bench import compare_with_baseline

    return compare_with_baseline(result.to_dict(), before, bound, file=file.name)


def _show(result: BenchResult, report: BaselineReport | None, *, as_json: bool) -> None:
    from rtmo_deploy.cli.console import facts_table, print_json, print_table, stderr
    from rtmo_deploy.measure.bench.tables import baseline_table, facts, result_tables

    if as_json:
        print_json("bench", **result.to_dict(), baseline=None if report is None else report.to_dict())
    else:
        print_table(facts_table(facts(result)))
        tables = result_tables(result) + ([] if report is None else [baseline_table(report)])
        for table in tables:
            print_table(_rich(table))
    for note in (*result.warnings, *(() if report is None else report.notes)):
        stderr().print(f"Note: {note}")


def _rich(table: Table) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(table.title), caption=Text(table.caption) if table.caption else None)
    for place, heading in enumerate(table.headings):
        shown.add_column(Text(heading), justify="left" if place == 0 else "right")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _write(
    result: BenchResult,
    report: BaselineReport | None,
    csv_file: Path | None,
    html_file: Path | None,
    md_file: Path | None,
) -> None:
    from rtmo_deploy.cli.console import stderr
    from rtmo_deploy.files import atomic_write
    from rtmo_deploy.measure.bench.page import to_html
    from rtmo_deploy.measure.bench.tables import to_csv, to_markdown

    wanted = (
        (csv_file, to_csv(result)),
        (html_file, to_html(result, report)),
        (md_file, to_markdown(result, report)),
    )
    for file, text in wanted:
        if file is not None:
            with atomic_write(file) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")
            stderr().print(f"{file} was written.")


def _gate(report: BaselineReport) -> None:
    from rtmo_deploy.errors import GateFailedError
    from rtmo_deploy.measure.bench.tables import blamed, percent_change

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
