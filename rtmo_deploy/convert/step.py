"""The parts that every conversion has in common: read, describe, verify, write. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import onnx

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import Artifact, Parent, made_with, read_companion, refuse_companion
from rtmo_deploy.errors import MissingDependencyError, ParityError
from rtmo_deploy.files import atomic_write, sha256_of
from rtmo_deploy.plain import shorten
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rtmo_deploy.measure import ValidationReport
    from rtmo_deploy.measure.verify import VerificationReport


@dataclass(frozen=True)
class Source:
    """An ONNX model that is converted, and the content of its companion file where it has one."""

    model: onnx.ModelProto
    artifact: Artifact
    companion: bytes | None


@dataclass(frozen=True)
class ExportResult:
    """What an export or a conversion made.

    Attributes:
        files: All files written; the first is the artifact's.
        size: Bytes of the artifact's file, with its weights file where it has one.
        seconds: Time taken.
        validation: Checks of the file alone; None if they were not made.
        verification: Comparison with the source; None if it was not verified.
        nodes: Nodes of an ONNX graph; 0 in other formats.
    """

    artifact: Artifact
    files: tuple[Path, ...]
    size: int
    seconds: float
    validation: ValidationReport | None = None
    verification: VerificationReport | None = None
    nodes: int = 0


def read_source(path: Path, output: Path) -> Source:
    """Read an ONNX model and its companion; keep another model's companion beside ``output`` from being overwritten."""
    model = load_onnx(path)
    artifact = onnx_artifact(path, model)
    companion = read_companion(artifact)
    refuse_companion(artifact, output)
    return Source(model, artifact, companion)


def derived(source: Artifact, output: Path, *packages: str, **changes: Any) -> Artifact:
    """What the model at ``output`` is, which is made of ``source`` with these packages and is not verified yet."""
    parents = (Parent(source.path.name, sha256_of(source.path)),)
    return replace(source, path=output, versions=made_with(*packages), verified=None, **{"parents": parents, **changes})


def require_onnxruntime(what: str) -> None:
    """Say, before any work, that a verification needs ONNX Runtime; ``what`` is verified."""
    if find_spec("onnxruntime") is None:
        raise MissingDependencyError("onnxruntime", purpose=f"Verifying the {what} (--no-verify skips it)", extra="cpu")


def require_parity(failures: Sequence[str], finding: str, *, remedy: str, where: Path) -> None:
    """Refuse to write a model that differs from its source: ``finding`` begins the sentence that lists the failures."""
    if failures:
        raise ParityError(
            f"{finding}: {shorten(failures, separator='; ')}.", remedy=f"Nothing was written. {remedy}", where=where
        )


def write_metadata(model: onnx.ModelProto, artifact: Artifact) -> None:
    """Put what an artifact says of itself into a model, in place, replacing what stood there."""
    model.producer_name, model.producer_version = "rtmo-deploy", __version__
    model.doc_string = ""
    onnx.helper.set_model_props(model, artifact.to_metadata())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; SetupError if that cannot be done."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
