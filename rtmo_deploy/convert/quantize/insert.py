"""Putting Q/DQ pairs and 8-bit weights into a graph.

A pair is one QuantizeLinear and one DequantizeLinear on a tensor, which all its 8-bit consumers share; the others keep
reading the tensor itself. Weights are stored in 8 bits with a DequantizeLinear. Biases stay float32: TensorRT's ONNX
parser takes no 32-bit DequantizeLinear (onnx-tensorrt issue 850), and its INT8 convolutions take a float bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from rtmo_deploy.convert.quantize.numerics import quantize_weight, scale_of
from rtmo_deploy.convert.quantize.placement import GraphView, Placement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray


@dataclass
class _Additions:
    """New nodes by the position that they go before, and new weights."""

    nodes: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def node(self, before: int, operator: str, inputs: Sequence[str], output: str, name: str) -> str:
        made = onnx.helper.make_node(operator, list(inputs), [output], name=self.free(name))
        self.nodes.setdefault(before, []).append(made)
        return output

    def weight(self, name: str, values: NDArray[np.generic]) -> str:
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def free(self, name: str) -> str:
        """The name, or the name with a number where it is taken."""
        chosen, count = name, 1
        while chosen in self.taken:
            chosen, count = f"{name}_{count}", count + 1
        self.taken.add(chosen)
        return chosen


def insert(
    model: onnx.ModelProto,
    placement: Placement,
    thresholds: Mapping[str, float],
    shifts: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """A copy of a model with Q/DQ pairs in it.

    Args:
        model: The float32 model; untouched.
        placement: Where.
        thresholds: For each tensor with a pair the magnitude that becomes 127.
        shifts: For each convolution by its name what is added to its bias, ``(O,)``.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    view = GraphView(graph)
    added = _Additions(taken={name for node in graph.node for name in (node.name, *node.output)} | set(view.weights))
    zero = added.weight(added.free("quantize_zero_point"), np.zeros((), np.int8))
    for name, edges in placement.edges.items():
        scale = added.weight(added.free(f"{name}_scale"), scale_of(thresholds[name]))
        before = view.producer.get(name, -1) + 1
        stem = name if name.startswith("/") else f"/{name}"
        small = added.node(
            before, "QuantizeLinear", (name, scale, zero), added.free(f"{name}_int8"), f"{stem}/QuantizeLinear"
        )
        large = added.node(
            before,
            "DequantizeLinear",
            (small, scale, zero),
            added.free(f"{name}_dequantized"),
            f"{stem}/DequantizeLinear",
        )
        for edge in edges:
            view.nodes[edge.node].input[edge.slot] = large
    done: dict[str, str] = {}
    for at in placement.layers:
        _weight_of(view, at, added, done)
        shift = (shifts or {}).get(view.label(at))
        if shift is not None:
            _correct_bias(view, at, shift, added)
    _rebuild(graph, view, added)
    return result


def _weight_of(view: GraphView, at: int, added: _Additions, done: dict[str, str]) -> None:
    """Replace a convolution's weight by its 8-bit form; convolutions that share one go on sharing it."""
    node = view.nodes[at]
    name = node.input[1]
    if name not in done:
        small, scales = quantize_weight(numpy_helper.to_array(view.weights[name]).astype(np.float32))
        inputs = (
            added.weight(added.free(f"{name}_int8"), small),
            added.weight(added.free(f"{name}_scale"), scales),
            added.weight(added.free(f"{name}_zero_point"), np.zeros(len(scales), np.int8)),
        )
        done[name] = added.node(
            at,
            "DequantizeLinear",
            inputs,
            added.free(f"{name}_dequantized"),
            f"{view.label(at)}/weight/DequantizeLinear",
        )
        added.nodes[at][-1].attribute.append(onnx.helper.make_attribute("axis", 0))
    node.input[1] = done[name]


def _correct_bias(view: GraphView, at: int, shift: NDArray[np.float32], added: _Additions) -> None:
    """Add to a convolution's bias, in a copy of its own."""
    node = view.nodes[at]
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in view.weights:
        return  # computed in the graph: there is nothing to add to
    values = numpy_helper.to_array(view.weights[bias]).astype(np.float32) if bias else np.zeros(len(shift), np.float32)
    corrected = added.weight(added.free(f"{bias or view.label(at) + '.bias'}_corrected"), values + shift)
    if len(node.input) > 2:
        node.input[2] = corrected
    else:
        node.input.append(corrected)


def _rebuild(graph: onnx.GraphProto, view: GraphView, added: _Additions) -> None:
    """Write nodes in order, and the weights that something reads."""
    nodes: list[onnx.NodeProto] = []
    for at, node in enumerate(view.nodes):
        nodes += [*added.nodes.get(at, []), node]
    nodes += added.nodes.get(len(view.nodes), [])
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    read = {name for node in copies for name in node.input} | {value.name for value in graph.output}
    read |= set(_names_in_subgraphs(copies))
    kept = [tensor for tensor in view.weights.values() if tensor.name in read]
    weights = [_copied(tensor) for tensor in [*kept, *added.weights.values()]]
    del graph.node[:]
    del graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(weights)


def _copied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _names_in_subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterable[str]:
    """Names that bodies of control flow may read from outside."""
    for node in nodes:
        for attribute in node.attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                for inner in body.node:
                    yield from inner.input
                yield from _names_in_subgraphs(body.node)
                yield from (value.name for value in body.output)


def count_pairs(model: onnx.ModelProto) -> int:
    """Q/DQ pairs on activations."""
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
