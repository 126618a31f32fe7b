"""The pass itself: which nodes compute in half is told from outside; here the types are made to fit.

Weights of half nodes are stored in half. Casts stand only where a tensor crosses from one side to the other, one a
tensor and direction; weights are cast here and now, never by a node. The graph's inputs and outputs keep their types.
The result is strongly typed: wherever an operator wants operands of one type, they have one type. Q/DQ pairs take the
type of what reads them; see :mod:`rtmo_deploy.convert.precision.quantized`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto

from rtmo_deploy.convert.passes import constants_to_initializers
from rtmo_deploy.convert.precision.quantized import (
    PAIR,
    PAIR_OPSET,
    half_pairs,
    hold_scales,
    is_quantized,
    scales_of,
)
from rtmo_deploy.convert.precision.tensor_types import element_types, infer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class HalfType:
    """A 16-bit type.

    Attributes:
        name: What it is called in file names, node names and metadata.
        onnx: Its number in ONNX.
        numpy: Its NumPy type.
        largest: Its largest finite value.
        smallest_normal: Below it, precision goes.
        opset: The first operator set all of whose operators take it.
        epsilon: Distance from 1 to the next number.
    """

    name: str
    onnx: int
    numpy: np.dtype[np.generic]
    largest: float
    smallest_normal: float
    opset: int
    epsilon: float


HALF_TYPES: Mapping[str, HalfType] = {
    "fp16": HalfType("fp16", TensorProto.FLOAT16, np.dtype(np.float16), 65504.0, 2.0**-14, 17, 2.0**-10),
    "bf16": HalfType("bf16", TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16), 3.3895e38, 2.0**-126, 22, 2.0**-7),
}

#: Inputs that are float32 whatever the type of the data, by operator: here Resize's region and scales.
FLOAT_ONLY_INPUTS = {"Resize": frozenset({1, 2})}
#: They take a tensor of any type as it is.
_LOOKS_AT_NO_VALUE = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class HalfGraph:
    """What the pass made.

    Attributes:
        model: A new model; the one given is untouched.
        half_nodes: Nodes that compute in half.
        casts: Cast nodes that were put in.
        kept: Nodes that were to compute in half and stay in float32 because a weight does not fit, and why.
    """

    model: onnx.ModelProto
    half_nodes: int
    casts: int
    kept: Mapping[str, str]


def to_half(model: onnx.ModelProto, half: HalfType, wanted: Callable[[onnx.NodeProto], bool]) -> HalfGraph:
    """Let the wanted nodes compute in half.

    Args:
        model: A graph of float32, and of 8 bits between Q/DQ pairs, without subgraphs; its nodes in topological order.
        half: The type.
        wanted: Whether a node shall; asked only of nodes that have float32 operands, and of no Q/DQ node.

    Returns:
        A new model, its inner types and shapes inferred anew.
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
    return HalfGraph(infer(work), len(pass_.half_nodes), pass_.casts, pass_.kept)


def _at_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """A copy of the model, of a newer operator set if it must be (convolutions take bfloat16 from 22 on)."""
    if all(entry.version >= least for entry in model.opset_import if not entry.domain):
        work = onnx.ModelProto()
        work.CopyFrom(model)
        return work
    work = onnx.version_converter.convert_version(model, least)
    work.ir_version = max(work.ir_version, onnx.helper.find_min_ir_version_for(list(work.opset_import)))
    return work


class _Pass:
    """One run of the pass over one model, in place."""

    def __init__(self, model: onnx.ModelProto, half: HalfType, types: Mapping[str, int]) -> None:
        self.graph, self.half, self.types = model.graph, half, types
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.scales = scales_of(model.graph)
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
                added = node.op_type in {"Add", "Sub"} or place >= 2  # a bias: where it is tiny it hardly matters
                why = _unfit(onnx.numpy_helper.to_array(self.weights[name]), self.half, factor=not added)
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
                _set_target(node, self.half.onnx)
            for place, name in enumerate(node.output):
                if name in outputs and name in self.half_tensors:
                    self._emit_output(node, place)
        ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self.graph.node[:]
        self.graph.node.extend(ordered)
        self._store_weights()

    def _data_inputs(self, node: onnx.NodeProto) -> list[tuple[int, str]]:
        if node.op_type in _LOOKS_AT_NO_VALUE:
            return []
        fixed = FLOAT_ONLY_INPUTS.get(node.op_type, frozenset())
        return [(place, name) for place, name in enumerate(node.input) if name and place not in fixed]

    def _as(self, name: str, consumer: onnx.NodeProto, *, in_half: bool) -> str:
        """What a node takes in the place of a tensor."""
        is_half = name in self.half_tensors
        if self.types.get(name) != TensorProto.FLOAT or is_half == in_half:
            return name
        key = (name, in_half)
        if key not in self._ready:
            if name in self.weights:
                self._ready[key] = f"{name}.{self.half.name}"
            else:
                self._ready[key] = self._cast(name, consumer, in_half=in_half)
        return self._ready[key]

    def _cast(self, name: str, consumer: onnx.NodeProto, *, in_half: bool) -> str:
        target = (self.half.name, self.half.onnx) if in_half else ("fp32", TensorProto.FLOAT)
        label = self._unique(f"{consumer.name.rpartition('/')[0]}/Cast_to_{target[0]}")
        output = f"{label}_output_0"
        self._nodes.append(onnx.helper.make_node("Cast", [name], [output], name=label, to=target[1]))
        self.casts += 1
        return output

    def _emit_output(self, node: onnx.NodeProto, place: int) -> None:
        """A graph output stays float32: the node's own output gets another name."""
        name = node.output[place]
        inner = f"{name}.{self.half.name}"
        node.output[place] = inner
        label = self._unique(f"{node.name.rpartition('/')[0]}/Cast_to_fp32")
        self._nodes.append(onnx.helper.make_node("Cast", [inner], [name], name=label, to=TensorProto.FLOAT))
        self.casts += 1
        self._ready[name, True] = inner
        self.half_tensors.discard(name)

    def _unique(self, base: str) -> str:
        name, count = base, 0
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def _store_weights(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        used |= {value.name for value in self.graph.output}
        tensors = []
        for tensor in self.graph.initializer:
            if tensor.name in used:
                tensors.append(tensor)
            cast = self._ready.get((tensor.name, True))
            if cast:
                value = onnx.numpy_helper.to_array(tensor).astype(self.half.numpy)
                tensors.append(_tensor(value, cast, self.half))
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
        del self.graph.initializer[:]
        self.graph.initializer.extend(copies)


def _unfit(value: NDArray[np.generic], half: HalfType, *, factor: bool) -> str:
    """Why a weight cannot be stored in half; empty if it can."""
    magnitude = np.abs(value.astype(np.float64))
    most = float(magnitude.max(initial=0.0))
    if not np.isfinite(most):
        return "is not finite"
    if most > half.largest:
        return f"reaches {most:.4g}, {half.name} ends at {half.largest:.5g}"
    if factor and 0 < most < half.smallest_normal:
        return f"is at most {most:.3g}, {half.name} loses precision below {half.smallest_normal:.3g}"
    return ""


def _tensor(value: NDArray[np.generic], name: str, half: HalfType) -> onnx.TensorProto:
    return onnx.helper.make_tensor(name, half.onnx, value.shape, value.tobytes(), raw=True)


def _set_target(node: onnx.NodeProto, to: int) -> None:
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = to
