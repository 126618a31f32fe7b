"""Puts Q/DQ pairs and 8-bit weights into a graph.

A pair is one QuantizeLinear and one DequantizeLinear on a tensor, which all its 8-bit consumers share; the others keep
reading the tensor itself. Weights are stored in 8 bits with a DequantizeLinear. Biases stay float32: TensorRT's ONNX
parser takes no 32-bit DequantizeLinear (onnx-tensorrt issue 850), and its INT8 convolutions take a float bias; the
other runtimes quantise it themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from rtmo_deploy.convert.graph import GraphView, copy_of, rebuild, unique
from rtmo_deploy.convert.quantize.ranges import quantize_weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Target
    from rtmo_deploy.convert.quantize.placement import Placement
    from rtmo_deploy.convert.quantize.ranges import Range


class Additions:
    """New Q/DQ nodes and weights for a graph, under names that are free in it; the graph itself is not touched."""

    def __init__(self, view: GraphView, target: Target) -> None:
        self.view, self.target = view, target
        self.weights: list[onnx.TensorProto] = []
        self._taken = {name for node in view.nodes for name in (node.name, *node.output)} | set(view.weights)

    def store(self, name: str, values: NDArray[np.generic]) -> str:
        """Keep a weight; its name is ``name``, or that with a number."""
        free = unique(name, self._taken)
        self.weights.append(numpy_helper.from_array(np.asarray(values), free))
        return free

    def pair(self, tensor: str, values: Range) -> tuple[onnx.NodeProto, onnx.NodeProto]:
        """A Q/DQ pair on a tensor, for values in this range."""
        scale, zero = map(self.store, (f"{tensor}_scale", f"{tensor}_zero_point"), values.numbers(self.target))
        stem = tensor if tensor.startswith("/") else f"/{tensor}"
        quantize = self._node("QuantizeLinear", [tensor, scale, zero], f"{tensor}_int8", stem)
        given = [quantize.output[0], scale, zero]
        return quantize, self._node("DequantizeLinear", given, f"{tensor}_dequantized", stem)

    def weight(self, at: int) -> onnx.NodeProto:
        """The DequantizeLinear on a convolution's weight in 8 bits; ``at`` is the convolution's position."""
        name = self.view.nodes[at].input[1]
        small, scales = quantize_weight(numpy_helper.to_array(self.view.weights[name]).astype(np.float32))
        inputs = [
            self.store(f"{name}_int8", small),
            self.store(f"{name}_scale", scales),
            self.store(f"{name}_zero_point", np.zeros(len(scales), np.int8)),
        ]
        stem = f"{self.view.label(at)}/weight"
        return self._node("DequantizeLinear", inputs, f"{name}_dequantized", stem, axis=0)

    def _node(self, operator: str, inputs: list[str], output: str, stem: str, **attributes: Any) -> onnx.NodeProto:
        output = unique(output, self._taken)
        name = unique(f"{stem}/{operator}", self._taken)
        return onnx.helper.make_node(operator, inputs, [output], name=name, **attributes)


def insert(
    model: onnx.ModelProto,
    placement: Placement,
    ranges: Mapping[str, Range],
    shifts: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """A copy of a model with Q/DQ pairs in it; ``shifts`` are added to the convolutions' biases, ``(O,)`` by name."""
    result = copy_of(model)
    view = GraphView(result.graph)
    added = Additions(view, placement.target)
    before: dict[int, list[onnx.NodeProto]] = {}
    for name, edges in placement.edges.items():
        pair = added.pair(name, ranges[name])
        before.setdefault(view.producer.get(name, -1) + 1, []).extend(pair)
        for at, slot in edges:
            view.nodes[at].input[slot] = pair[-1].output[0]
    small: dict[str, str] = {}
    for at in placement.layers:
        name = view.nodes[at].input[1]
        if name not in small:  # convolutions that share a weight go on sharing it
            dequantize = added.weight(at)
            before.setdefault(at, []).append(dequantize)
            small[name] = dequantize.output[0]
        view.nodes[at].input[1] = small[name]
        shift = (shifts or {}).get(view.label(at))
        if shift is not None:
            _correct_bias(view, at, shift, added)
    nodes = [new for at, node in enumerate(view.nodes) for new in (*before.get(at, ()), node)]
    nodes += before.get(len(view.nodes), [])
    rebuild(result.graph, nodes, [*view.weights.values(), *added.weights])
    return result


def _correct_bias(view: GraphView, at: int, shift: NDArray[np.float32], added: Additions) -> None:
    """Add to a convolution's bias, in a copy of its own."""
    node = view.nodes[at]
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in view.weights:
        return  # computed in the graph: there is nothing to add to
    values = numpy_helper.to_array(view.weights[bias]).astype(np.float32) if bias else np.zeros(len(shift), np.float32)
    corrected = added.store(f"{bias or view.label(at) + '.bias'}_corrected", values + shift)
    if len(node.input) > 2:
        node.input[2] = corrected
    else:
        node.input.append(corrected)
