"""Which precision an engine really computes in: an engine asked for in FP16 that computes in FP32 is refused.

Convolutions and matrix products are counted twice: in the strongly typed network before the build, and in the layers of
the engine after it. A layer of an engine names the ONNX nodes that it computes. Of the layers that name a convolution,
the one that holds its weights computes it, in the types of its weights and input. Other layers may hold larger
constants for it: of a static input, the channels that pad it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

#: Share of convolutions that an FP16 or BF16 model has in that type: its FP32 block list is small.
MIN_SHARE = 0.5
_FLOATS = frozenset({"fp32", "fp16", "bf16"})
_NETWORK = "typed network before the build"
#: Operators that are counted, as ONNX and as TensorRT call them.
_COUNTED = {"Conv": "convolutions", "MatMul": "matrix_products", "Gemm": "matrix_products"}
_TYPED = {"CONVOLUTION": "convolutions", "MATRIX_MULTIPLY": "matrix_products"}
#: TensorRT's names of types that have another one here, in lower case.
_RENAMED = {"bfloat16": "bf16", "half": "fp16", "float": "fp32"}
_TYPE_NAMES = ("bf16", "fp8", "fp16", "int8", "uint8", "int32", "int64", "int4", "fp4", "bool", "fp32", *_RENAMED)
_ROW = re.compile(r"^Name: .*?, LayerType: (?P<kind>[^,]*), (?P<rest>.*)$")
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
    """A layer of an engine: TensorRT's name of its kind, its tensors, and the ONNX nodes that it computes a part of."""

    kind: str
    inputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    onnx: tuple[str, ...]


def normal_type(text: str) -> str:
    """``Half``, ``DataType.HALF`` or ``Row major linear FP16 format`` to ``fp16``; ``unknown`` where none is named."""
    small = text.lower()
    # The first that is named, and there the longest: "uint8" holds "int8".
    found = [(small.find(name), -len(name), name) for name in _TYPE_NAMES if name in small]
    name = min(found)[2] if found else "unknown"
    return _RENAMED.get(name, name)


def parse_layer_table(text: str) -> tuple[EngineLayer, ...]:
    """Read the table of a build's verbose log, which needs no GPU: ``Layers:``, then a line a layer."""
    layers = []
    for line in text.splitlines():
        row = _ROW.match(line.strip())
        if row is not None:
            inputs, constants, outputs = (
                tuple(_table_tensors(row["rest"], section)) for section in ("Inputs", "Constants", "Outputs")
            )
            onnx = tuple(_ONNX.findall(row["rest"]))
            layers.append(EngineLayer(row["kind"], inputs, constants, outputs, onnx))
    return tuple(layers)


def _table_tensors(rest: str, section: str) -> Iterator[LayerTensor]:
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
    """Read the engine inspector's JSON, which needs the engine loaded."""
    data = json.loads(text)
    rows = data.get("Layers", []) if isinstance(data, dict) else None
    if type(rows) is not list:
        raise ValueError("it has no list of layers")
    # With less than detailed verbosity a layer is its name alone.
    return tuple(_inspected(row) for row in rows if isinstance(row, dict))


def _inspected(row: Mapping[str, Any]) -> EngineLayer:
    def tensors(key: str) -> tuple[LayerTensor, ...]:
        return tuple(_inspected_tensor(entry) for entry in row.get(key, []))

    weights, constants = row.get("Weights"), tensors("Constants")
    if isinstance(weights, dict):
        size = (int(weights.get("Count", 0)),)
        constants = (*constants, LayerTensor(normal_type(str(weights.get("Type", ""))), size))
    onnx = _ONNX.findall(str(row.get("Metadata", "")).replace("\x1e", ""))
    return EngineLayer(str(row.get("LayerType", "")), tensors("Inputs"), constants, tensors("Outputs"), tuple(onnx))


def _inspected_tensor(entry: Mapping[str, Any]) -> LayerTensor:
    kind = entry.get("Datatype") or entry.get("Format/Datatype") or entry.get("Format") or ""
    return LayerTensor(normal_type(str(kind)), tuple(int(side) for side in entry.get("Dimensions", [])))


