"""What an OpenVINO model (``.xml`` and ``.bin``) knows of itself, read without OpenVINO.

The graph lies in the .xml file, the weights in a .bin file of the same name. The fields of the
:class:`~rtmo_deploy.artifact.Artifact` stand in the .xml file, where OpenVINO keeps remarks of a model's makers
(``net/rt_info/rtmo_deploy``), one element a field, its value JSON; and beside them the SHA-256 of the .bin file.
OpenVINO checks nothing but the length of a .bin file, so a .bin file of another model would go unnoticed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from rtmo_deploy.artifact import Artifact, Kind
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["SECTION", "metadata_fields", "openvino_artifact", "weights_path"]

#: Name of the section that is ours.
SECTION = "rtmo_deploy"
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
    fields = _read_section(path)
    metadata = {_PREFIX + key: value for key, value in fields.items()}
    artifact = Artifact.from_metadata(path, metadata)
    if artifact is None or artifact.kind is not Kind.OPENVINO or _WEIGHTS not in fields:
        raise ArtifactError(
            "It is an OpenVINO model without this project's metadata: what it takes and puts out is not known.",
            remedy="Convert the ONNX model with rtmo-deploy export MODEL.onnx --format openvino.",
            where=path,
        )
    _require_weights(path, fields[_WEIGHTS])
    return artifact


def _require_weights(path: Path, recorded: str) -> None:
    weights = weights_path(path)
    if not weights.is_file():
        raise ArtifactError(
            f"Its weights {weights.name} are not beside it.", remedy="Copy both files, or convert again.", where=path
        )
    try:
        found = sha256_of(weights)
    except OSError as error:
        raise ArtifactError(
            f"It cannot be read: {error.strerror or error}.", remedy="Check its permissions.", where=weights
        ) from error
    if json.dumps(found) != recorded:
        raise ArtifactError(
            f"{weights.name} beside it does not hold the weights that it was written with.",
            remedy="Copy both files from the same conversion, or convert again.",
            where=path,
        )


def _read_section(path: Path) -> Mapping[str, str]:
    reader = _Reader()
    try:
        with path.open("rb") as stream:
            reader.parser.ParseFile(stream)
    except FileNotFoundError as error:
        raise ArtifactError("There is no such file.", remedy="Check the path.", where=path) from error
    except IsADirectoryError as error:
        raise ArtifactError("This is a folder.", remedy="Give an .xml file.", where=path) from error
    except OSError as error:
        raise ArtifactError(
            f"It cannot be read: {error.strerror or error}.", remedy="Check its permissions.", where=path
        ) from error
    except (expat.ExpatError, ValueError) as error:
        what = (
            "It is empty." if path.stat().st_size == 0 else f"It is not an OpenVINO model, or is cut short ({error})."
        )
        raise ArtifactError(what, remedy="Convert or copy it again.", where=path) from error
    return reader.fields


class _Reader:
    """Collects the section's fields while the file streams by; a model's graph is never held."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self._place: list[str] = []
        self.parser: Any = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        # Entities could make a small file endless; OpenVINO writes no document type at all.
        self.parser.StartDoctypeDeclHandler = self._no_doctype

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._place and name != "net":
            raise ValueError(f"it begins with <{name}>")
        if self._place == ["net", "rt_info", SECTION] and "value" in attributes:
            self.fields[name] = attributes["value"]
        self._place.append(name)

    def _end(self, _name: str) -> None:
        self._place.pop()

    def _no_doctype(self, *_: object) -> None:
        raise ValueError("it has a document type")
