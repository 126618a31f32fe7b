"""``rtmo-deploy export``: a checkpoint becomes an ONNX model or one made of it, verified before it is written."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.address import is_address, local_path
from rtmo_deploy.cli.console import print_facts, print_json, print_table, record_made, stderr
from rtmo_deploy.cli.given import beside, find_model
from rtmo_deploy.cli.options import ForceOption, IgnoreCfgOption, InputSizeOption, JsonOption, options_of
from rtmo_deploy.cli.progress import status
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.errors import MissingDependencyError, UsageError
from rtmo_deploy.file_kind import BUILDABLE, CHECKPOINT, FORMATS, Format, Kind, Wanted, likely_kind
from rtmo_deploy.files import human_size
from rtmo_deploy.outputs import require_free
from rtmo_deploy.report.table import Table
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rtmo_deploy.convert.step import ExportResult
    from rtmo_deploy.measure.verify import VerificationReport
    from rtmo_deploy.model import LoadedCheckpoint

#: What a checkpoint can be exported to; all but ONNX are made of the ONNX model.
_FORMATS = {kind: known for kind, known in FORMATS.items() if known.exporter or kind is Kind.ONNX}
#: The name of a folder that runs a model in a browser.
WEB = "web"
#: Options that still mean something where the ONNX model is there already.
_NOT_OF_ONNX = {"checkpoint", "format_name", "output", "no_verify", "force", "as_json"}


@options_of(ExportOptions, imgsz=InputSizeOption)
def export(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="A .pth or .safetensors file, its address (https://, hf://) or a published model's name; for openvino "
            "also an .onnx file.",
        ),
    ],
    *,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join([*_FORMATS, WEB]),
            help="What to write; web is a folder.",
            autocompletion=lambda: [*_FORMATS, WEB],
        ),
    ] = Kind.ONNX.value,
    options: ExportOptions,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. [default: the checkpoint's name, beside it]"),
    ] = None,
    ema: Annotated[
        bool,
        typer.Option("--ema", help="Take ema_state_dict: mmengine's raw weights; its state_dict holds the averaged."),
    ] = False,
    dump_info: Annotated[
        bool, typer.Option("--dump-info", help="Also write deploy.json, pipeline.json and detail.json.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="web: also write an FP16 model, for GPUs in browsers that have shader-f16.")
    ] = False,
    no_page: Annotated[
        bool, typer.Option("--no-page", help="web: only the models and their configs, without a page.")
    ] = False,
    ort: Annotated[
        Path | None,
        typer.Option(
            "--ort",
            metavar="TGZ|DIR",
            help="web: ONNX Runtime Web, as 'npm pack' gives it or unpacked. [default: npm gets it]",
        ),
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not check the model nor compare it with PyTorch.")
    ] = False,
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Export a checkpoint to ONNX; check it and compare it with PyTorch before it is written.

    --format openvino goes on from there: the ONNX model stays beside the .xml and .bin files made of it.
    """
    if format_name.lower() == WEB:
        asked = _given(context)
        _refuse(asked, {"dump_info": "which MMDeploy's SDK does not read"}, WEB)
        _web(
            checkpoint,
            output,
            options,
            asked,
            ema=ema,
            fp16=fp16,
            page=not no_page,
            ort=ort,
            verify=not no_verify,
            force=force,
            as_json=as_json,
        )
        return
    if fp16:
        raise UsageError(
            f"--fp16 does not apply to --format {format_name}: it exports FP32.",
            remedy="Leave it away, and cast the ONNX model afterwards: rtmo-deploy cast MODEL.onnx --fp16",
        )
    _refuse(_given(context), dict.fromkeys(("no_page", "ort"), "which is no folder for browsers"), format_name)
    kind = _format(format_name, checkpoint, output)
    _check_names(_FORMATS[kind], output, options, dump_info=dump_info)
    path = None
    if is_address(checkpoint) or os.path.isfile(checkpoint):  # noqa: PTH113 - a name that no file can have is none
        path = find_model(checkpoint, "export", CHECKPOINT if kind is Kind.ONNX else _convertible(checkpoint))
    if path is not None and kind is not Kind.ONNX and likely_kind(path) is Kind.ONNX:
        _require_no_onnx_options(context)
        target = output or beside(checkpoint, path).with_suffix(_FORMATS[kind].suffixes[0])
        require_free([target, *_FORMATS[kind].files_beside(target)], files_of(path, checkpoint), force=force)
        _convert(kind, path, target, verify=not no_verify, as_json=as_json)
        return
    target = output or (beside(checkpoint, path).with_suffix(".onnx") if path else Path(f"{checkpoint}.onnx"))
    outputs = _outputs(target, kind, options, dump_info=dump_info)
    require_free(outputs, files_of(path, checkpoint), force=force)
    path = path or find_model(checkpoint, "export", CHECKPOINT)  # a published model is downloaded only now
    loaded, result, infos = _export(path, outputs[0], options, ema=ema, verify=not no_verify, dump_info=dump_info)
    if kind is not Kind.ONNX:
        converted = output or outputs[0].with_suffix(_FORMATS[kind].suffixes[0])
        _convert(kind, outputs[0], converted, verify=not no_verify, as_json=as_json)
    else:
        _report(loaded, result, infos, as_json=as_json)


