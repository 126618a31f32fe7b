"""A 16-bit graph as a float32 graph that rounds where the 16-bit graph rounds.

ONNX Runtime's CPU has few 16-bit kernels: it runs such nodes in float32 and leaves the rounding between them out, so a
16-bit graph that runs there says little about one that runs on a GPU. In an emulated graph every 16-bit tensor is
computed in float32 from rounded operands and then rounded, as hardware does that multiplies in 16 bits and sums up in
float32. It tells the largest magnitude of each such tensor, so that an overflow is found by the name of its node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, numpy_helper

from rtmo_deploy.convert.graph import attribute, copy_of, element_types, rebuild
from rtmo_deploy.convert.precision.graph import retarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.convert.precision.rules import CastType

#: Prefix of the outputs that tell magnitudes.
PEAK = "peak of "
#: Operators that move values and round none; what they are given is rounded already.
_MOVES = frozenset(
    {"Expand", "Flatten", "Identity", "Pad", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze"}
    | {"Concat", "Gather", "GatherElements", "GatherND", "Slice", "Split", "Where"}
)


def emulated(model: onnx.ModelProto, half: CastType, *, peaks: bool = True) -> onnx.ModelProto:
    """The float32 graph that computes what a 16-bit graph computes.

    With ``peaks`` it has an output ``peak of <node>`` for each node that rounds: the largest magnitude before rounding.
    """
    types = element_types(model)
    result = copy_of(model)
    graph = result.graph
    for tensor in graph.initializer:
        if tensor.data_type == half.onnx:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and attribute(node, "to") == half.onnx:
            retarget(node, TensorProto.FLOAT)
        if node.op_type not in _MOVES:
            rounded = [place for place, name in enumerate(node.output) if types.get(name) == half.onnx]
            for place in rounded:
                nodes += _rounding(graph, node, place, half, peaks=peaks)
    rebuild(graph, nodes, graph.initializer)
    del graph.value_info[:]
    return result


def _rounding(
    graph: onnx.GraphProto, node: onnx.NodeProto, place: int, half: CastType, *, peaks: bool
) -> list[onnx.NodeProto]:
    """The nodes that round an output of a node and tell its peak; the node's own output gets another name."""
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
