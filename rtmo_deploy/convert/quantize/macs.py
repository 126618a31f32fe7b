"""How much arithmetic each node is: multiply-accumulates of one picture at the model's own size, by shape inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.convert.quantize.rules import RULES, rule_of

if TYPE_CHECKING:
    from collections.abc import Collection

_DECODING = RULES[0].name


@dataclass(frozen=True)
class Share:
    """How much of a network is 8-bit.

    Attributes:
        int8: Multiply-accumulates of a picture that are 8-bit.
        network: Those of the network: all that a picture costs whoever is in it, up to the head's outputs.
        graph: Those of the whole graph, decoding included, as far as its shapes do not depend on the data: in ``fixed``
            mode the rows that nobody fills are computed too.
    """

    int8: int
    network: int
    graph: int

    @property
    def of_network(self) -> float:
        """``int8 / network``."""
        return self.int8 / self.network if self.network else 0.0

    @property
    def of_graph(self) -> float:
        """``int8 / graph``."""
        return self.int8 / self.graph if self.graph else 0.0


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of each node.

    Attributes:
        nodes: By position; 0 for nodes that have none.
        decoding: Positions of the nodes that belong to decoding.
        uncounted: Names of matrix products whose shapes depend on the data.
    """

    nodes: tuple[int, ...]
    decoding: frozenset[int]
    uncounted: tuple[str, ...]

    def share(self, layers: Collection[int]) -> Share:
        """The share of the nodes at these positions."""
        network = sum(count for at, count in enumerate(self.nodes) if at not in self.decoding)
        return Share(sum(self.nodes[at] for at in layers), network, sum(self.nodes))


def count_macs(model: onnx.ModelProto, input_hw: tuple[int, int]) -> MacCount:
    """Count them.

    Args:
        model: The float32 model; untouched.
        input_hw: Height and width of the picture.
    """
    shapes = _shapes(model, input_hw)
    counts, uncounted = [], []
    for node in model.graph.node:
        count = _macs(node, shapes)
        if count is None:
            uncounted.append(node.name)
        counts.append(count or 0)
    decoding = frozenset(at for at, node in enumerate(model.graph.node) if rule_of(node).name == _DECODING)
    return MacCount(tuple(counts), decoding, tuple(uncounted))


def _shapes(model: onnx.ModelProto, input_hw: tuple[int, int]) -> dict[str, list[int] | None]:
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
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
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    return shapes


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int] | None]) -> int | None:
    """Of a node for one picture; None if it has some and their number is not known."""
    if node.op_type not in {"Conv", "MatMul", "Gemm"}:
        return 0
    output, factor = shapes.get(node.output[0]), shapes.get(node.input[1 if node.op_type == "Conv" else 0])
    if output is None or not factor:
        return None
    if node.op_type == "Conv":
        return math.prod(output[1:]) * math.prod(factor[1:])
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * (factor[-2] if turned else factor[-1])