def _convertible(given: str) -> Wanted:
    """What a format that is made of ONNX models takes: such a model too, if it can be one."""
    from rtmo_deploy.zoo.archive import is_archive

    path = local_path(given)
    return BUILDABLE if is_address(given) or is_archive(path) or likely_kind(path) is Kind.ONNX else CHECKPOINT


def _format(name: str, checkpoint: str, output: Path | None) -> Kind:
    """What is to be written; a TensorRT engine has a command of its own."""
    engine = output is not None and output.suffix.lower() in FORMATS[Kind.ENGINE].suffixes
    if engine or name.lower() in {"engine", "plan", "trt", "tensorrt", "tensorrt-rtx"}:
        to = f" -o {shlex.quote(str(output))}" if engine else ""
        raise UsageError(
            "'export' writes no TensorRT engines; 'build-trt' does, from a checkpoint as well.",
            remedy=f"Build one with: rtmo-deploy build-trt {shlex.quote(checkpoint)} --fp16{to}",
        )
    for kind in _FORMATS:
        if name.lower() == kind.value:
            return kind
    raise UsageError(
        f"'{name}' is not a format that can be written.",
        remedy=f"Choose {', '.join(_FORMATS)} or {WEB}.",
        where="--format",
    )


def _check_names(wanted: Format, output: Path | None, options: ExportOptions, *, dump_info: bool) -> None:
    suffix = wanted.suffixes[0]
    if output is not None and output.suffix.lower() != suffix:
        named = [kind for kind, known in _FORMATS.items() if output.suffix.lower() in known.suffixes]
        other = f" or add --format {named[0]}" if named else ""
        raise UsageError(f"The output is called {output.name}.", remedy=f"Give it the suffix {suffix}{other}.")
    if dump_info and options.decode == "raw":
        raise UsageError(
            "--dump-info does not apply to --decode raw: MMDeploy's SDK cannot decode a raw graph.",
            remedy="Leave it away, or choose --decode onnx or fixed.",
        )
    if wanted.needs is not None and find_spec(wanted.needs[0]) is None:  # said before anything is exported
        package, extra = wanted.needs
        raise MissingDependencyError(package, purpose=f"Converting to {wanted.title}", extra=extra)


def _require_no_onnx_options(context: typer.Context) -> None:
    """Refuse options that shape the ONNX model, where there is one already."""
    for name, option in _given(context).items():
        if name not in _NOT_OF_ONNX:
            raise UsageError(
                f"{option} does not apply where the ONNX model is there already.",
                remedy="Leave it away, or export the checkpoint.",
            )


def _given(context: typer.Context) -> dict[str, str]:
    """The parameters that stand on the command line: their names, and how they are written there."""
    found = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            found[parameter.name or ""] = parameter.opts[-1]
    return found


def _refuse(given: Mapping[str, str], foreign: Mapping[str, str], kind: str) -> None:
    for name, why in foreign.items():
        if name in given:
            raise UsageError(f"{given[name]} does not apply to --format {kind}, {why}.", remedy="Leave it away.")