@dataclass(frozen=True)
class Audit:
    """What an engine computes in."""

    asked: str
    how: str  #: ``engine inspector``, ``layer table of the build log``, or the typed network.
    network: Mapping[str, Mapping[str, int]]  #: ``{"convolutions": {"fp16": 70}, ...}`` of the typed network.
    #: The same of the engine's layers; ``unseen`` counts those that no layer names. Empty without a layer table.
    engine: Mapping[str, Mapping[str, int]]
    #: Layers by kind and type: of the engine where it is known, else of the network.
    layers: Mapping[str, Mapping[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the layers."""
        return {"asked": self.asked, "how": self.how, "network": self.network, "engine": self.engine}

    def sentence(self) -> str:
        """Such as ``70 of 78 convolutions in fp16``, or ``60 of 78 convolutions in int8, 12 in fp16``."""
        counts = (self.engine or self.network).get("convolutions", {})
        first, *around = self.asked.split("+")
        said = f"{counts.get(first, 0)} of {sum(counts.values())} convolutions in {first}"
        return ", ".join([said, *(f"{counts.get(kind, 0)} in {kind}" for kind in around)])


def audit_precision(
    asked: str,
    operators: Mapping[str, str],
    network: Sequence[Mapping[str, Any]],
    layers: Sequence[EngineLayer],
    *,
    source: str,
    where: Path,
    weights: Mapping[str, tuple[int, ...]] | None = None,
) -> Audit:
    """Count what computes in which type, and refuse an engine that is not what was asked for.

    Args:
        asked: ``fp32``, ``fp16``, ``bf16``, ``int8``, or ``int8+fp16`` and ``int8+bf16``: mixed precision.
        operators: Operator of each named ONNX node.
        network: Layers of the typed network: ``name``, ``kind``, ``inputs`` (names), ``outputs`` (name and type).
        layers: Of the engine; empty if they are not known.
        source: Where these were read.
        where: The file that errors name.
        weights: Shape of each named convolution's weights, ``(O, I, ...)``.
    """
    before = _network_types(network)
    after = _engine_types(operators, layers, weights or {})
    seen = sum(kind != "unseen" for kind in after["convolutions"].values())
    trusted = bool(layers) and 2 * seen >= len(after["convolutions"])
    if trusted:
        kinds = _kinds((layer.kind, layer.outputs[0].dtype if layer.outputs else "none") for layer in layers)
    else:
        outputs = ((layer["kind"], layer["outputs"]) for layer in network)
        kinds = _kinds((kind, normal_type(made[0][1]) if made else "none") for kind, made in outputs)
    counts = _judge(asked, before, "network", where)
    if not trusted:
        return Audit(asked, _NETWORK, counts, {}, kinds)
    audit = Audit(asked, source, counts, _judge(asked, after, "engine", where), kinds)
    for kind in asked.split("+"):
        _require_kept(kind, before["convolutions"], after["convolutions"], where)
    return audit


def _network_types(network: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """``{"convolutions": {name: type}, ...}`` of the typed network."""
    types = {name: normal_type(dtype) for layer in network for name, dtype in layer["outputs"]}
    producer = {name: layer for layer in network for name, _ in layer["outputs"]}
    found: dict[str, dict[str, str]] = {group: {} for group in _TYPED.values()}
    for layer in network:
        group = _TYPED.get(layer["kind"])
        if group is None:
            continue
        sources = [producer.get(name) for name in layer["inputs"][:2]]
        quantised = [s for s in sources if s is not None and s["kind"] == "DEQUANTIZE"]
        if len(quantised) == 2:
            # Both sides come out of a dequantisation: it computes in what goes into that.
            kinds = {types.get(s["inputs"][0], "int8") for s in quantised}
            found[group][layer["name"]] = kinds.pop() if len(kinds) == 1 else "mixed"
        else:
            found[group][layer["name"]] = normal_type(layer["outputs"][0][1])
    return found


def _engine_types(
    operators: Mapping[str, str], layers: Sequence[EngineLayer], weights: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, str]]:
    naming: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        for name in layer.onnx:
            naming.setdefault(name, []).append(layer)
    found: dict[str, dict[str, str]] = {group: {} for group in _TYPED.values()}
    for name, operator in operators.items():
        if operator in _COUNTED:
            found[_COUNTED[operator]][name] = _computed_in(
                naming.get(name, []), weighted=operator == "Conv", weight=weights.get(name, ())
            )
    return found


def _computed_in(layers: Sequence[EngineLayer], *, weighted: bool, weight: tuple[int, ...]) -> str:
    """Type that an ONNX node computes in, given the layers that name it."""

    def holds(layer: EngineLayer) -> bool:  # the input channels may be padded
        return any((c.dims[:1], c.dims[2:]) == (weight[:1], weight[2:]) for c in layer.constants if len(c.dims) > 2)

    def largest(layer: EngineLayer) -> int:
        return max((constant.volume for constant in layer.constants), default=0)

    if not layers:
        return "unseen"
    # With several profiles it is there once for each.
    layers = [layer for layer in layers if holds(layer)] or layers
    most = max(map(largest, layers))
    return _join({_layer_type(layer, weighted=weighted) for layer in layers if largest(layer) == most})


def _layer_type(layer: EngineLayer, *, weighted: bool) -> str:
    inputs = {t.dtype for t in layer.inputs} - {"int32", "int64", "bool", "unknown"}
    if not layer.constants:
        return "unseen" if weighted or not inputs else _join(inputs)
    weights = max(layer.constants, key=lambda constant: constant.volume).dtype
    # A cast of the input may be part of the layer. Integer weights with another input are turned into the input's
    # type before they are multiplied.
    if weights in inputs or weights in _FLOATS or not inputs:
        return weights
    return _join(inputs | {weights})


def _join(types: set[str]) -> str:
    return types.copy().pop() if len(types) == 1 else "mixed " + "/".join(sorted(types))


def _kinds(layers: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for kind, dtype in layers:
        found.setdefault(kind, Counter())[dtype] += 1
    return {kind: dict(sorted(counts.items())) for kind, counts in sorted(found.items())}


def _judge(asked: str, types: Mapping[str, Mapping[str, str]], what: str, where: Path) -> dict[str, dict[str, int]]:
    """How many nodes of each group compute in which type; an ArtifactError if that is not what was asked for."""
    counts = {group: dict(sorted(Counter(named.values()).items())) for group, named in types.items()}
    convolutions = counts["convolutions"]
    total = sum(convolutions.values())
    first, *around = asked.split("+")
    right = convolutions.get(first, 0)
    others = [f"{count} in {kind}" for kind, count in convolutions.items() if kind not in {first, "unseen"}]
    enough = {"fp32": not others, "int8": right > 0}.get(first, right >= MIN_SHARE * total)
    # With mixed precision, something of what is left must be in the second type.
    enough = enough and all(any(group.get(kind) for group in counts.values()) for kind in around)
    if right and enough:
        return counts
    wrong = next((name for name, kind in types["convolutions"].items() if kind != asked), "none")
    raise ArtifactError(
        f"{asked} was asked for, and of the {total} convolutions of the {what} {right} compute in it "
        f"({', '.join(others) or 'others: none'}; for one, {wrong}). The engine is not written.",
        remedy="The types are those of the ONNX graph: cast it with 'rtmo-deploy cast', quantise it with "
        "'rtmo-deploy quantize', or ask for what it is.",
        where=where,
    )


def _require_kept(asked: str, before: Mapping[str, str], after: Mapping[str, str], where: Path) -> None:
    """Require the engine to compute in a type every convolution that the network computes in it."""
    if asked == "fp32":
        return
    meant = sum(kind == asked for kind in before.values())
    kept = sum(kind in {asked, "unseen"} for kind in after.values())
    if kept < meant:
        others = [name for name, kind in after.items() if kind not in {asked, "unseen"}]
        wrong = next((name for name in others if before.get(name) == asked), others[0])
        raise ArtifactError(
            f"{meant} convolutions of the network are of {asked}, and only {kept} of the engine: {wrong} computes in "
            f"{after[wrong]}. The engine is not written.",
            remedy="The backend has no kernel of this type for it; try another backend, or leave that layer in fp16.",
            where=where,
        )
