"""Writes the sources of a C++ program beside a model that it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.package.source_folder import (
    SourceFolder,
    export_command,
    model_content,
    rendered,
    require_built,
    require_decoded,
    suffix_of,
    write_source_folder,
)
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    import os

    from rtmo_deploy.artifact import Artifact

#: What the program's output decoder understands.
MODES = (DecodeMode.ONNX, DecodeMode.FIXED)


def package_cpp(model: str | os.PathLike[str], folder: str | os.PathLike[str], *, force: bool = False) -> SourceFolder:
    """Write a C++ program (CMake) that letterboxes images, runs a model and prints people, with the model.

    Args:
        model: An ONNX model, run with ONNX Runtime; or a TensorRT engine with its record.
        folder: Where to.
        force: Replace files of the same names.

    Raises:
        ArtifactError: The program cannot run the model.
        UsageError: The folder is in use.
        SetupError: It cannot be written.
    """
    model, folder = Path(model), Path(folder)
    artifact = read_artifact(model)
    what = "the C++ program"
    content: dict[str, bytes | Path]
    libraries = ["nvinfer"]
    if artifact.kind is Kind.ONNX:
        require_decoded(artifact, what, MODES)
        content = {"model.onnx": model_content(artifact)}
    elif artifact.kind is Kind.ENGINE:
        from rtmo_deploy.runtime.engine_file import read_record, sidecar_path

        record = read_record(model)
        require_built(artifact, record, what)
        require_decoded(artifact, "the C++ program for TensorRT", [DecodeMode.FIXED])
        content = {"model.engine": model, "model.engine.json": sidecar_path(model)}
        if record.backend == "tensorrt-rtx":
            libraries = ["tensorrt_rtx"]
    else:
        raise ArtifactError(
            f"It is a model of kind '{artifact.kind}', and the C++ program runs ONNX models and TensorRT engines.",
            remedy=f"Export the checkpoint with: {export_command(artifact)}",
            where=model,
        )
    name = f"model{suffix_of(artifact)}"
    runtime = "tensorrt" if artifact.kind is Kind.ENGINE else "onnxruntime"
    content |= rendered(
        "rtmo_deploy.package.cpp", _values(artifact) | {"runtime": runtime, "tensorrt_libraries": " ".join(libraries)}
    )
    write_source_folder(folder, content, files_of(model), force=force)
    return SourceFolder(folder, tuple(sorted(content)), replace(artifact, path=folder / name), runtime)


def _values(artifact: Artifact) -> dict[str, Any]:
    """What the templates say of a model."""
    return {
        "model": f"model{suffix_of(artifact)}",
        "version": __version__,
        "source": artifact.path.name,
        "architecture": artifact.architecture,
        "precision": artifact.precision,
        "skeleton": artifact.skeleton,
        "input": artifact.input,
        "decode": artifact.decode,
    }
