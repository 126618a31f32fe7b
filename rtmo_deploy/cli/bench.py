"""``rtmo-deploy bench``: how fast a model is, stage by stage, and whether it became slower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.given import find_model, require_data, require_device
from rtmo_deploy.cli.options import DeviceOption, ForceOption, IgnoreCfgOption, InputSizeOption, MaxPixelsOption
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import CHECKPOINT
from rtmo_deploy.measure.bench.options import BenchOptions, Protocol, Spinning, parse_counts, parse_share
from rtmo_deploy.outputs import require_free
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.measure.bench import BaselineReport, BenchResult


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
        Protocol,
        typer.Option(
            help="e2e: from the file to the poses, stage by stage, and drawing beside it. v100: what MMDeploy's "
            "profiler measures: the network alone, batch 1, 10 calls unmeasured and 100 measured."
        ),
    ] = Protocol.E2E,
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
        Spinning,
        typer.Option(
            help="ONNX Runtime's idle threads. stop: spin within a call, not after it. on: its default. off: never."
        ),
    ] = Spinning.STOP,
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

    if max_slowdown is not None and baseline is None:
        raise UsageError("--max-slowdown needs something to compare with.", remedy="Give --baseline FILE.json.")
    reports = {"csv": csv_file, "html": html_file, "md": md_file}
    require_free(reports.values(), files_of(*(models or ()), images, reference, baseline), force=force)
    bound = parse_share(max_slowdown or "5%", "max-slowdown")
    options = BenchOptions(
        models=tuple(map(Path, models or ("the last",))),
        backends=tuple(dict.fromkeys(name.strip() for name in backend.split(","))) if backend else (),
        device=device,
        batches=parse_counts(batch, "batch"),
        threads=parse_counts(threads, "threads") or (None,),
        people=parse_counts(people, "people", least=0),
        input_hw=imgsz,
        protocol=protocol,
        images=images,
        seconds=duration,
        warmup_s=warmup,
        rounds=rounds,
        reference=reference,
        no_reference=no_reference,
        compiled=compiled,
        spinning=spinning,
    )
    require_data("bench", images=[images])
    require_device(device)
    before = _load(baseline, options)
    found = None if reference is None else find_model(reference, "bench --reference", CHECKPOINT)
    options = replace(options, models=_locate(models), reference=found)
    require_free(reports.values(), files_of(*options.models, found), force=force)
    with status("getting ready") as progress:
        from rtmo_deploy.measure.bench import compare_with_baseline, run_bench

        result = run_bench(options, progress=progress)
    report = None
    if baseline is not None and before is not None:
        report = compare_with_baseline(result.to_dict(), before, bound, file=baseline.name)
    _show(result, report, as_json=as_json)
    _write(result, report, reports)
    if report is not None:
        _gate(report)


def _locate(models: list[str] | None) -> tuple[Path, ...]:
    if not models:
        return (_last_built(),)
    return tuple(dict.fromkeys(find_model(model, "bench") for model in models))


def _last_built() -> Path:
    """What this directory last built."""
    from rtmo_deploy.cli.console import stderr
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
    from rtmo_deploy.cli.console import facts_table, print_json, print_table, stderr
    from rtmo_deploy.measure.bench.report import baseline_table, facts, result_tables

    if as_json:
        print_json("bench", **result.to_dict(), baseline=None if report is None else report.to_dict())
    else:
        print_table(facts_table(facts(result)))
        tables = result_tables(result) + ([] if report is None else [baseline_table(report)])
        for table in tables:
            print_table(table.rich())
    for note in (*result.warnings, *(() if report is None else report.notes)):
        stderr().print(f"Note: {note}")


def _write(result: BenchResult, report: BaselineReport | None, reports: dict[str, Path | None]) -> None:
    from rtmo_deploy.cli.console import stderr
    from rtmo_deploy.files import atomic_write
    from rtmo_deploy.measure.bench.report import to_csv, to_html, to_markdown

    for kind, file in reports.items():
        if file is not None:
            text = to_csv(result) if kind == "csv" else (to_html if kind == "html" else to_markdown)(result, report)
            with atomic_write(file) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")
            stderr().print(f"{file} was written.")


def _gate(report: BaselineReport) -> None:
    from rtmo_deploy.errors import GateFailedError
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
