"""What an OpenVINO model (``.xml`` and ``.bin``) knows of itself, read without OpenVINO.

The graph lies in the .xml file, the weights in a .bin file of the same name. The fields of the
:class:`~rtmo_deploy.artifact.Artifact` stand in the .xml file, where OpenVINO keeps remarks of a model's makers
(``net/rt_info/rtmo_deploy``), one element a field, its value JSON; and beside them the SHA-256 of the .bin file.
OpenVINO checks nothing but the length of a .bin file, so a .bin file of another model would go unnoticed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.openvino_ir import ir_artifact, read_ir

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

_WEIGHTS = "weights_sha256"
_PREFIX = "rtmo_deploy."


def weights_path(path: Path) -> Path:
    """The .bin file that belongs to an .xml file."""
    return path.with_suffix(".bin")


def metadata_fields(artifact: Artifact, weights_sha256: str) -> dict[str, str]:
    """What is written into the section: one JSON text a field.

    Args:
        artifact: What the model is.
        weights_sha256: Of the .bin file.
    """
    own = {key: value for key, value in artifact.to_metadata().items() if key.startswith(_PREFIX)}
    return {key.removeprefix(_PREFIX): value for key, value in own.items()} | {_WEIGHTS: json.dumps(weights_sha256)}


def openvino_artifact(path: Path) -> Artifact:
    """What an OpenVINO model is, by its .xml file; its .bin file must be the one that was written with it.

    Raises:
        ArtifactError: There is no such file, it is damaged, not an OpenVINO model or not of this project; or its .bin
            file is missing or another.
    """
    ir = read_ir(path)
    artifact = ir_artifact(path, ir)
    if artifact is None or _WEIGHTS not in ir.section:
        raise ArtifactError(
            "It is an OpenVINO model without this project's metadata: what it takes and puts out is not known.",
            remedy="Convert the ONNX model with 'rtmo-deploy export MODEL.onnx --format openvino'.",
            where=path,
        )
    # A graph that was changed afterwards was written with a .bin file of its own; the hash is the former one's.
    _require_weights(path, ir.weights_end, None if artifact.corrected else ir.section[_WEIGHTS])
    return artifact


def _require_weights(path: Path, least: int, recorded: str | None) -> None:
    weights = weights_path(path)
    if not weights.is_file():
        raise ArtifactError(
            f"Its weights {weights.name} are not beside it.", remedy="Copy both files, or convert again.", where=path
        )
    try:
        found = json.dumps(sha256_of(weights))
        size = weights.stat().st_size
    except OSError as error:
        raise ArtifactError(
            f"It cannot be read: {error.strerror or error}.", remedy="Check its permissions.", where=weights
        ) from error
    if size < least or recorded not in {None, found}:
        raise ArtifactError(
            f"{weights.name} beside it does not hold the weights that it was written with.",
            remedy="Copy both files from the same conversion, or convert again.",
            where=path,
        )
