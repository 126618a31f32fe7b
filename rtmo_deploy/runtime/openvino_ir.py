"""What an OpenVINO .xml file says, read without OpenVINO: layers, tensors, weights, this project's section.

``openvino_file`` answers whether a file may be run, and refuses one that may not; this tells what is in it either way,
for whoever looks at a file that does not fit or was made by somebody else. The file streams by: nothing but counts is
kept of its thousands of layers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from rtmo_deploy.artifact import Artifact, Kind
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.guarded import open_regular
from rtmo_deploy.runtime.contract import by_graph, noted
from rtmo_deploy.runtime.onnx_file import TensorSpec
from rtmo_deploy.wanted import OPENVINO, require

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
    """What stands in an .xml file.

    Attributes:
        version: Of the format.
        layers: How many layers of which kind; those in the bodies of loops not counted.
        inputs, outputs: Its tensors; None where a side is dynamic.
        weights: Bytes of constants by element type, such as ``{"float32": 9000000}``.
        weights_end: Bytes that its .bin file has at least.
        section: This project's metadata, one JSON text a field; empty if somebody else made the file.
    """

    version: int
    layers: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: Mapping[str, int]
    weights_end: int
    section: Mapping[str, str]


def read_ir(path: Path) -> OpenvinoIr:
    """Read an .xml file.

    Raises:
        ArtifactError: There is no such file, it is damaged, or it is not an OpenVINO model.
    """
    require(path, OPENVINO)
    reader = _Reader()
    try:
        with open_regular(path, max_bytes=MAX_BYTES) as stream:
            reader.parser.ParseFile(stream)
    except OSError as error:
        raise ArtifactError(
            f"It cannot be read: {error.strerror or error}.", remedy="Check its permissions.", where=path
        ) from error
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
    """What the model is by its graph and its metadata; None without metadata. The weights are not looked at.

    Where both differ in what goes in or comes out, the graph decides.

    Raises:
        ArtifactError: The metadata is damaged, of a newer release, of another kind of file or of another model.
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
