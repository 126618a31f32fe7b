"""Exports a checkpoint to ONNX, verified against PyTorch before it is written."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import Artifact, DecodeMode, InputContract, Parent, check_contracts, is_file_name, made_with
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.convert.step import (
    ExportResult,
    require_onnxruntime,
    require_parity,
    require_valid,
    write_metadata,
    write_model,
)
from rtmo_deploy.convert.trace import trace_coordinates, trace_network
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import write_whole
from rtmo_deploy.model import LoadedCheckpoint
from rtmo_deploy.outputs import require_free

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import onnx

    from rtmo_deploy.measure import ValidationReport
    from rtmo_deploy.measure.verify import VerificationReport


def export_onnx(
    checkpoint: LoadedCheckpoint,
    output: str | os.PathLike[str],
    options: ExportOptions | None = None,
    *,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
    rewrite: Callable[[onnx.ModelProto], None] = lambda _: None,
) -> ExportResult:
    """Export a checkpoint to ONNX, verify it, and only then write it.

    Args:
        checkpoint: The loaded checkpoint.
        output: Where to write; a ``raw`` export also writes ``<stem>.dcc.onnx`` beside it.
        options: What is asked for.
        verify: Check the model and compare it with PyTorch (needs ONNX Runtime).
        progress: Told of each step.
        rewrite: Changes the traced model in place, before it is verified.

    Raises:
        UsageError: The input, batch or number of detections is larger than any command reads, or the output is the
            checkpoint's file.
        ArtifactError: The exported model is not well formed.
        ParityError: It does not compute what PyTorch computes. Nothing is written.
        MissingDependencyError: ONNX Runtime is not installed.
        SetupError: The file cannot be written.
    """
    given: object = checkpoint
    if not isinstance(given, LoadedCheckpoint):
        remedy = "Give what load_checkpoint reads: export_onnx(load_checkpoint(path), output)."
        raise UsageError(f"A {type(given).__name__} is not a loaded checkpoint.", remedy=remedy)
    output = Path(output)
    require_free([output], [checkpoint.path], force=True)
    started = time.monotonic()
    options = options or ExportOptions()
    if verify:
        require_onnxruntime("export")
    artifact = _describe(checkpoint, output, options)
    progress("tracing and simplifying")
    model = trace_network(checkpoint.model, artifact, options.opset)
    rewrite(model)
    files, companion = [output], None
    if artifact.decode.mode is DecodeMode.RAW:
        progress("tracing the coordinate classifier")
        second = trace_coordinates(checkpoint.model, options.opset)
        second.producer_name, second.producer_version = "rtmo-deploy", __version__
        companion = second.SerializeToString()
        files.append(_companion_path(output))
        artifact = replace(artifact, companion=Parent(files[1].name, hashlib.sha256(companion).hexdigest()))
    validation, verification = None, None
    if verify:
        write_metadata(model, artifact)
        validation, verification = _verify(model, checkpoint, artifact, companion, progress)
        reports = {"validation": validation.to_dict(), "parity": verification.to_dict()}
        artifact = replace(artifact, verified=reports)
    progress("writing")
    if companion is not None:
        write_whole(files[1], companion)
    return ExportResult(
        artifact=artifact,
        files=tuple(files),
        size=write_model(model, artifact),
        seconds=time.monotonic() - started,
        validation=validation,
        verification=verification,
        nodes=len(model.graph.node),
    )


def _companion_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}.dcc.onnx")


def _describe(checkpoint: LoadedCheckpoint, output: Path, options: ExportOptions) -> Artifact:
    height, width = options.imgsz or checkpoint.input_hw
    taken = checkpoint.taken
    artifact = Artifact(
        path=output,
        kind=Kind.ONNX,
        architecture=checkpoint.architecture,
        skeleton=checkpoint.skeleton,
        input=InputContract(
            height=height,
            width=width,
            batch=options.fixed_batch,
            dynamic_hw=not options.static,
            placement=options.letterbox,
        ),
        decode=options.contract(score_thr=taken.score_thr, nms_thr=taken.nms_thr, pre_topk=taken.pre_topk),
        variant=checkpoint.variant.name if checkpoint.variant else None,
        parents=(Parent.of(checkpoint.path.name, checkpoint.sha256),),
        versions=made_with("torch", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu"),
        domain=checkpoint.domain,
        untrained=checkpoint.untrained,
    )
    if artifact.decode.mode is DecodeMode.RAW and not is_file_name(_companion_path(output).name):
        raise UsageError(
            "No model can name a companion called so.",
            remedy="Give the output another name: of printable characters, without \\ and :.",
            where=_companion_path(output),
        )
    try:
        check_contracts(artifact.input, artifact.decode)
    except ValueError as error:  # no command would read the model
        raise UsageError(
            f"No such model can be exported: {error}.",
            remedy="Choose a smaller input (--imgsz), batch or number of detections.",
        ) from error
    return artifact


def _verify(
    model: onnx.ModelProto,
    checkpoint: LoadedCheckpoint,
    artifact: Artifact,
    companion: bytes | None,
    progress: Callable[[str], None],
) -> tuple[ValidationReport, VerificationReport]:
    from rtmo_deploy.convert.verify import verify_export

    progress("validating")
    validation = require_valid(
        model, artifact.path, "The exported model", "Try another --opset; if it stays, please report it."
    )
    verification = verify_export(model, checkpoint.model, artifact, companion=companion, progress=progress)
    require_parity(
        verification.failures(),
        "The exported model does not compute what PyTorch computes",
        remedy="Export with --no-verify to look at the file, and please report it.",
        where=artifact.path,
    )
    return validation, verification
