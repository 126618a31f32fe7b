"""A checkpoint becomes a proven ONNX model."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import Artifact, InputContract, Kind, Parent, check_contracts, made_with
from rtmo_deploy.convert.metadata import write_metadata
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.convert.trace import trace_coordinates, trace_network
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, ParityError, UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.measure import ValidationReport, validate_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.measure.verify import VerificationReport
    from rtmo_deploy.model import LoadedCheckpoint


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        artifact: The file and what it knows of itself.
        nodes: Nodes of its graph.
        size: Bytes.
        seconds: Time taken.
        validation: Checks of the file alone; None if it was not verified.
        verification: Comparison with PyTorch; None if it was not verified.
    """

    artifact: Artifact
    nodes: int
    size: int
    seconds: float
    validation: ValidationReport | None
    verification: VerificationReport | None


def export_onnx(
    checkpoint: LoadedCheckpoint,
    output: Path,
    options: ExportOptions | None = None,
    *,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportResult:
    """Export a checkpoint to ONNX, verify it, and only then write it.

    Args:
        checkpoint: The loaded checkpoint.
        output: Where to write; a ``raw`` export also writes ``<stem>.dcc.onnx`` beside it.
        options: What is asked for.
        verify: Check the model and compare it with PyTorch (needs ONNX Runtime).
        progress: Told of each step.

    Raises:
        UsageError: The input, batch or number of detections is larger than any command reads.
        ArtifactError: The exported model is not well formed.
        ParityError: It does not compute what PyTorch computes. Nothing is written.
        MissingDependencyError: ONNX Runtime is not installed.
        SetupError: The file cannot be written.
    """
    started = time.monotonic()
    taken = checkpoint.taken
    options = (options or ExportOptions()).of_model(
        score_thr=taken.score_thr, nms_thr=taken.nms_thr, pre_topk=taken.pre_topk
    )
    if verify:
        _need_onnxruntime()
    input_hw = options.input_hw or checkpoint.input_hw
    artifact = _describe(checkpoint, output, options, input_hw)
    try:
        check_contracts(artifact.input, artifact.decode)
    except ValueError as error:  # no command would read the model
        raise UsageError(
            f"No such model can be exported: {error}.",
            remedy="Choose a smaller input (--imgsz), batch or number of detections.",
        ) from error
    progress("tracing and simplifying")
    model = trace_network(checkpoint.model, options, input_hw)
    companion = _companion(checkpoint, artifact, options, progress)
    if companion is not None:
        model_bytes, parent = companion
        artifact = replace(artifact, companion=parent)
    else:
        model_bytes = None
    write_metadata(model, artifact)
    validation, verification = None, None
    if verify:
        progress("validating")
        validation = validate_model(model, output)
        _require_valid(validation, output)
        from rtmo_deploy.convert.verify import verify_export

        verification = verify_export(model, checkpoint.model, artifact, companion=model_bytes, progress=progress)
        _require_parity(verification, output)
        artifact = replace(
            artifact,
            verified={"validation": validation.to_dict(), "parity": verification.to_dict()},
        )
        write_metadata(model, artifact)
    progress("writing")
    if model_bytes is not None and artifact.companion is not None:
        _write(output.with_name(artifact.companion.name), model_bytes)
    _write(output, model.SerializeToString())
    return ExportResult(
        artifact=artifact,
        nodes=len(model.graph.node),
        size=output.stat().st_size,
        seconds=time.monotonic() - started,
        validation=validation,
        verification=verification,
    )


def _describe(
    checkpoint: LoadedCheckpoint, output: Path, options: ExportOptions, input_hw: tuple[int, int]
) -> Artifact:
    return Artifact(
        path=output,
        kind=Kind.ONNX,
        architecture=checkpoint.architecture,
        skeleton=checkpoint.skeleton,
        input=InputContract(
            height=input_hw[0],
            width=input_hw[1],
            batch=options.fixed_batch,
            dynamic_hw=not options.static,
            placement=options.placement,
        ),
        decode=options.decode.contract(),
        variant=checkpoint.variant.name if checkpoint.variant else None,
        parents=(Parent(checkpoint.path.name, checkpoint.sha256),),
        versions=made_with("torch", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu"),
        domain=checkpoint.domain,
        untrained=checkpoint.untrained,
    )


def _companion(
    checkpoint: LoadedCheckpoint, artifact: Artifact, options: ExportOptions, progress: Callable[[str], None]
) -> tuple[bytes, Parent] | None:
    """The second file of a ``raw`` export, and its name and hash."""
    import hashlib

    from rtmo_deploy.artifact import DecodeMode

    if artifact.decode.mode is not DecodeMode.RAW:
        return None
    progress("tracing the coordinate classifier")
    model = trace_coordinates(checkpoint.model, options.opset)
    model.producer_name, model.producer_version = "rtmo-deploy", __version__
    content = model.SerializeToString()
    name = f"{artifact.path.stem}.dcc.onnx"
    return content, Parent(name, hashlib.sha256(content).hexdigest())


def _need_onnxruntime() -> None:
    import importlib.util

    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependencyError("onnxruntime", purpose="Verifying the export (--no-verify skips it)", extra="cpu")


def _require_valid(report: ValidationReport, output: Path) -> None:
    for check in report.checks:
        if not check.ok:
            raise ArtifactError(
                f"The exported model does not pass {check.name}: {check.detail}",
                remedy="Nothing was written. Try another --opset; if it stays, please report it.",
                where=output,
            )


def _require_parity(report: VerificationReport, output: Path) -> None:
    failures = report.failures()
    if failures:
        more = f" (and {len(failures) - 3} more)" if len(failures) > 3 else ""
        raise ParityError(
            f"The exported model does not compute what PyTorch computes: {'; '.join(failures[:3])}{more}.",
            remedy="Nothing was written. Export with --no-verify to look at the file, and please report it.",
            where=output,
        )


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
