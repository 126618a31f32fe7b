"""Views and edits of ONNX graphs, shared by everything that changes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


class GraphView:
    """A graph's nodes by position, its weights by name, and who makes and reads each tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        #: Position of the node that makes a tensor.
        self.producer = {name: at for at, node in enumerate(self.nodes) for name in node.output if name}
        self.inputs = {value.name for value in graph.input if value.name not in self.weights}
        #: Position of each node that reads a tensor, and which of its inputs that is.
        self.consumers: dict[str, list[tuple[int, int]]] = {}
        for at, node in enumerate(self.nodes):
            for slot, name in enumerate(node.input):
                self.consumers.setdefault(name, []).append((at, slot))

    def label(self, at: int) -> str:
        """A node's name, or its position where it has none."""
        return self.nodes[at].name or f"node {at} ({self.nodes[at].op_type})"

    def is_activation(self, name: str) -> bool:
        """Whether a tensor is computed or an input, not a weight."""
        return name in self.producer or name in self.inputs

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, each once."""
        return [self.nodes[at] for at in dict.fromkeys(at for at, _ in self.consumers.get(name, []))]

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for an input or a weight."""
        return self.nodes[self.producer[name]] if name in self.producer else None

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a weight; None if the tensor is none."""
        return onnx.numpy_helper.to_array(self.weights[name]) if name in self.weights else None


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute; ``default`` where it has none of that name."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def unique(name: str, taken: set[str]) -> str:
    """The name, or the name with a number where it is taken; it is taken from then on."""
    chosen, count = name, 1
    while chosen in taken:
        chosen, count = f"{name}_{count}", count + 1
    taken.add(chosen)
    return chosen


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that can be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Turn ``Constant`` nodes into initializers, in place: tools look for weights and thresholds there."""
    for node in list(model.graph.node):
        if node.op_type != "Constant" or [a.name for a in node.attribute] != ["value"]:
            continue
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        model.graph.node.remove(node)


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy whose outputs are these float32 tensors; ONNX Runtime does not compute what they do not need."""
    copy = copy_of(model)
    del copy.graph.output[:]
    float32 = onnx.TensorProto.FLOAT
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, None) for name in names)
    return copy


def rebuild(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], weights: Iterable[onnx.TensorProto]) -> None:
    """Replace a graph's nodes, and its weights by those that something reads; in place.

    Both may hold nodes and weights of the graph itself: all are copied before the old ones go.
    """
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    read = set(_names_read(copies)) | {value.name for value in graph.output}
    kept = [onnx.TensorProto.FromString(one.SerializeToString()) for one in weights if one.name in read]
    del graph.node[:]
    del graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(kept)


def _names_read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names that nodes read, and that bodies of control flow may read from outside."""
    for node in nodes:
        yield from node.input
        for one in node.attribute:
            for body in [*([one.g] if one.HasField("g") else []), *one.graphs]:
                yield from _names_read(body.node)
                yield from (value.name for value in body.output)


def infer(model: onnx.ModelProto, *, strict: bool = True) -> onnx.ModelProto:
    """A copy with the types and shapes of all tensors that can be told; ``strict`` fails at an unknown operator."""
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=strict, data_prop=True)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type, by ONNX's number, of every tensor: inputs, weights, inner ones and outputs."""
    graph = infer(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types
