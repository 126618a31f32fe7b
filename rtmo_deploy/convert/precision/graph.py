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

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, numpy_helper

from rtmo_deploy.convert.graph import GraphView, attribute, copy_of, element_types, infer, rebuild, unique
from rtmo_deploy.convert.passes import constants_to_initializers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

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


@dataclass(frozen=True)
class CastGraph:
    """What the pass made."""

    model: onnx.ModelProto  #: A new model; the one given is untouched.
    half_nodes: int  #: Nodes that compute in 16 bits.
    casts: int  #: Cast nodes that were put in.
    kept: Mapping[str, str]  #: Nodes that were to compute in 16 bits and stay FP32 because a weight does not fit: why.


def to_16bit(model: onnx.ModelProto, half: CastType, wanted: Callable[[onnx.NodeProto], bool]) -> CastGraph:
    """Let the wanted nodes compute in 16 bits; inner types and shapes of the new model are inferred anew.

    Args:
        model: A graph of float32, and of 8 bits between Q/DQ pairs, without subgraphs; its nodes in topological order.
        half: The type.
        wanted: Whether a node shall; asked only of nodes that have float32 operands, and of no Q/DQ node.
    """
    work = _at_opset(model, max(half.opset, PAIR_OPSET) if is_quantized(model) else half.opset)
    constants_to_initializers(work)
    pass_ = _Pass(work, half, element_types(work))
    for node in work.graph.node:
        if node.op_type not in PAIR and pass_.touches_float(node) and wanted(node):
            pass_.classify(node)
    pass_.take_pairs()
    pass_.rewrite()
    del work.graph.value_info[:]
    return CastGraph(infer(work), len(pass_.half_nodes), pass_.casts, pass_.kept)


def _at_opset(model: onnx.ModelProto, oldest: int) -> onnx.ModelProto:
    """A copy of the model, of a newer operator set if it must be (convolutions take bfloat16 from 22 on)."""
    if all(entry.version >= oldest for entry in model.opset_import if not entry.domain):
        return copy_of(model)
    work = onnx.version_converter.convert_version(model, oldest)
    work.ir_version = max(work.ir_version, onnx.helper.find_min_ir_version_for(list(work.opset_import)))
    return work