def _web(
    checkpoint: str,
    output: Path | None,
    options: ExportOptions,
    asked: Collection[str],
    *,
    ema: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Export to a folder for browsers, and print what came of it."""
    from rtmo_deploy.package.web import export_web, require_free_folder, web_options

    chosen = web_options(options, asked=asked)
    found = is_address(checkpoint)
    named = beside(checkpoint, find_model(checkpoint, "export", CHECKPOINT)) if found else Path(checkpoint)
    folder = output or (named.with_suffix(".web") if found or named.is_file() else Path(f"{checkpoint}.web"))
    require_free_folder(folder, force=how["force"])
    path = find_model(checkpoint, "export", CHECKPOINT)
    with status("reading the checkpoint") as progress:
        from rtmo_deploy.model import load_checkpoint

        loaded = load_checkpoint(path, ema=ema)
        made = export_web(loaded, folder, chosen, **how, progress=progress)
    for note in loaded.taken.notes:
        stderr().print(f"cfg: {note}", markup=False)
    record_made(made.export.artifact, command="export", source=path)
    fields = {
        "path": str(folder),
        "files": [path.as_posix() for path in made.files],
        "onnx": str(made.export.artifact.path),
        "fp16": None if made.half is None else str(made.half.artifact.path),
    }
    artifact = made.export.artifact
    facts = {
        "folder": f"{folder} ({human_size(made.size)}, {len(made.files)} files)",
        "model": f"{artifact.architecture}, {artifact.skeleton.label}",
        "input": f"{artifact.input.height}x{artifact.input.width} only; batch 1",
        "decode": f"fixed; score_thr {artifact.decode.score_thr:g}, nms_thr {artifact.decode.nms_thr:g}",
    }
    if made.half is not None:
        facts["fp16"] = str(made.half.artifact.path)
    if (folder / "serve.py").is_file():
        facts["look at it"] = f"python {shlex.quote(str(folder / 'serve.py'))}"
    result = replace(made.export, size=made.size, seconds=made.seconds)
    _print(result, facts, fields, companion="", as_json=as_json)


def _outputs(target: Path, kind: Kind, options: ExportOptions, *, dump_info: bool) -> list[Path]:
    """Every file that an export writes; the ONNX model is the first."""
    outputs = [target.with_suffix(".onnx")]
    if kind is not Kind.ONNX:
        converted = target.with_suffix(_FORMATS[kind].suffixes[0])
        outputs += [converted, *_FORMATS[kind].files_beside(converted)]
    if options.decode == "raw":
        outputs += [target.with_name(f"{target.stem}.dcc.onnx")]
    if dump_info:
        outputs += [target.with_name(f"{name}.json") for name in ("deploy", "pipeline", "detail")]
    return outputs


def _export(
    path: Path, target: Path, options: ExportOptions, *, ema: bool, verify: bool, dump_info: bool
) -> tuple[LoadedCheckpoint, ExportResult, list[Path]]:
    """Export to ONNX, and tell what the checkpoint's config asked for."""
    with status("reading the checkpoint") as progress:
        from rtmo_deploy.convert.export import export_onnx
        from rtmo_deploy.model import load_checkpoint

        loaded = load_checkpoint(path, ema=ema)
        result = export_onnx(loaded, target, options, verify=verify, progress=progress)
        infos = []
        if dump_info:
            from rtmo_deploy.convert.sdk_info import dump_sdk_info

            infos = dump_sdk_info(result.artifact)
    for note in loaded.taken.notes:
        stderr().print(f"cfg: {note}", markup=False)
    record_made(result.artifact, command="export", source=path)
    return loaded, result, infos


def _convert(kind: Kind, source: Path, output: Path, *, verify: bool, as_json: bool) -> None:
    """Convert an ONNX model, and print what came of it."""
    wanted = _FORMATS[kind]
    with status(f"loading {wanted.title}") as progress:
        result: ExportResult = Format.load(wanted.exporter or "")(source, output, verify=verify, progress=progress)
    artifact, weights = result.artifact, wanted.files_beside(output)
    fields: dict[str, Any] = {"path": str(output), "onnx": str(source)}
    if weights:
        fields["weights"] = str(weights[0])
    files = ", ".join([str(output), *(path.name for path in weights)])
    facts = {
        "file": f"{files} ({human_size(result.size)})",
        "from": str(source),
        "model": f"{artifact.architecture}, {artifact.skeleton.label}, {artifact.precision}",
        "decode": artifact.decode.mode.value,
    }
    _print(result, facts, fields, companion="pose vectors to keypoints; stays ONNX", as_json=as_json)


def _report(loaded: LoadedCheckpoint, result: ExportResult, infos: list[Path], *, as_json: bool) -> None:
    """Print what came of an export to ONNX."""
    known = loaded.spec.architecture
    differing = loaded.taken.differing(known.input_hw if known else None)
    artifact = result.artifact
    fields = {
        "path": str(artifact.path),
        "nodes": result.nodes,
        "info_files": [str(path) for path in infos],
        "from_cfg": differing,
        "notes": list(loaded.taken.notes),
    }
    contract, decode = artifact.input, artifact.decode
    sizes = ", any multiple of 32" if contract.dynamic_hw else " only"
    facts = {
        "file": f"{artifact.path} ({human_size(result.size)}, {result.nodes} nodes)",
        "model": f"{artifact.architecture}, {artifact.skeleton.label}",
        "input": f"{contract.height}x{contract.width}{sizes}; batch {contract.batch or 'dynamic'}",
        "decode": f"{decode.mode.value}; score_thr {decode.score_thr:g}, nms_thr {decode.nms_thr:g}",
    }
    if differing:
        facts["from the cfg"] = ", ".join(f"{name} {value}" for name, value in differing.items())
    facts |= {path.name: str(path) for path in infos}
    _print(result, facts, fields, companion="pose vectors to keypoints", as_json=as_json)


def _print(
    result: ExportResult, facts: dict[str, str], fields: dict[str, Any], *, companion: str, as_json: bool
) -> None:
    if as_json:
        seconds = round(result.seconds, 3)
        print_json("export", **fields, size=result.size, seconds=seconds, artifact=result.artifact.to_dict())
        return
    if result.artifact.companion:
        facts["companion"] = f"{result.artifact.companion.name} ({companion})"
    if result.validation is not None:
        facts["validation"] = f"passed: {len(result.validation.checks)} checks"
    elif result.verification is None:
        facts["validation"] = "not verified (--no-verify)"
    if result.verification is not None:
        facts["parity"] = f"passed: every bound is met on {len(result.verification.cases)} inputs"
    facts["time"] = f"{result.seconds:.1f} s"
    print_facts(facts)
    if result.verification is not None:
        _print_parity(result.verification)


def _print_parity(report: VerificationReport) -> None:
    """Print what was compared, one row an input."""
    bounds = report.bounds
    limits = {
        "keypoints {:g} px on average": bounds.keypoint_mean_px,
        "{:g} px": bounds.keypoint_max_px,
        "scores {:g}": bounds.score,
        "of keypoints {:g}": None if bounds.keypoint_score == bounds.score else bounds.keypoint_score,
        "tensors {:g} of their size": bounds.tensor,
        "{:.0%} of people unmatched": bounds.unmatched or None,
    }
    caption = f"Bounds: {', '.join(form.format(value) for form, value in limits.items() if value is not None)}."
    headings = ["input", "people", "missed", "extra", "box px", "keypoint px", "score", "tensors"]
    rounding = any(case.noise_px is not None for case in report.cases)
    if rounding:
        headings.append("PyTorch's own rounding px (bound: 4x)")
    rows = []
    for case in report.cases:
        people = case.people
        counts = ["-"] * 3
        distances: list[float | None] = [None] * 3
        if people is not None:
            score = max(people.score_max or 0.0, people.keypoint_score_max or 0.0)
            counts = [str(people.people_a), str(people.missed), str(people.extra)]
            distances = [people.box_px_max or 0.0, people.keypoint_px_max or 0.0, score]
        worst = max((error.max_abs for error in case.tensors.values()), default=None)
        numbers = [*distances, worst, case.noise_px][: len(headings) - 4]
        rows.append([case.shape, *counts, *("-" if value is None else f"{value:.1e}" for value in numbers)])
    print_table(Table(f"Parity with {report.reference}", tuple(headings), rows, caption))
