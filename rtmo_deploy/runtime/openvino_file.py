"""What an OpenVINO model (``.xml`` and ``.bin``) knows of itself, read without OpenVINO.

The graph lies in the .xml file, the weights in a .bin file of the same name. The fields of the
:class:`~rtmo_deploy.artifact.Artifact` stand in the .xml file, where OpenVINO keeps remarks of a model's makers
(``net/rt_info/rtmo_deploy``), one element a field, its value JSON; and beside them the SHA-256 of the .bin file.
OpenVINO checks nothing but the length of a .bin file, so a .bin file of another model would go unnoticed.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from rtmo_deploy.artifact import Artifact
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import OPENVINO, Kind, require
from rtmo_deploy.files import open_regular, reading, sha256_of
from rtmo_deploy.runtime.contract import TensorSpec, by_graph, noted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


#: Bytes of an .xml file (ours have one MiB), and depth of its elements.
MAX_BYTES, MAX_DEPTH = 2**26, 100
#: Name of the section in ``net/rt_info`` that is ours.
SECTION = "rtmo_deploy"

#: OpenVINO's names of element types, and NumPy's.
_TYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i8": "int8",
    "u8": "uint8",
    "boolean": "bool",
}
#: Names of a port's precision that are not simply the element type in capitals.
_PORTS = {"fp64": "f64", "fp32": "f32", "fp16": "f16"}
_LAYER = ["net", "layers", "layer"]


@dataclass(frozen=True)
class OpenvinoIr:
    """What stands in an .xml file: layers by kind, tensors, bytes of weights by type, this project's section."""

    version: int
    layers: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: Mapping[str, int]
    weights_end: int
    section: Mapping[str, str]


def read_ir(path: Path) -> OpenvinoIr:
    """Read an .xml file; ArtifactError where it is missing, damaged or no OpenVINO model."""
    require(path, OPENVINO)
    reader = _Reader()
    try:
        with reading(path), open_regular(path, max_bytes=MAX_BYTES) as stream:
            reader.parser.ParseFile(stream)
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"It is not an OpenVINO model, or is cut short ({error}).", remedy="Convert or copy it again.", where=path
        ) from error
    if not reader.layers:
        raise ArtifactError("It is XML without a graph in it.", remedy="Convert or copy it again.", where=path)
    return OpenvinoIr(
        version=reader.version,
        layers=dict(sorted(reader.layers.items())),
        inputs=tuple(tensor.spec() for tensor in reader.inputs),
        outputs=tuple(tensor.spec() for tensor in reader.outputs),
        weights=dict(reader.weights.most_common()),
        weights_end=reader.weights_end,
        section=reader.section,
    )


def ir_artifact(path: Path, ir: OpenvinoIr) -> Artifact | None:
    """What the model is by its graph, which decides, and its metadata; None without metadata.

    The weights are not looked at.
    """
    artifact = Artifact.from_metadata(path, {f"{SECTION}.{key}": value for key, value in ir.section.items()})
    if artifact is not None and artifact.kind is not Kind.OPENVINO:
        raise ArtifactError(
            f"Its metadata speaks of a file of kind {artifact.kind}.", remedy="Convert the model again.", where=path
        )
    return None if artifact is None else noted(artifact, by_graph(artifact, ir.inputs, ir.outputs))


@dataclass
class _Tensor:
    name: str
    kind: str = "undefined"
    shape: list[int | None] = field(default_factory=list)

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.kind, tuple(self.shape))


class _Reader:
    """Takes the file as it streams by."""

    def __init__(self) -> None:
        self.version = 0
        self.layers: Counter[str] = Counter()
        self.inputs: list[_Tensor] = []
        self.outputs: list[_Tensor] = []
        self.weights: Counter[str] = Counter()
        self.weights_end = 0
        self.section: dict[str, str] = {}
        self._place: list[str] = []
        self._layer: dict[str, str] = {}
        self._tensor: _Tensor | None = None
        self._text: list[str] | None = None
        self.parser: Any = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        # Entities could make a small file endless; OpenVINO writes no document type at all.
        self.parser.StartDoctypeDeclHandler = self._no_doctype

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        place = self._place
        if not place:
            if name != "net":
                raise ValueError(f"it begins with <{name}>")
            self.version = int(attributes["version"])
        elif place == _LAYER[:2] and name == "layer":
            self._begin_layer(attributes)
        elif place == _LAYER and name == "data" and self._layer["type"] == "Const":
            self._constant(attributes)
        elif place[:3] == _LAYER and self._tensor is not None:
            if name == "port":
                precision = attributes["precision"].lower()
                precision = _PORTS.get(precision, precision)
                self._tensor.kind = _TYPES.get(precision, precision)
            elif name == "dim":
                self._text = []
        elif place == ["net", "rt_info", SECTION] and "value" in attributes:
            self.section[name] = attributes["value"]
        if len(place) == MAX_DEPTH:
            raise ValueError("its elements are nested too deep")
        place.append(name)

    def _begin_layer(self, attributes: dict[str, str]) -> None:
        self._layer = attributes
        kind = attributes["type"]
        self.layers[kind] += 1
        if kind == "Parameter":
            self._tensor = _Tensor(attributes["name"])
            self.inputs.append(self._tensor)
        elif kind == "Result":
            # Older releases name the sink only: the tensor's name, and a number of the port.
            name = attributes.get("output_names") or attributes["name"].partition("/sink_port_")[0]
            self._tensor = _Tensor(name.partition(",")[0])
            self.outputs.append(self._tensor)

    def _constant(self, attributes: dict[str, str]) -> None:
        size, kind = int(attributes["size"]), attributes["element_type"]
        self.weights[_TYPES.get(kind, kind)] += size
        self.weights_end = max(self.weights_end, int(attributes["offset"]) + size)

    def _end(self, name: str) -> None:
        if name == "dim" and self._text is not None and self._tensor is not None:
            side = int("".join(self._text))
            self._tensor.shape.append(side if side >= 0 else None)
            self._text = None
        if self._place == _LAYER:
            self._tensor = None
        self._place.pop()

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _no_doctype(self, *_: object) -> None:
        raise ValueError("it has a document type")


_WEIGHTS = "weights_sha256"
_PREFIX = "rtmo_deploy."


def weights_path(path: Path) -> Path:
    """The .bin file that belongs to an .xml file."""
    return path.with_suffix(".bin")


def metadata_fields(artifact: Artifact, weights_sha256: str) -> dict[str, str]:
    """What is written into the section: one JSON text a field."""
    own = {key: value for key, value in artifact.to_metadata().items() if key.startswith(_PREFIX)}
    return {key.removeprefix(_PREFIX): value for key, value in own.items()} | {_WEIGHTS: json.dumps(weights_sha256)}


def openvino_artifact(path: Path) -> Artifact:
    """What an OpenVINO model is, by its .xml file; ArtifactError where its .bin file is another one."""
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
    with reading(weights):
        found = json.dumps(sha256_of(weights))
        size = weights.stat().st_size
    if size < least or recorded not in {None, found}:
        raise ArtifactError(
            f"{weights.name} beside it does not hold the weights that it was written with.",
            remedy="Copy both files from the same conversion, or convert again.",
            where=path,
        )