class _Pass:
    """One run of the pass over one model, in place."""

    def __init__(self, model: onnx.ModelProto, half: CastType, types: Mapping[str, int]) -> None:
        self.graph, self.half, self.types = model.graph, half, types
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        #: Name of the scale of each tensor that a DequantizeLinear puts out.
        self.scales = {node.output[0]: node.input[1] for node in self.graph.node if node.op_type == "DequantizeLinear"}
        self.taken = {node.name for node in model.graph.node}
        self.half_nodes: set[str] = set()
        self.half_tensors: set[str] = set()
        self.kept: dict[str, str] = {}
        self.casts = 0
        self._ready: dict[tuple[str, bool], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def touches_float(self, node: onnx.NodeProto) -> bool:
        names = [name for _, name in self._data_inputs(node)] + list(node.output)
        return any(self.types.get(name) == TensorProto.FLOAT for name in names)

    def classify(self, node: onnx.NodeProto) -> None:
        for place, given in self._data_inputs(node):
            name = self.scales.get(given, given)  # what was dequantised fits if its scale does
            if name in self.weights and self.types[name] == TensorProto.FLOAT:
                added = node.op_type in {"Add", "Sub"} or place >= 2
                why = self.half.unfit(numpy_helper.to_array(self.weights[name]), factor=not added)
                if why:
                    self.kept[node.name] = f"{name} {why}"
                    return
        self._take(node)

    def take_pairs(self) -> None:
        names = half_pairs(self.graph, self.half_nodes)
        for node in self.graph.node:
            if node.name in names:
                self._take(node)
        hold_scales(self.graph, self.half, names)

    def _take(self, node: onnx.NodeProto) -> None:
        self.half_nodes.add(node.name)
        self.half_tensors.update(name for name in node.output if self.types.get(name) == TensorProto.FLOAT)

    def rewrite(self) -> None:
        outputs = {value.name for value in self.graph.output}
        for node in list(self.graph.node):
            in_half = node.name in self.half_nodes
            for place, name in self._data_inputs(node):
                node.input[place] = self._as(name, node, in_half=in_half)
            self._nodes.append(node)
            if not in_half:
                continue
            if node.op_type == "Cast":
                retarget(node, self.half.onnx)
            for place, name in enumerate(node.output):
                if name in outputs and name in self.half_tensors:
                    self._emit_output(node, place)
        rebuild(self.graph, self._nodes, self._stored_weights())

    def _data_inputs(self, node: onnx.NodeProto) -> list[tuple[int, str]]:
        if node.op_type in _READS_NO_VALUE:
            return []
        fixed = FLOAT_ONLY_INPUTS.get(node.op_type, frozenset())
        return [(place, name) for place, name in enumerate(node.input) if name and place not in fixed]

    def _as(self, name: str, consumer: onnx.NodeProto, *, in_half: bool) -> str:
        """What a node takes in the place of a tensor."""
        is_half = name in self.half_tensors
        if self.types.get(name) != TensorProto.FLOAT or is_half == in_half:
            return name
        key = (name, in_half)
        if key not in self._ready and name in self.weights:
            self._ready[key] = f"{name}.{self.half.name}"
        elif key not in self._ready:
            label = self._cast_label(consumer, self.half.name if in_half else "fp32")
            self._cast(name, f"{label}_output_0", label, self.half.onnx if in_half else TensorProto.FLOAT)
            self._ready[key] = f"{label}_output_0"
        return self._ready[key]

    def _emit_output(self, node: onnx.NodeProto, place: int) -> None:
        """A graph output stays float32: the node's own output gets another name."""
        name = node.output[place]
        inner = f"{name}.{self.half.name}"
        node.output[place] = inner
        self._cast(inner, name, self._cast_label(node, "fp32"), TensorProto.FLOAT)
        self._ready[name, True] = inner
        self.half_tensors.discard(name)

    def _cast_label(self, beside: onnx.NodeProto, target: str) -> str:
        return unique(f"{beside.name.rpartition('/')[0]}/Cast_to_{target}", self.taken)

    def _cast(self, source: str, output: str, label: str, target: int) -> None:
        self._nodes.append(onnx.helper.make_node("Cast", [source], [output], name=label, to=target))
        self.casts += 1

    def _stored_weights(self) -> list[TensorProto]:
        """The weights, each followed by its 16-bit form where something reads that."""
        tensors = []
        for tensor in self.graph.initializer:
            tensors.append(tensor)
            cast = self._ready.get((tensor.name, True))
            if cast:
                value = numpy_helper.to_array(tensor).astype(self.half.numpy)
                tensors.append(onnx.helper.make_tensor(cast, self.half.onnx, value.shape, value.tobytes(), raw=True))
        return tensors


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


def hold_scales(graph: onnx.GraphProto, half: CastType, names: Collection[str]) -> int:
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
        held = _held(scales, half)
        fitted = _fitted(integers, scales, held, attribute(node, "axis", 1))
        changed += int(np.count_nonzero(fitted != integers))
        weights[node.input[1]].CopyFrom(numpy_helper.from_array(held, node.input[1]))
        weights[node.input[0]].CopyFrom(numpy_helper.from_array(fitted, node.input[0]))
    return changed


def _held(scales: NDArray[np.float32], half: CastType) -> NDArray[np.float32]:
    """The nearest scales of the type; below its normal numbers none smaller, so that 127 steps reach."""
    nearest = scales.astype(half.numpy)
    below = (scales < half.smallest_normal) & (nearest.astype(np.float32) < scales)
    bits = nearest.view(np.uint16) + below.astype(np.uint16)  # of positive numbers the next one is the next pattern
    return np.asarray(bits.view(half.numpy), np.float32)


def _fitted(
    integers: NDArray[np.int8], old: NDArray[np.float32], new: NDArray[np.float32], axis: int
) -> NDArray[np.int8]:
    ratio = old.astype(np.float64) / new
    if ratio.ndim == 1:
        shape = [1] * integers.ndim
        shape[axis] = len(ratio)
        ratio = ratio.reshape(shape)
    return np.clip(np.rint(integers * ratio), -_INT8_LIMIT, _INT8_LIMIT).astype(np.int8)
