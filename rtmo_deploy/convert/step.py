"""The parts that every conversion has in common: read, describe, verify, write. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx

from rtmo_deploy import packages
from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import Artifact, Parent, made_with, read_companion, refuse_companion, write_companion
from rtmo_deploy.errors import ArtifactError, ParityError, UsageError
from rtmo_deploy.files import sha256_of, write_whole
from rtmo_deploy.measure import ValidationReport, validate_model
from rtmo_deploy.plain import shorten
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rtmo_deploy.measure.verify import VerificationReport


@dataclass(frozen=True)
class Source:
    """An ONNX model that is converted, and the content of its companion file where it has one."""

    model: onnx.ModelProto
    artifact: Artifact
    companion: bytes | None

    @property
    def precision_words(self) -> str:
        """Its precision, as a sentence names it."""
        return "float32" if self.artifact.precision == "fp32" else self.artifact.precision


@dataclass(frozen=True)
class ExportResult:
    """What an export or a conversion made."""

    artifact: Artifact
    files: tuple[Path, ...]  #: All files written; the first is the artifact's.
    size: int  #: Bytes of the artifact's file, with its weights file where it has one.
    seconds: float  #: Time taken.
    validation: ValidationReport | None = None  #: Checks of the file alone; None if they were not made.
    verification: VerificationReport | None = None  #: Comparison with the source; None if it was not verified.
    nodes: int = 0  #: Nodes of an ONNX graph; 0 in other formats.


def read_source(path: Path, output: Path) -> Source:
    """Read an ONNX model and its companion; UsageError where writing ``output`` would overwrite it or another's."""
    model = load_onnx(path)
    artifact = onnx_artifact(path, model)
    companion = read_companion(artifact)
    if output.exists() and output.samefile(path):
        raise UsageError(
            f"{output} is the model that it is made from.", remedy="Give another name with -o: it is never overwritten."
        )
    refuse_companion(artifact, output)
    return Source(model, artifact, companion)


def derived(source: Artifact, output: Path, *packages: str, **changes: Any) -> Artifact:
    """What the model at ``output`` is, which is made of ``source`` with these packages and is not verified yet."""
    parents = (Parent.of(source.path.name, sha256_of(source.path)),)
    return replace(source, path=output, versions=made_with(*packages), verified=None, parents=parents, **changes)


def require_onnxruntime(what: str) -> None:
    """Say, before any work, that a verification needs ONNX Runtime; ``what`` is verified."""
    packages.require_onnxruntime(f"Verifying the {what} (--no-verify skips it)")


def require_parity(failures: Sequence[str], finding: str, *, remedy: str, where: Path) -> None:
    """Refuse to write a model that differs from its source: ``finding`` begins the sentence that lists the failures."""
    if failures:
        raise ParityError(
            f"{finding}: {shorten(failures, separator='; ')}.", remedy=f"Nothing was written. {remedy}", where=where
        )


def require_valid(model: onnx.ModelProto, path: Path, what: str, remedy: str) -> ValidationReport:
    """Refuse to write a model that is not well formed; ``what`` begins the sentence that names the check."""
    report = validate_model(model, path)
    for check in report.checks:
        if not check.ok:
            raise ArtifactError(
                f"{what} does not pass {check.name}: {check.detail}",
                remedy=f"Nothing was written. {remedy}",
                where=path,
            )
    return report


def write_metadata(model: onnx.ModelProto, artifact: Artifact) -> None:
    """Write an artifact into a model's metadata, in place, replacing what stood there."""
    model.producer_name, model.producer_version = "rtmo-deploy", __version__
    model.doc_string = ""
    onnx.helper.set_model_props(model, artifact.to_metadata())


def write_model(model: onnx.ModelProto, artifact: Artifact, companion: bytes | None = None) -> int:
    """Write an ONNX model with its metadata to its artifact's path, and its companion beside it; its bytes."""
    write_metadata(model, artifact)
    write_companion(artifact, companion, artifact.path)
    content = model.SerializeToString()
    write_whole(artifact.path, content)
    return len(content)
