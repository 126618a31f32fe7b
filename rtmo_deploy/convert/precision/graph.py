"""The FP16 and BF16 pass: the caller says which nodes compute in 16 bits; the pass makes the types fit.

Weights of such nodes are stored in 16 bits, cast here and never by a node. Casts stand only where a tensor crosses from
one side to the other, one a tensor and direction. The graph's inputs and outputs keep their types. The result is
strongly typed: wherever an operator wants operands of one type, they have one type.

Q/DQ pairs: what is 8-bit stays 8-bit, only the type on the float side of a pair changes, which is the type of its scale
(from operator set 19 on it may be 16-bit). A strongly typed TensorRT wants a DequantizeLinear's output, and so its
scale, in the type of the operator that it is fused into: a Cast between the two would keep that operator from computing
in 8 bits. So a pair takes the type of what reads it, and an operator whose pair's scale does not fit stays FP32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, numpy_helper

from rtmo_deploy.convert.graph import (
    GraphView,
    attribute,
    constants_to_initializers,
    copy_of,
    element_types,
    infer,
    rebuild,
    unique,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rtmo_deploy.convert.precision.rules import CastType

#: Inputs that are float32 whatever the type of the data, by operator: here Resize's region and scales.
FLOAT_ONLY_INPUTS = {"Resize": frozenset({1, 2})}
#: The operators of a Q/DQ pair.
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: The first operator set in which the float side of a pair may be 16-bit.
PAIR_OPSET = 19
#: They take a tensor of any type as it is.
_READS_NO_VALUE = frozenset({"Shape", "Size"})
_INT8_LIMIT = 127


def to_16bit(model: onnx.ModelProto, cast_type: CastType, wanted: Callable[[onnx.NodeProto], bool]) -> CastGraph:
    """Let the wanted nodes compute in 16 bits; inner types and shapes of the new model are inferred anew.

    ``model`` is a graph of float32, and of 8 bits between Q/DQ pairs, without subgraphs, its nodes in topological
    order. ``wanted`` is asked only of nodes that have float32 operands, and of no Q/DQ node.
    """
    work = _at_opset(model, max(cast_type.opset, PAIR_OPSET) if is_quantized(model) else cast_type.opset)
    constants_to_initializers(work)
    made = CastGraph(work, cast_type)
    made.choose(wanted)
    made.rewrite()
    return made


def _at_opset(model: onnx.ModelProto, oldest: int) -> onnx.ModelProto:
    """A copy of the model, of a newer operator set if it must be (convolutions take bfloat16 from 22 on)."""
    if all(entry.version >= oldest for entry in model.opset_import if not entry.domain):
        return copy_of(model)
    work = onnx.version_converter.convert_version(model, oldest)
    work.ir_version = max(work.ir_version, onnx.helper.find_min_ir_version_for(list(work.opset_import)))
    return work


class CastGraph:
    """A model while the pass runs over it, and what the pass made of it."""

    def __init__(self, model: onnx.ModelProto, cast_type: CastType) -> None:
        self.model = model
        self.half_nodes = 0  #: Nodes that compute in 16 bits.
        self.casts = 0  #: Cast nodes that were put in.
        #: Nodes that were to compute in 16 bits and stay FP32 because a weight does not fit, and why.
        self.kept: dict[str, str] = {}
        self._graph, self._type, self._types = model.graph, cast_type, element_types(model)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._taken = {node.name for node in model.graph.node}
        self._names: set[str] = set()  # of 16-bit nodes
        self._tensors: set[str] = set()  # of 16 bits
        #: The name of a tensor in the other type.
        self._ready: dict[tuple[str, bool], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def choose(self, wanted: Callable[[onnx.NodeProto], bool]) -> None:
        """Choose the nodes that compute in 16 bits: those wanted whose weights fit, and the Q/DQ pairs they read."""
        #: Name of the scale of each tensor that a DequantizeLinear puts out: what was dequantised fits if that does.
        scales = {node.output[0]: node.input[1] for node in self._graph.node if node.op_type == "DequantizeLinear"}
        for node in self._graph.node:
            names = [name for _, name in _data_inputs(node)] + list(node.output)
            touches_float = any(self._types.get(name) == TensorProto.FLOAT for name in names)
            if node.op_type not in PAIR and touches_float and wanted(node):
                why = self._unfit(node, scales)
                if why:
                    self.kept[node.name] = why
                else:
                    self._names.add(node.name)
        pairs = half_pairs(self._graph, self._names)
        hold_scales(self._graph, self._type, pairs)
        self._names |= pairs
        self.half_nodes = len(self._names)
        for node in self._graph.node:
            if node.name in self._names:
                self._tensors.update(name for name in node.output if self._types.get(name) == TensorProto.FLOAT)

    def _unfit(self, node: onnx.NodeProto, scales: dict[str, str]) -> str:
        for place, given in _data_inputs(node):
            name = scales.get(given, given)
            if name in self._weights and self._types[name] == TensorProto.FLOAT:
                added = node.op_type in {"Add", "Sub"} or place >= 2
                why = self._type.unfit(numpy_helper.to_array(self._weights[name]), factor=not added)
                if why:
                    return f"{name} {why}"
        return ""

    def rewrite(self) -> None:
        """Put in the casts and the 16-bit weights."""
        outputs = {value.name for value in self._graph.output}
        for node in list(self._graph.node):
            in_16bit = node.name in self._names
            for place, name in _data_inputs(node):
                node.input[place] = self._as(name, node, in_16bit=in_16bit)
            self._nodes.append(node)
            if not in_16bit:
                continue
            if node.op_type == "Cast":
                retarget(node, self._type.onnx)
            for place, name in enumerate(node.output):
                if name in outputs and name in self._tensors:  # it stays float32: the node's own gets another name
                    inner = f"{name}.{self._type.name}"
                    node.output[place] = inner
                    self._cast(inner, node, TensorProto.FLOAT, name)
                    self._ready[name, True] = inner
                    self._tensors.discard(name)
        rebuild(self._graph, self._nodes, self._stored_weights())
        del self._graph.value_info[:]
        self.model = infer(self.model)
        # What the pass worked on is as large as the model.
        self._graph, self._weights, self._nodes = self.model.graph, {}, []

    def _as(self, name: str, consumer: onnx.NodeProto, *, in_16bit: bool) -> str:
        """What a node takes in the place of a tensor."""
        is_16bit = name in self._tensors
        if self._types.get(name) != TensorProto.FLOAT or is_16bit == in_16bit:
            return name
        key = (name, in_16bit)
        if key not in self._ready:
            target = self._type.onnx if in_16bit else TensorProto.FLOAT
            weight = name in self._weights
            self._ready[key] = f"{name}.{self._type.name}" if weight else self._cast(name, consumer, target)
        return self._ready[key]

    def _cast(self, source: str, beside: onnx.NodeProto, target: int, output: str = "") -> str:
        """Add a Cast in the scope of a node; the name of what it puts out."""
        kind = "fp32" if target == TensorProto.FLOAT else self._type.name
        label = unique(f"{beside.name.rpartition('/')[0]}/Cast_to_{kind}", self._taken)
        output = output or f"{label}_output_0"
        self._nodes.append(onnx.helper.make_node("Cast", [source], [output], name=label, to=target))
        self.casts += 1
        return output

    def _stored_weights(self) -> list[TensorProto]:
        """The weights, each followed by its 16-bit form where something reads that."""
        tensors = []
        for tensor in self._graph.initializer:
            tensors.append(tensor)
            cast = self._ready.get((tensor.name, True))
            if cast:
                value = numpy_helper.to_array(tensor).astype(self._type.numpy)
                tensors.append(onnx.helper.make_tensor(cast, self._type.onnx, value.shape, value.tobytes(), raw=True))
        return tensors


def _data_inputs(node: onnx.NodeProto) -> list[tuple[int, str]]:
    """Place and name of the inputs whose type follows the data's."""
    if node.op_type in _READS_NO_VALUE:
        return []
    fixed = FLOAT_ONLY_INPUTS.get(node.op_type, frozenset())
    return [(place, name) for place, name in enumerate(node.input) if name and place not in fixed]


