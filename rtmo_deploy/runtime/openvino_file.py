"""What an OpenVINO model (``.xml`` and ``.bin``) knows of itself, read without OpenVINO.

The graph lies in the .xml file, the weights in a .bin file of the same name. The fields of the
:class:`~rtmo_deploy.artifact.Artifact` stand in the .xml file, where OpenVINO keeps remarks of a model's makers
(``net/rt_info/rtmo_deploy``), one element a field, its value JSON; and beside them the SHA-256 of the .bin file.
OpenVINO checks nothing but the length of a .bin file, so a .bin file of another model would go unnoticed.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from rtmo_deploy.artifact import Artifact
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import OPENVINO, Kind, require
from rtmo_deploy.files import open_regular, reading, sha256_of
from rtmo_deploy.runtime.contract import TensorSpec, by_graph, noted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


#: Bytes of an .xml file (ours have one MiB), and depth of its elements.
MAX_BYTES, MAX_DEPTH = 2**23, 100
#: Name of the section in ``net/rt_info`` that is ours.
SECTION = "rtmo_deploy"

#: OpenVINO's names of element types and, where they differ, of a port's precision; and NumPy's.
_TYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "fp64": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "i64": "int64",
    "i32": "int32",
    "i8": "int8",
    "u8": "uint8",
    "boolean": "bool",
}
_WEIGHTS = "weights_sha256"
_PREFIX = "rtmo_deploy."


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


class _Builder(ET.TreeBuilder):
    """Builds the tree of an .xml file, of bounded depth."""

    depth = 0

    def start(self, tag: Any, attrs: Any, /) -> ET.Element:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError("its elements are nested too deep")
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> ET.Element:
        self.depth -= 1
        return super().end(tag)

    def doctype(self, *_: object) -> None:
        # Entities could make a small file endless; OpenVINO writes no document type at all.
        raise ValueError("it has a document type")


def read_ir(path: Path) -> OpenvinoIr:
    """Read an .xml file; ArtifactError where it is missing, damaged or no OpenVINO model."""
    require(path, OPENVINO)
    try:
        with reading(path), open_regular(path, max_bytes=MAX_BYTES) as stream:
            parser = ET.XMLParser(target=_Builder())  # noqa: S314 - the builder refuses document types
            ir = _read(ET.parse(stream, parser).getroot())  # noqa: S314
    except (ET.ParseError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"It is not an OpenVINO model, or is cut short ({error}).", remedy="Convert or copy it again.", where=path
        ) from error
    if not ir.layers:
        raise ArtifactError("It is XML without a graph in it.", remedy="Convert or copy it again.", where=path)
    return ir


def _read(net: ET.Element) -> OpenvinoIr:
    if net.tag != "net":
        raise ValueError(f"it begins with <{net.tag}>")
    layers, weights, weights_end = Counter[str](), Counter[str](), 0
    inputs, outputs = [], []
    for layer in net.iterfind("layers/layer"):
        kind, data = layer.attrib["type"], layer.find("data")
        layers[kind] += 1
        if kind == "Const" and data is not None:
            size, dtype = int(data.attrib["size"]), data.attrib["element_type"]
            weights[_TYPES.get(dtype, dtype)] += size
            weights_end = max(weights_end, int(data.attrib["offset"]) + size)
        elif kind == "Parameter":
            inputs.append(_tensor(layer, layer.attrib["name"]))
        elif kind == "Result":
            # Older releases name the sink only: the tensor's name, and a number of the port.
            name = layer.get("output_names") or layer.attrib["name"].partition("/sink_port_")[0]
            outputs.append(_tensor(layer, name.partition(",")[0]))
    section = {one.tag: one.attrib["value"] for one in net.iterfind(f"rt_info/{SECTION}/*") if "value" in one.attrib}
    return OpenvinoIr(
        version=int(net.attrib["version"]),
        layers=dict(sorted(layers.items())),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        weights=dict(weights.most_common()),
        weights_end=weights_end,
        section=section,
    )


def _tensor(layer: ET.Element, name: str) -> TensorSpec:
    """The tensor of a layer's only port."""
    port = layer.find("*/port")
    precision = "undefined" if port is None else port.attrib["precision"].lower()
    sides = [int(dim.text or "") for dim in layer.iterfind("*/port/dim")]
    return TensorSpec(name, _TYPES.get(precision, precision), tuple(side if side >= 0 else None for side in sides))


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
    weights = weights_path(path)
    if not weights.is_file():
        raise ArtifactError(
            f"Its weights {weights.name} are not beside it.", remedy="Copy both files, or convert again.", where=path
        )
    with reading(weights):
        found = json.dumps(sha256_of(weights))
        size = weights.stat().st_size
    # A graph that was changed afterwards was written with a .bin file of its own; the hash is the former one's.
    other = not artifact.corrected and ir.section[_WEIGHTS] != found
    if size < ir.weights_end or other:
        raise ArtifactError(
            f"{weights.name} beside it does not hold the weights that it was written with.",
            remedy="Copy both files from the same conversion, or convert again.",
            where=path,
        )
    return artifact
