"""The float32 model that is quantised: checked, its multiply-accumulates counted, its layers grouped in blocks.

The layers of a block revert to FP32 together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.artifact import DecodeMode, Target
from rtmo_deploy.convert.graph import GraphView, attribute, copy_of
from rtmo_deploy.convert.quantize.placement import RULES, Placement, candidates, place, rule_of
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable

    from rtmo_deploy.artifact import Artifact

_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"})
#: Parts of a name that make a block, by the first of them: ``/backbone/stage1/stage1.1``, ``/neck/fpn_blocks.0``.
_DEPTH = {"backbone": 3}
_USUAL_DEPTH = 2
#: ``/neck/projector/cls.0``: parts of a projector are too different to go together.
_DEEPER = {"projector"}
_DECODING = RULES[0].name
#: The first operator set whose QuantizeLinear has a scale for each channel.
_PER_CHANNEL = 13


@dataclass(frozen=True)
class Block:
    """Some convolutions: what their names have in common, their positions in the graph, their multiply-accumulates."""

    name: str
    layers: tuple[int, ...]
    macs: int


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates (MACs) of an image, of each node by its position.

    0 for nodes that have none, and for matrix products whose shapes depend on the data.
    """

    nodes: tuple[int, ...]
    decoding: frozenset[int]  #: Positions of the nodes that belong to decoding.

    @property
    def graph(self) -> int:
        """Of the whole graph: in ``fixed`` mode the rows that nobody fills are computed too."""
        return sum(self.nodes)

    @property
    def network(self) -> int:
        """Of the network: all that an image costs whoever is in it, up to the head's outputs."""
        return sum(count for at, count in enumerate(self.nodes) if at not in self.decoding)

    def of(self, layers: Iterable[int]) -> int:
        """Of the nodes at these positions."""
        return sum(self.nodes[at] for at in layers)


@dataclass(frozen=True, eq=False)
class SourceModel:
    """A float32 model."""

    path: Path
    sha256: str  #: Of the file.
    model: onnx.ModelProto = field(repr=False)
    artifact: Artifact
    view: GraphView = field(repr=False)
    placement: Placement = field(repr=False)  #: Where Q/DQ pairs go if all of it is quantised.
    macs: MacCount


def default_target(artifact: Artifact) -> Target:
    """What a model is quantised for unless told: TensorRT if it decodes in fixed shapes, else a CPU, by OpenVINO."""
    return Target.TENSORRT if artifact.decode.mode in {DecodeMode.FIXED, DecodeMode.PLUGIN} else Target.OPENVINO


def open_source(path: str | os.PathLike[str], target: str | None = None) -> SourceModel:
    """Read a model that is to be quantised for a runtime, a :class:`Target`; :func:`default_target` if not given.

    Raises:
        ArtifactError: It is no float32 ONNX model of this kind, is quantised already, or has nothing to quantise.
    """
    path = Path(path)
    model = load_onnx(path)
    artifact = onnx_artifact(path, model)
    operators = {node.op_type for node in model.graph.node}
    if artifact.kind is not Kind.ONNX or artifact.precision != "fp32" or operators & _QUANTIZED:
        precision = "quantised" if operators & _QUANTIZED else artifact.precision
        raise ArtifactError(
            f"This model is {precision} already; its float32 form is needed.",
            remedy="Quantise the file it was made from; casts to fp16 come after the quantisation.",
            where=path,
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)
    if opset < _PER_CHANNEL:
        raise ArtifactError(
            f"It is of opset {opset}; weights with a scale for each channel need {_PER_CHANNEL}.",
            remedy="Export the checkpoint with 'rtmo-deploy export'.",
            where=path,
        )
    inputs = signature(model).inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != "float32":
        raise ArtifactError(
            f"Its inputs are no single float32 image tensor: {'; '.join(map(str, inputs)) or 'none'}.",
            remedy="Export the checkpoint with 'rtmo-deploy export'.",
            where=path,
        )
    try:
        onnx.checker.check_model(model)
        view = GraphView(model.graph)
        macs = count_macs(model, (artifact.input.height, artifact.input.width))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"It is not well formed: {detail}", remedy="'rtmo-deploy validate' tells more; export it again.", where=path
        ) from error
    layers = candidates(view)
    if not layers:
        raise ArtifactError(
            "There is no convolution with a fixed float32 weight in it, so there is nothing to quantise.",
            remedy="Give a model exported by 'rtmo-deploy export'.",
            where=path,
        )
    placement = place(view, layers, default_target(artifact) if target is None else Target(target))
    return SourceModel(path, sha256_of(path), model, artifact, view, placement, macs)


def blocks_of(view: GraphView, layers: Collection[int], macs: MacCount) -> tuple[Block, ...]:
    """Group layers by their names, in the graph's order; a layer without a name of that kind stands alone."""
    groups: dict[str, list[int]] = {}
    for at in layers:
        groups.setdefault(_block_name(view.label(at)), []).append(at)
    return tuple(Block(name, tuple(found), macs.of(found)) for name, found in groups.items())


def _block_name(label: str) -> str:
    parts = label.split("/")
    if len(parts) < 3 or parts[0]:
        return label
    inner = parts[1:-1]
    depth = _DEPTH.get(inner[0], _USUAL_DEPTH) + (len(inner) > 1 and inner[1] in _DEEPER)
    chosen = inner[:depth]
    while len(chosen) > 1 and chosen[-1] == "conv":
        chosen.pop()
    return "/" + "/".join(chosen)


def count_macs(model: onnx.ModelProto, input_hw: tuple[int, int]) -> MacCount:
    """Count the multiply-accumulates of one image of this height and width, by shape inference."""
    shapes = _shapes(model, input_hw)
    nodes = model.graph.node
    decoding = frozenset(at for at, node in enumerate(nodes) if rule_of(node).name == _DECODING)
    return MacCount(tuple(_macs(node, shapes) for node in nodes), decoding)


def _shapes(model: onnx.ModelProto, input_hw: tuple[int, int]) -> dict[str, list[int] | None]:
    sized = copy_of(model)
    weights = {tensor.name for tensor in sized.graph.initializer}
    for value in sized.graph.input:
        sides = value.type.tensor_type.shape.dim
        if value.name not in weights and len(sides) == 4:
            for side, length in zip(sides, (sides[0].dim_value or 1, sides[1].dim_value or 3, *input_hw), strict=True):
                side.Clear()
                side.dim_value = length
    del sized.graph.value_info[:]  # they may hold names of sizes that are known now
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    shapes: dict[str, list[int] | None] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sides = value.type.tensor_type.shape.dim
        known = value.type.tensor_type.HasField("shape") and all(side.HasField("dim_value") for side in sides)
        shapes[value.name] = [side.dim_value for side in sides] if known else None
    return shapes | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int] | None]) -> int:
    if node.op_type not in {"Conv", "MatMul", "Gemm"}:
        return 0
    output, factor = shapes.get(node.output[0]), shapes.get(node.input[1 if node.op_type == "Conv" else 0])
    if output is None or not factor:
        return 0
    if node.op_type == "Conv":
        return math.prod(output[1:]) * math.prod(factor[1:])
    return math.prod(output) * factor[-2 if attribute(node, "transA") else -1]
