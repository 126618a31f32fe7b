"""A half graph as a float32 graph that rounds where the half graph rounds.

ONNX Runtime's CPU has few half kernels: it runs such nodes in float32 and leaves the rounding between them out, so a
half graph that runs there says little about one that runs on a GPU. In an emulated graph every tensor that is half is
computed in float32 from rounded operands and then rounded, as hardware does that multiplies in half and sums up in
float32. It tells the largest magnitude of each such tensor, so that an overflow is found by the name of its node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from rtmo_deploy.convert.precision.tensor_types import element_types

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.convert.precision.graph import HalfType

#: Prefix of the outputs that tell magnitudes.
PEAK = "peak of "
#: Operators that move values and round none; what they are given is rounded already.
_MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)


def emulated(model: onnx.ModelProto, half: HalfType, *, peaks: bool = True) -> onnx.ModelProto:
    """The float32 graph that computes what a half graph computes.

    Args:
        model: A graph made by the pass.
        half: Its type.
        peaks: Give it an output ``peak of <node>`` for each node that rounds: the largest magnitude before rounding.
    """
    types = element_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for tensor in graph.initializer:
        if tensor.data_type == half.onnx:
            value = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in list(graph.node):
        nodes.append(node)
        halves = [place for place, name in enumerate(node.output) if types.get(name) == half.onnx]
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == half.onnx:
                    attribute.i = TensorProto.FLOAT
        if node.op_type in _MOVES:
            continue
        for place in halves:
            nodes += _rounding(graph, node, place, half, peaks=peaks)
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    del graph.value_info[:]
    return result


def _rounding(
    graph: onnx.GraphProto, node: onnx.NodeProto, place: int, half: HalfType, *, peaks: bool
) -> list[onnx.NodeProto]:
    name = node.output[place]
    exact, rounded = f"{name}.exact", f"{name}.rounded"
    node.output[place] = exact
    nodes = [
        onnx.helper.make_node("Cast", [exact], [rounded], name=f"{node.name}.{place}.round", to=half.onnx),
        onnx.helper.make_node("Cast", [rounded], [name], name=f"{node.name}.{place}.back", to=TensorProto.FLOAT),
    ]
    if peaks:
        magnitude, peak = f"{name}.magnitude", f"{PEAK}{node.name}" + (f" output {place}" if place else "")
        nodes += [
            onnx.helper.make_node("Abs", [exact], [magnitude], name=f"{node.name}.{place}.abs"),
            onnx.helper.make_node("ReduceMax", [magnitude], [peak], name=f"{node.name}.{place}.max", keepdims=0),
        ]
        graph.output.append(onnx.helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
    return nodes


def split_peaks(
    outputs: Mapping[str, NDArray[np.float32]],
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """An emulated graph's outputs: the graph's own, and the magnitudes by node."""
    own = {name: value for name, value in outputs.items() if not name.startswith(PEAK)}
    found = {name[len(PEAK) :]: float(value) for name, value in outputs.items() if name.startswith(PEAK)}
    return own, found
