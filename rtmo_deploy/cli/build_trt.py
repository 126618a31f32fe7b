"""``rtmo-deploy build-trt``: a model becomes an audited TensorRT engine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rtmo_deploy.address import is_address, local_path
from rtmo_deploy.cli.calibrate import report_skipped
from rtmo_deploy.cli.console import print_facts, print_json, record_made, stderr
from rtmo_deploy.cli.given import beside, find_model
from rtmo_deploy.cli.options import ForceOption, IgnoreCfgOption, JsonOption, MaxPixelsOption, options_of
from rtmo_deploy.cli.progress import status
from rtmo_deploy.cli.quantize import QuantizeOptions, judged, open_calibration, open_judge, require_calibration
from rtmo_deploy.convert.trt.options import BuildOptions
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.file_kind import BUILDABLE, Kind
from rtmo_deploy.files import atomic_write, human_size, temporary_folder
from rtmo_deploy.outputs import require_free
from rtmo_deploy.plain import plain
from rtmo_deploy.runtime.model_files import files_of, find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.quantize import QuantizeResult
    from rtmo_deploy.convert.trt.build import BuildResult
    from rtmo_deploy.convert.trt.plan import BuildPlan


@options_of(BuildOptions)
def build_trt(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="An ONNX model; or a checkpoint or a published model's name, for the whole chain. "
            "[default: what was exported here last]",
        ),
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Build in FP32; TF32 is off.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Build in FP16; an FP32 model is cast first.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Build in BF16; an FP32 model is cast first.")] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Build in INT8; an FP32 model is quantised and judged first. The rest is FP16, or what --fp32 or "
            "--bf16 beside it says.",
        ),
    ] = False,
    calib: Annotated[
        str | None,
        typer.Option(
            metavar="SET|DIR|FILE.json", help="With --int8: images to calibrate with. [default: synthetic ones]"
        ),
    ] = None,
    decode: Annotated[
        Literal["plugin", "fixed", "raw"] | None,
        typer.Option(
            show_default=False,
            help="plugin: one RTMODecode node (tensorrt only). fixed: plain tensor operators. raw: head tensors. "
            "[default: the model's; fixed from a checkpoint]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. [default: MODEL.PRECISION.BACKEND.engine, beside it]"),
    ] = None,
    options: BuildOptions,
    keep_onnx: Annotated[
        bool, typer.Option("-k", "--keep-onnx", help="Keep the ONNX model that was made on the way, beside the engine.")
    ] = False,
    no_verify: Annotated[
        bool,
        typer.Option(
            "--no-verify",
            help="Do not compare a model made on the way with its source, nor, on a GPU, the engine with it.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and whether this machine can; exit 0 or 5.")
    ] = False,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    force: ForceOption = False,
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Build a TensorRT engine, audit that it computes in what was asked for, and only then write it."""
    from rtmo_deploy.artifact import DecodeMode
    from rtmo_deploy.convert.trt.plan import require_suffix, settle_variant
    from rtmo_deploy.runtime.engine_file import sidecar_path

    asked = [name for name, given in {"fp32": fp32, "fp16": fp16, "bf16": bf16}.items() if given]
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} were given.", remedy="Give one of them.")
    if calib is not None and not int8:
        raise UsageError("--calib was given without --int8: nothing is calibrated.", remedy="Add --int8, or drop it.")
    precision = next(iter(asked), None)
    options = replace(options, precision="int8" if int8 else precision)
    require_suffix(output)
    if calib is not None:
        require_calibration(calib)
    source, named = _locate(model, options.precision)
    if not dry_run:
        _require_able(settle_variant(options)[1])
    with status("reading the model") as progress:
        from rtmo_deploy.convert.trt.plan import plan_chain
        from rtmo_deploy.runtime.estimator import read_artifact

        artifact = read_artifact(source)
        if calib is not None and artifact.precision != "fp32":
            raise UsageError(
                f"--calib was given, and the model is {artifact.precision} already.",
                remedy="Drop --calib.",
                where=source,
            )
        mode, around = decode and DecodeMode(decode), precision if int8 else None
        plan = plan_chain(source, artifact, output, options, decode=mode, around=around)
        if named and output is None:
            # The published file lies in the cache; the engine belongs here.
            plan = replace(plan, output=Path(f"{named}.{'.'.join(plan.output.name.split('.')[-3:])}"))
        if not dry_run:
            kept = plan.output.with_suffix(".onnx") if keep_onnx else None
            require_free([plan.output, sidecar_path(plan.output), kept], files_of(source, calib), force=force)
            require_free([options.timing_cache], files_of(source, calib), force=True)
            _require_able(plan.problems)
            result, kept, quantised = _make(
                plan, artifact, options, calib, kept, verify=not no_verify, progress=progress
            )
    if dry_run:
        _show_plan(plan, as_json=as_json)
        return
    record_made(result.record.artifact, command="build-trt")
    if not as_json:
        _print(result, kept, quantised)
        return
    print_json(
        "build-trt",
        dry_run=False,
        path=str(result.record.artifact.path),
        record_path=str(result.sidecar),
        onnx_path=plain(kept),
        seconds=round(result.seconds, 3),
        warnings=plain(result.warnings),
        proof=plain(result.proof),
        record=plain(result.record),
        quantization=plain(quantised),
    )


def _require_able(problems: tuple[str, ...]) -> None:
    if problems:
        raise SetupError("This machine cannot build it; --dry-run says what would be built.", remedy=problems[0])


