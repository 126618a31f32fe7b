"""``rtmo-deploy export``: a checkpoint becomes an ONNX or OpenVINO model, verified before it is written."""

from __future__ import annotations

import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.options import ForceOption, IgnoreCfgOption, InputSizeOption
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import FileKind
from rtmo_deploy.files import require_free
from rtmo_deploy.runtime.model_files import files_of
from rtmo_deploy.wanted import CHECKPOINT, ONNX, likely_kind

if TYPE_CHECKING:
    from rtmo_deploy.convert.export import ExportResult
    from rtmo_deploy.convert.options import DecodeOptions
    from rtmo_deploy.measure.verify import VerificationReport


class Format(StrEnum):
    """What a checkpoint can be exported to."""

    ONNX = "onnx"
    OPENVINO = "openvino"


class Decode(StrEnum):
    """Where people are made of head outputs."""

    ONNX = "onnx"
    FIXED = "fixed"
    RAW = "raw"


class Letterbox(StrEnum):
    """Where clients put the picture."""

    CENTER = "center"
    TOP_LEFT = "top-left"


def export(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="A .pth or .safetensors file, or a published model's name; for openvino also an .onnx file.",
        ),
    ],
    format_name: Annotated[str, typer.Option("--format", metavar="onnx|openvino", help="What to write.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. [default: the checkpoint's name, beside it]"),
    ] = None,
    decode: Annotated[
        Decode,
        typer.Option(
            help="onnx: NonMaxSuppression in the graph, N dynamic. fixed: plain tensor operators, N = --max-dets. "
            "raw: head tensors."
        ),
    ] = Decode.ONNX,
    imgsz: InputSizeOption = None,
    static: Annotated[bool, typer.Option("--static", help="Bake height, width and batch in.")] = False,
    batch: Annotated[
        int | None, typer.Option(help="Bake this batch size in. [default: dynamic; 1 with --static]")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 17 to 20.")] = 17,
    score_thr: Annotated[
        float | None, typer.Option(help="Scores must be above this. [default: the model's, 0.1]")
    ] = None,
    nms_thr: Annotated[
        float | None, typer.Option(help="Suppress overlaps above this IoU. [default: the model's, 0.65]")
    ] = None,
    max_dets: Annotated[
        int | None, typer.Option(help="Most detections in an image. [default: 1000; fixed: 100]")
    ] = None,
    pre_topk: Annotated[
        int | None, typer.Option(help="Candidates before suppression. [default: all; fixed: 300]")
    ] = None,
    min_rows: Annotated[
        int | None,
        typer.Option(help="Rows of output there are at least; 1 for rtmlib, which cannot take none. [default: 0]"),
    ] = None,
    letterbox: Annotated[
        Letterbox,
        typer.Option(help="Placement recorded for clients: center as in training, top-left as rtmlib does."),
    ] = Letterbox.CENTER,
    ema: Annotated[
        bool,
        typer.Option("--ema", help="Take ema_state_dict: mmengine's raw weights; its state_dict holds the averaged."),
    ] = False,
    dump_info: Annotated[
        bool, typer.Option("--dump-info", help="Also write deploy.json, pipeline.json and detail.json.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not check the model nor compare it with PyTorch.")
    ] = False,
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Export a checkpoint to ONNX; check it and compare it with PyTorch before it is written.

    --format openvino goes on from there: the ONNX model stays beside the .xml and .bin files made of it.
    """
    from rtmo_deploy.cli.console import print_json, record_made, stderr
    from rtmo_deploy.cli.progress import status
    from rtmo_deploy.convert.options import ExportOptions

    output_format = _format(format_name, checkpoint, output)
    settings = {
        "score_thr": score_thr,
        "nms_thr": nms_thr,
        "max_dets": max_dets,
        "pre_topk": pre_topk,
        "min_rows": min_rows,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    # Before anything heavy is loaded: what was asked for must make sense.
    options = ExportOptions(
        decode=_decode_options(decode, given),
        input_hw=imgsz,
        static=static,
        batch=batch,
        opset=opset,
        placement=letterbox.value,
    )
    suffix = ".xml" if output_format is Format.OPENVINO else ".onnx"
    if output is not None and output.suffix.lower() != suffix:
        other = " or add --format openvino" if output.suffix.lower() == ".xml" else ""
        raise UsageError(f"The output is called {output.name}.", remedy=f"Give it the suffix {suffix}{other}.")
    if dump_info and decode is Decode.RAW:
        raise UsageError(
            "--dump-info does not apply to --decode raw: MMDeploy's SDK cannot decode a raw graph.",
            remedy="Leave it away, or choose --decode onnx or fixed.",
        )
    if output_format is Format.OPENVINO:
        from rtmo_deploy.cli.export_openvino import convert, require_no_onnx_options
        from rtmo_deploy.runtime.openvino_backend import import_openvino

        import_openvino("Converting to OpenVINO")  # said before anything is exported
        source = Path(checkpoint)
        if likely_kind(source) is FileKind.ONNX:
            require_no_onnx_options(context)
            find_model(source, "export", ONNX)
            target = output or source.with_suffix(".xml")
            require_free([target, target.with_suffix(".bin")], files_of(source), force=force)
            convert(source, target, verify=not no_verify, as_json=as_json)
            return
    own = os.path.isfile(checkpoint)  # noqa: PTH113 - a name that no file can have is none
    if own:
        find_model(checkpoint, "export", CHECKPOINT)
    target = output or (Path(checkpoint).with_suffix(".onnx") if own else Path(f"{checkpoint}.onnx"))
    outputs = _outputs(target, output_format, decode, dump_info=dump_info)
    require_free(outputs, [checkpoint], force=force)
    target = outputs[0]
    path = find_model(checkpoint, "export", CHECKPOINT)
    with status("reading the checkpoint") as progress:
        from rtmo_deploy.convert.export import export_onnx
        from rtmo_deploy.model import load_checkpoint

        loaded = load_checkpoint(path, ema=ema)
        result = export_onnx(loaded, target, options, verify=not no_verify, progress=progress)
        infos = []
        if dump_info:
            from rtmo_deploy.convert.sdk_info import dump_sdk_info

            infos = dump_sdk_info(result.artifact)
    known = loaded.spec.architecture
    differing = loaded.taken.differing(known.input_hw if known else None)
    for note in loaded.taken.notes:
        stderr().print(f"cfg: {note}", markup=False)
    record_made(result.artifact, command="export", source=path)
    if output_format is Format.OPENVINO:
        convert(target, output or target.with_suffix(".xml"), verify=not no_verify, as_json=as_json)
    elif as_json:
        print_json("export", **_as_dict(result, infos), from_cfg=differing, notes=list(loaded.taken.notes))
    else:
        _print(result, infos, differing)


def _outputs(target: Path, output_format: Format, decode: Decode, *, dump_info: bool) -> list[Path]:
    """Every file that an export writes; the ONNX model is the first."""
    outputs = [target.with_suffix(".onnx")]
    if output_format is Format.OPENVINO:
        outputs += [target.with_suffix(".xml"), target.with_suffix(".bin")]
    if decode is Decode.RAW:
        outputs += [target.with_name(f"{target.stem}.dcc.onnx")]
    if dump_info:
        outputs += [target.with_name(f"{name}.json") for name in ("deploy", "pipeline", "detail")]
    return outputs


def _format(name: str, checkpoint: str, output: Path | None) -> Format:
    """What is to be written; a TensorRT engine has a command of its own.

    Raises:
        UsageError: It is nothing that this command writes.
    """
    engine = output is not None and output.suffix.lower() in {".engine", ".plan"}
    if engine or name.lower() in {"engine", "plan", "trt", "tensorrt", "tensorrt-rtx"}:
        to = f" -o {shlex.quote(str(output))}" if engine else ""
        raise UsageError(
            "'export' writes no TensorRT engines; 'build-trt' does, from a checkpoint as well.",
            remedy=f"Build one with: rtmo-deploy build-trt {shlex.quote(checkpoint)} --fp16{to}",
        )
    try:
        return Format(name.lower())
    except ValueError:
        raise UsageError(
            f"'{name}' is not a format that can be written.", remedy="Choose onnx or openvino.", where="--format"
        ) from None


def _decode_options(decode: Decode, given: dict[str, Any]) -> DecodeOptions:
    from rtmo_deploy.convert.options import FixedDecodeOptions, OnnxDecodeOptions, RawDecodeOptions

    kinds: dict[Decode, type[DecodeOptions]] = {
        Decode.ONNX: OnnxDecodeOptions,
        Decode.FIXED: FixedDecodeOptions,
        Decode.RAW: RawDecodeOptions,
    }
    foreign = {Decode.RAW: ("max_dets", "pre_topk", "min_rows"), Decode.FIXED: ("min_rows",)}
    for name in foreign.get(decode, ()):
        if name in given:
            why = "which decodes nothing" if decode is Decode.RAW else "whose number of rows is fixed"
            raise UsageError(
                f"--{name.replace('_', '-')} does not apply to --decode {decode.value}, {why}.",
                remedy="Leave it away, or choose another --decode.",
            )
    return kinds[decode](**given)


def _as_dict(result: ExportResult, infos: list[Path]) -> dict[str, Any]:
    return {
        "path": str(result.artifact.path),
        "nodes": result.nodes,
        "size": result.size,
        "seconds": round(result.seconds, 3),
        "artifact": result.artifact.to_dict(),
        "info_files": [str(path) for path in infos],
    }


def _print(result: ExportResult, infos: list[Path], differing: dict[str, Any]) -> None:
    from rtmo_deploy.cli.console import facts_table, print_table
    from rtmo_deploy.files import human_size

    artifact = result.artifact
    contract = artifact.input
    size = f"{contract.height}x{contract.width}"
    batch = contract.batch or "dynamic"
    facts = {
        "file": f"{artifact.path} ({human_size(result.size)}, {result.nodes} nodes)",
        "model": f"{artifact.architecture}, {artifact.skeleton.label}",
        "input": f"{size}{', any multiple of 32' if contract.dynamic_hw else ' only'}; batch {batch}",
        "decode": f"{artifact.decode.mode.value}; score_thr {artifact.decode.score_thr:g}, "
        f"nms_thr {artifact.decode.nms_thr:g}",
    }
    if differing:
        facts["from the cfg"] = ", ".join(f"{name} {value}" for name, value in differing.items())
    if artifact.companion:
        facts["companion"] = f"{artifact.companion.name} (pose vectors to keypoints)"
    for path in infos:
        facts[path.name] = str(path)
    if result.validation is not None:
        facts["validation"] = f"passed: {len(result.validation.checks)} checks"
    else:
        facts["validation"] = "not verified (--no-verify)"
    if result.verification is not None:
        facts["parity"] = f"passed: every bound is met on {len(result.verification.cases)} inputs"
    facts["time"] = f"{result.seconds:.1f} s"
    print_table(facts_table(facts))
    if result.verification is not None:
        print_parity(result.verification)


def print_parity(report: VerificationReport) -> None:
    """Print what was compared, one row an input."""
    from rich.table import Table

    from rtmo_deploy.cli.console import print_table

    bounds = report.bounds
    table = Table(
        title=f"Parity with {report.reference}",
        caption=f"Bounds: {bounds.keypoint_max_px:g} px, scores {bounds.score:g}, tensors {bounds.tensor:g} of their "
        "size.",
    )
    table.add_column("input")
    for heading in ("people", "missed", "extra", "box px", "keypoint px", "score", "tensors"):
        table.add_column(heading, justify="right")
    rounding = any(case.noise_px is not None for case in report.cases)
    if rounding:
        table.add_column("PyTorch's own rounding px (bound: 4x)", justify="right")
    for case in report.cases:
        people = case.people
        worst = max((error.max_abs for error in case.tensors.values()), default=None)
        cells = ["-"] * 6
        if people is not None:
            score = max(people.score_max or 0.0, people.keypoint_score_max or 0.0)
            counts = [str(people.people_a), str(people.missed), str(people.extra)]
            distances = (people.box_px_max or 0.0, people.keypoint_px_max or 0.0, score)
            cells = [*counts, *(f"{value:.1e}" for value in distances)]
        row = [case.shape, *cells, "-" if worst is None else f"{worst:.1e}"]
        if rounding:
            row.append("-" if case.noise_px is None else f"{case.noise_px:.1e}")
        table.add_row(*row)
    print_table(table)