def retarget(cast: onnx.NodeProto, to: int) -> None:
    """Let a Cast put out another type; in place."""
    for one in cast.attribute:
        if one.name == "to":
            one.i = to


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether there are Q/DQ pairs in a graph."""
    return any(node.op_type in PAIR for node in model.graph.node)


def half_pairs(graph: onnx.GraphProto, half_nodes: Collection[str]) -> frozenset[str]:
    """Names of the Q/DQ nodes whose float side becomes 16-bit: those that one of the named 16-bit nodes reads."""
    view = GraphView(graph)

    def read_by(operator: str, names: Collection[str]) -> set[str]:
        return {
            node.name
            for node in view.nodes
            if node.op_type == operator and any(reader.name in names for reader in view.readers(node.output[0]))
        }

    found = read_by("DequantizeLinear", half_nodes)
    return frozenset(found | read_by("QuantizeLinear", found))


def hold_scales(graph: onnx.GraphProto, cast_type: CastType, names: Collection[str]) -> int:
    """Round the scales of 8-bit weights to what a 16-bit type can hold, and fit the weights to them; in place.

    Where a channel's scale is a normal number of that type nothing changes in its weights: 127 times the rounding is
    less than half a step. Where it is smaller (a channel of next to nothing), it becomes the next greater number that
    there is, for TensorRT takes no scale of zero, and the channel's weights are rounded anew. ``names`` are those of
    the DequantizeLinear nodes that become 16-bit. Returns how many weights have other numbers than before.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    changed = 0
    for node in graph.node:
        if node.name not in names or node.op_type != "DequantizeLinear" or node.input[0] not in weights:
            continue
        integers, scales = (numpy_helper.to_array(weights[name]) for name in node.input[:2])
        if integers.dtype != np.int8 or scales.dtype != np.float32:
            continue
        # Below the type's normal numbers no scale gets smaller, so that 127 steps reach.
        nearest = scales.astype(cast_type.numpy)
        below = (scales < cast_type.smallest_normal) & (nearest.astype(np.float32) < scales)
        bits = nearest.view(np.uint16) + below.astype(np.uint16)  # of positive numbers the next one is the next pattern
        held = np.asarray(bits.view(cast_type.numpy), np.float32)
        ratio = scales.astype(np.float64) / held
        if ratio.ndim == 1:
            axis = attribute(node, "axis", 1) % integers.ndim
            ratio = np.expand_dims(ratio, [at for at in range(integers.ndim) if at != axis])
        fitted = np.clip(np.rint(integers * ratio), -_INT8_LIMIT, _INT8_LIMIT).astype(np.int8)
        changed += int(np.count_nonzero(fitted != integers))
        weights[node.input[1]].CopyFrom(numpy_helper.from_array(held, node.input[1]))
        weights[node.input[0]].CopyFrom(numpy_helper.from_array(fitted, node.input[0]))
    return changed
