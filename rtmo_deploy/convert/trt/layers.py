"""The layers of a built engine, read from what TensorRT prints of them.

Two sources, the same content: the table in the build's verbose log, which needs no GPU, and the engine inspector's
JSON, which needs the engine loaded.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What TensorRT calls the types that matter, in small letters; longer names first.
_TYPES = (
    ("bfloat16", "bf16"),
    ("bf16", "bf16"),
    ("fp8", "fp8"),
    ("half", "fp16"),
    ("fp16", "fp16"),
    ("int8", "int8"),
    ("uint8", "uint8"),
    ("int32", "int32"),
    ("int64", "int64"),
    ("int4", "int4"),
    ("fp4", "fp4"),
    ("bool", "bool"),
    ("fp32", "fp32"),
    ("float", "fp32"),
)
_ROW = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), (?P<rest>.*)$")
_TENSOR = re.compile(r"\{ Name: (?P<name>.*?), .*?Dimensions: \[(?P<dims>[-0-9,]*)\].*?Datatype: (?P<dtype>\w+)")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class LayerTensor:
    """Input, constant or output of a layer: its type (``fp16``) and its size (-1 where dynamic)."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def volume(self) -> int:
        """Elements; dynamic sides count as one."""
        return math.prod(abs(side) for side in self.dims)


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine.

    Attributes:
        name: TensorRT's name of it.
        kind: TensorRT's name of its kind.
        inputs, constants, outputs: Its tensors.
        onnx: Names of the ONNX nodes that it computes, or a part of.
    """

    name: str
    kind: str
    inputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    onnx: tuple[str, ...]


def normal_type(text: str) -> str:
    """``Half``, ``DataType.HALF`` or ``Row major linear FP16 format`` to ``fp16``; ``unknown`` where none is named."""
    small = text.lower()
    # The first that is named, at the place where it is named: "uint8" holds "int8".
    found = [(small.find(name), -len(name), ours) for name, ours in _TYPES if name in small]
    return min(found)[2] if found else "unknown"


def parse_layer_table(text: str) -> tuple[EngineLayer, ...]:
    """Read the table of a verbose log, ``Layers:`` and one line a layer; lines that are something else are skipped."""
    layers = []
    for line in text.splitlines():
        row = _ROW.match(line.strip())
        if row is None:
            continue
        rest = row["rest"]
        layers.append(
            EngineLayer(
                name=row["name"],
                kind=row["kind"],
                inputs=tuple(_tensors(rest, "Inputs")),
                constants=tuple(_tensors(rest, "Constants")),
                outputs=tuple(_tensors(rest, "Outputs")),
                onnx=tuple(_ONNX.findall(rest)),
            )
        )
    return tuple(layers)


def _tensors(rest: str, section: str) -> Iterator[LayerTensor]:
    # A section ends where the brackets it opened are closed.
    start = rest.find(f"{section}: [")
    if start < 0:
        return
    start += len(section) + 3
    depth, end = 1, start
    while end < len(rest) and depth:
        depth += {"[": 1, "]": -1}.get(rest[end], 0)
        end += 1
    for found in _TENSOR.finditer(rest, start, end):
        dims = tuple(int(side) for side in found["dims"].split(",") if side)
        yield LayerTensor(normal_type(found["dtype"]), dims)


def parse_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Read the engine inspector's JSON.

    Raises:
        ValueError: It is not what the inspector writes.
    """
    data = json.loads(text)
    rows = data.get("Layers", []) if isinstance(data, dict) else None
    if type(rows) is not list:
        raise ValueError("it has no list of layers")
    # With less than detailed verbosity a layer is its name alone.
    return tuple(_inspected(row) for row in rows if isinstance(row, dict))


def _inspected(row: Mapping[str, Any]) -> EngineLayer:
    weights = row.get("Weights")
    constants = [_inspected_tensor(entry) for entry in row.get("Constants", [])]
    if isinstance(weights, dict):
        constants.append(LayerTensor(normal_type(str(weights.get("Type", ""))), (int(weights.get("Count", 0)),)))
    return EngineLayer(
        str(row.get("Name", "")),
        str(row.get("LayerType", "")),
        tuple(_inspected_tensor(entry) for entry in row.get("Inputs", [])),
        tuple(constants),
        tuple(_inspected_tensor(entry) for entry in row.get("Outputs", [])),
        tuple(_ONNX.findall(str(row.get("Metadata", "")).replace("\x1e", ""))),
    )


def _inspected_tensor(entry: Mapping[str, Any]) -> LayerTensor:
    kind = entry.get("Datatype") or entry.get("Format/Datatype") or entry.get("Format") or ""
    return LayerTensor(normal_type(str(kind)), tuple(int(side) for side in entry.get("Dimensions", [])))
