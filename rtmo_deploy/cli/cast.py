"""``rtmo-deploy cast``: a float32 ONNX model, or what is float32 in an INT8 one, becomes FP16 or BF16."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.console import print_facts, print_json, print_table
from rtmo_deploy.cli.given import beside, find_model
from rtmo_deploy.cli.options import ForceOption, JsonOption
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import ONNX
from rtmo_deploy.files import human_size
from rtmo_deploy.outputs import require_free, require_suffix
from rtmo_deploy.report.table import Table
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.convert.precision import CastResult
    from rtmo_deploy.convert.precision.verify import CastReport


def cast(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL.onnx", help="A float32 model as export wrote it, or an INT8 one as quantize wrote it."
        ),
    ],
    fp16: Annotated[bool, typer.Option("--fp16", help="IEEE FP16: 11 bits of precision, up to 65504.")] = False,
    bf16: Annotated[
        bool,
        typer.Option("--bf16", help="bfloat16: 8 bits of precision, the range of float32; raises the opset to 22."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. [default: MODEL.fp16.onnx or MODEL.bf16.onnx]"),
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not compare it with the source.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a model to FP16 or BF16 where that is safe; compare it with its source before it is written."""
    if fp16 == bf16:
        what = "Both --fp16 and --bf16 were given." if fp16 else "Neither --fp16 nor --bf16 was given."
        raise UsageError(what, remedy="Give one of them.")
    precision = "fp16" if fp16 else "bf16"
    require_suffix(output, ".onnx")
    source = find_model(model, "cast", ONNX)
    target = output or beside(model, source).with_suffix(f".{precision}.onnx")
    require_free([target], files_of(source, model), force=force)
    with status("loading") as progress:
        from rtmo_deploy.convert.precision import cast_onnx

        result = cast_onnx(source, target, precision, verify=not no_verify, progress=progress)
    if as_json:
        print_json("cast", **_as_dict(result))
    else:
        _print(result)


def _as_dict(result: CastResult) -> dict[str, Any]:
    return {
        "path": str(result.artifact.path),
        "source": str(result.source),
        "precision": result.artifact.precision,
        "half_nodes": result.half_nodes,
        "casts": result.casts,
        "fp32_nodes": dict(result.fp32_nodes),
        "kept": dict(result.kept),
        "size": result.size,
        "source_size": result.source_size,
        "seconds": round(result.seconds, 3),
        "artifact": result.artifact.to_dict(),
    }


def _print(result: CastResult) -> None:
    artifact, report = result.artifact, result.verification
    fp32_nodes = ", ".join(f"{name} {count}" for name, count in result.fp32_nodes.items())
    facts = {
        "file": f"{artifact.path} ({human_size(result.size)}, {result.size / result.source_size:.0%} of the source)",
        "precision": f"{artifact.precision}: {result.half_nodes} nodes, {result.casts} casts; inputs, outputs float32",
        "float32": f"{sum(result.fp32_nodes.values())} nodes ({fp32_nodes})",
    }
    if result.kept:
        facts["also float32"] = "; ".join(f"{node}: {why}" for node, why in result.kept.items())
    if artifact.companion:
        facts["companion"] = f"{artifact.companion.name} (unchanged)"
    if report is None:
        facts["verified"] = "not verified (--no-verify)"
    elif report.not_run:
        facts["verified"] = f"passed, emulated only: the file itself was not run here: {report.not_run}"
    else:
        facts["verified"] = "passed: emulated, and run as it is"
    if report is not None:
        facts["largest value"] = f"{report.peak:.4g} ({report.peak_node})"
    facts["time"] = f"{result.seconds:.1f} s"
    print_facts(facts)
    if report is not None:
        _print_report(report)


def _print_report(report: CastReport) -> None:
    from rtmo_deploy.convert.precision.verify import EMULATED
    from rtmo_deploy.measure.bounds import AMPLIFICATION
    from rtmo_deploy.measure.comparison import Figures

    bounds = report.bounds
    caption = (
        f"Bounds: keypoints {bounds.keypoint_mean_px:g} px on average, {bounds.keypoint_max_px:g} px at worst; "
        f"boxes {bounds.box_px:g} px; scores {bounds.score:g}, of keypoints {bounds.keypoint_score:g}; "
        f"{bounds.unmatched:.0%} of people unmatched; or {AMPLIFICATION:g} times what rounding weights alone costs."
    )
    headings = ("input", "run", "people", "unmatched", "keypoint px, mean", "worst", "box px, worst", "score")
    rows, shape = [], None
    for case in report.cases:
        runs = [("rounding emulated" if case.run == EMULATED else case.run, case.people)]
        if case.shape != shape:
            shape = case.shape
            runs.insert(0, ("source, weights rounded", case.rounding))
        for run, figures in runs:
            d = figures or Figures()
            score = max(d.score_max or 0.0, d.keypoint_score_max or 0.0)
            errors = (d.keypoint_px_mean, d.keypoint_px_max, d.box_px_max, score)
            rows.append([case.shape, run, str(d.people_a), str(d.unmatched), *(f"{one or 0.0:.1e}" for one in errors)])
    print_table(Table(f"Distance from {report.reference}", headings, rows, caption, numbers=False))
