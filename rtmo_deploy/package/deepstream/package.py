"""Writes what Gst-nvinfer needs beside a model: its settings, a parser of the outputs, and examples."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError, UsageError
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
from rtmo_deploy.runtime.thresholds import require_count

if TYPE_CHECKING:
    import os

    from rtmo_deploy.artifact import Artifact

_WHAT = "Gst-nvinfer"
#: Precisions of models that nvinfer builds an engine of.
_BUILT = ("fp32", "fp16")


def package_deepstream(
    model: str | os.PathLike[str], folder: str | os.PathLike[str], *, batch: int | None = None, force: bool = False
) -> SourceFolder:
    """Write Gst-nvinfer's settings for a model, the source of a parser, an example application, and the model.

    Args:
        model: An ONNX model of fixed outputs and static shapes, or a TensorRT engine with its record.
        folder: Where to.
        batch: Frames that nvinfer runs at a time; the model's own, or 1.
        force: Replace files of the same names.

    Raises:
        ArtifactError: nvinfer cannot run the model.
        UsageError: The folder is in use, or the model does not take that batch.
        SetupError: It cannot be written.
    """
    if batch is not None:
        require_count(batch=batch)
    model, folder = Path(model), Path(folder)
    artifact = read_artifact(model)
    require_decoded(artifact, _WHAT, [DecodeMode.FIXED], "--static")
    content: dict[str, bytes | Path]
    if artifact.kind is Kind.ONNX:
        batch = _onnx_batch(artifact, batch)
        content = {"model.onnx": model_content(artifact)}
    elif artifact.kind is Kind.ENGINE:
        batch = _engine_batch(artifact, batch)
        content = {"model.engine": model}
    else:
        raise ArtifactError(
            f"It is a model of kind '{artifact.kind}', and {_WHAT} runs ONNX models and TensorRT engines.",
            remedy=f"Export the checkpoint with: {export_command(artifact, '--static')}",
            where=model,
        )
    content |= rendered("rtmo_deploy.package.deepstream", _values(artifact, batch))
    write_source_folder(folder, content, files_of(model), force=force)
    copy = replace(artifact, path=folder / f"model{suffix_of(artifact)}")
    return SourceFolder(folder, tuple(sorted(content)), copy, "tensorrt")


def _onnx_batch(artifact: Artifact, batch: int | None) -> int:
    """Frames at a time for a model that nvinfer builds an engine of."""
    if artifact.input.dynamic_hw:
        raise ArtifactError(
            f"It takes images of any size, and {_WHAT} needs static shapes.",
            remedy=f"Export the checkpoint with: {export_command(artifact, '--static')}",
            where=artifact.path,
        )
    if artifact.precision not in _BUILT:
        raise ArtifactError(
            f"Its precision is {artifact.precision}, and {_WHAT} builds engines of FP32 and FP16 models.",
            remedy="Build an engine with 'rtmo-deploy build-trt' and package that.",
            where=artifact.path,
        )
    own = artifact.input.batch
    if own is not None and batch not in {None, own}:
        raise UsageError(
            f"The model takes {own} images at a time, not {batch}.",
            remedy=f"Leave --batch away, or export with: {export_command(artifact, '--static', f'--batch {batch}')}",
        )
    return own or batch or 1


def _engine_batch(artifact: Artifact, batch: int | None) -> int:
    """Frames at a time for an engine: what its first profile, the one that nvinfer takes, allows."""
    from rtmo_deploy.runtime.engine_file import read_record

    record = read_record(artifact.path)
    require_built(artifact, record, _WHAT)
    if record.backend != "tensorrt":
        raise ArtifactError(
            f"It was built with {record.backend}, and DeepStream uses TensorRT.",
            remedy=f"Export a model with '{export_command(artifact, '--static')}' and package that.",
            where=artifact.path,
        )
    profile, (height, width) = record.profiles[0], (artifact.input.height, artifact.input.width)
    if not profile.holds(height, width):
        raise ArtifactError(
            f"Its first profile is for {profile} (batch x height x width), not for {height}x{width}.",
            remedy="Build it with one profile for that size.",
            where=artifact.path,
        )
    batch = batch or profile.max.batch
    if not profile.min.batch <= batch <= profile.max.batch:
        raise UsageError(
            f"The engine takes {profile.min.batch} to {profile.max.batch} images at a time, not {batch}.",
            remedy="Leave --batch away, or build an engine for that.",
        )
    return batch


def _values(artifact: Artifact, batch: int) -> dict[str, Any]:
    """What the templates say of a model."""
    columns = math.ceil(math.sqrt(batch))
    return {
        "version": __version__,
        "source": artifact.path.name.replace("\n", " "),
        "onnx": artifact.kind is Kind.ONNX,
        "architecture": artifact.architecture.replace("\n", " "),
        "input": artifact.input,
        "decode": artifact.decode,
        "symmetric": artifact.input.placement == "center",
        "keypoints": len(artifact.skeleton),
        "names": list(artifact.skeleton.keypoints),
        "edges": [tuple(edge) for edge in artifact.skeleton.edges],
        "skeleton": artifact.skeleton,
        "precision": artifact.precision,
        "batch": batch,
        "network_mode": {"fp32": 0, "int8": 1}.get(artifact.precision.split("+")[0], 2),
        "columns": columns,
        "rows": math.ceil(batch / columns),
    }