def _locate(model: str | None, precision: str | None) -> tuple[Path, str]:
    """The file that is meant, and the name that the engine gets where that is not the file's own."""
    from rtmo_deploy.artifact import DecodeMode

    if model is None:
        from rtmo_deploy.cli.workspace import Workspace

        workspace = Workspace()
        made = {entry.precision for entry in workspace.entries() if entry.kind == Kind.ONNX}
        # What was quantised or cast here is meant before what it was made of.
        path, entry = workspace.last([Kind.ONNX], precision=precision if precision in made else None)
        if entry.decode == DecodeMode.ONNX and entry.command == "export":
            # Its NonMaxSuppression belongs into no engine: its checkpoint is exported once more, without.
            source = workspace.source_of(entry)
            stderr().print(
                f"MODEL is {source}, which {entry.command} made {path} from on {entry.made}. That graph holds "
                "NonMaxSuppression, so the engine is built from the checkpoint."
            )
            return source, str(path.with_suffix(""))
        stderr().print(f"MODEL is {path}, made here by {entry.command} on {entry.made}.")
        return path, ""
    path = find_model(model, "build-trt", BUILDABLE)
    if path == local_path(model):
        return path, ""
    own = is_address(model) or Path(model).is_file()  # an archive's name, or an address's
    return path, str(beside(model, path).with_suffix("")) if own else model


def _make(
    plan: BuildPlan,
    artifact: Artifact,
    options: BuildOptions,
    calib: str | None,
    kept: Path | None,
    *,
    verify: bool,
    progress: Callable[[str], None],
) -> tuple[BuildResult, Path | None, QuantizeResult | None]:
    """Carry a plan out; the ONNX model that was made is copied to ``kept``, which is None in the answer without one."""
    from rtmo_deploy.convert.trt.build import build_engine
    from rtmo_deploy.convert.trt.chain import make_onnx

    if plan.quantise and calib is None:
        stderr().print(
            "Note: INT8 is calibrated with synthetic images. Images like those that the engine will see (--calib DIR) "
            "cost less accuracy."
        )
    chosen = QuantizeOptions(calib=calib or "synthetic")
    with temporary_folder() as folder:
        model, quantised = make_onnx(
            plan,
            folder,
            calibrate=lambda source: open_calibration(source, chosen, progress),
            judge=(lambda source: open_judge(source, chosen, progress)) if verify else None,
            verify=verify,
            progress=progress,
        )
        if quantised is not None:
            report_skipped(quantised.calibration)
        reference = None
        if verify:
            # The checkpoint that the model was made from, where it is at hand unchanged; else the model itself.
            reference = plan.source if plan.export else find_checkpoint(artifact) or artifact.path
        result = build_engine(model, plan.output, options, reference=reference, progress=progress)
        if kept is None or model == plan.source:
            return result, None, quantised
        with atomic_write(kept) as temporary:
            shutil.copyfile(model, temporary)
    return result, kept, quantised


def _show_plan(plan: BuildPlan, *, as_json: bool) -> None:
    steps, profiles = plan.steps(), [str(profile) for profile in plan.profiles]
    if as_json:
        print_json(
            "build-trt",
            dry_run=True,
            model=str(plan.source),
            steps=steps,
            backend=plan.variant.name,
            precision=plan.precision,
            profiles=profiles,
            output=str(plan.output),
            possible=not plan.problems,
            problems=plain(plan.problems),
            notes=plain(plan.notes),
        )
    else:
        facts = {
            "model": str(plan.source),
            "steps": "; ".join(steps),
            "engine": str(plan.output),
            "precision": plan.precision,
            "backend": plan.variant.name,
            "input": "; ".join(profiles),
            "possible here": "no" if plan.problems else "yes",
        }
        print_facts(facts | _numbered("problem", plan.problems) | _numbered("note", plan.notes))
    if plan.problems:
        raise typer.Exit(SetupError.exit_code)


def _numbered(name: str, texts: tuple[str, ...]) -> dict[str, str]:
    return {f"{name} {number}" if number > 1 else name: text for number, text in enumerate(texts, 1)}


def _print(result: BuildResult, kept: Path | None, quantised: QuantizeResult | None) -> None:
    record, audit = result.record, result.audit
    products = audit.engine.get("matrix_products") or audit.network.get("matrix_products", {})
    counts = ", ".join(f"{count} {kind}" for kind, count in products.items())
    facts = {
        "engine": f"{record.artifact.path} ({human_size(record.size)})",
        "record": str(result.sidecar),
        "model": f"{record.artifact.architecture}, {record.artifact.skeleton.name}",
        "backend": f"{record.backend} {record.version}",
        "GPU": record.gpu + (f", {record.compute_capability}" if record.compute_capability else ""),
        "input": "; ".join(str(profile) for profile in record.profiles),
        "outputs": "; ".join(str(spec) for spec in record.outputs),
        "decode": record.artifact.decode.mode.value,
        "precision": f"{audit.sentence()}; matrix products: {counts or 'none'}",
        "audited by": audit.how,
    }
    if quantised is not None:
        facts |= {f"INT8, {name}": text for name, text in judged(quantised).items()}
    if result.proof is not None:
        facts["compared with"] = result.proof.sentence()
    if record.targets:
        facts["built for"] = f"compute capability {', '.join(record.targets)}"
    if kept is not None:
        facts["ONNX"] = str(kept)
    facts["time"] = f"{result.seconds:.1f} s"
    print_facts(facts | _numbered("note", record.notes) | _numbered("TensorRT warns", result.warnings))
