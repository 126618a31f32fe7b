"""Q/DQ pairs in a half graph: which of them become half, and scales that a half can hold.

What is 8-bit stays 8-bit: only the type on the float side of a pair changes, which is the type of its scale (from
operator set 19 on it may be half). A strongly typed TensorRT wants a DequantizeLinear's output, and so its scale, in
the type of the operator that it is fused into: a Cast between the two would keep that operator from computing in 8
bits. So a pair takes the type of what reads it, and an operator whose pair's scale no half can hold stays float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.convert.precision.graph import HalfType

#: The operators of a pair.
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: The first operator set in which their float side may be half.
PAIR_OPSET = 19
_LIMIT = 127


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether there are Q/DQ pairs in a graph."""
    return any(node.op_type in PAIR for node in model.graph.node)


def scales_of(graph: onnx.GraphProto) -> Mapping[str, str]:
    """For each tensor that a DequantizeLinear puts out the name of its scale."""
    return {node.output[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}


def half_pairs(graph: onnx.GraphProto, half_nodes: Collection[str]) -> frozenset[str]:
    """Names of the Q/DQ nodes whose float side becomes half: those that a half node reads.

    Args:
        graph: The graph; what is quantised is read by a DequantizeLinear only.
        half_nodes: Names of the other nodes that compute in half.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def read_by(node: onnx.NodeProto, names: Collection[str]) -> bool:
        return any(reader.name in names for reader in readers.get(node.output[0], []))

    dequantize = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    found = frozenset(node.name for node in dequantize if read_by(node, half_nodes))
    return found | {node.name for node in graph.node if node.op_type == "QuantizeLinear" and read_by(node, found)}


def hold_scales(graph: onnx.GraphProto, half: HalfType, names: Collection[str]) -> int:
    """Round the scales of 8-bit weights to what a half can hold, and fit the weights to them; in place.

    Where a channel's scale is a normal number of that type nothing changes in its weights: 127 times the rounding is
    less than half a step. Where it is smaller (a channel of next to nothing), it becomes the next greater number that
    there is, for TensorRT takes no scale of zero, and the channel's weights are rounded anew.

    Args:
        graph: The graph.
        half: The type.
        names: Names of the DequantizeLinear nodes that become half.

    Returns:
        How many weights have other numbers than before.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    changed = 0
    for node in graph.node:
        if node.name not in names or node.op_type != "DequantizeLinear" or node.input[0] not in weights:
            continue
        integers, scales = (onnx.numpy_helper.to_array(weights[name]) for name in node.input[:2])
        if integers.dtype != np.int8 or scales.dtype != np.float32:
            continue
        held = _held(scales, half)
        fitted = _fitted(integers, scales, held, _axis(node))
        changed += int(np.count_nonzero(fitted != integers))
        weights[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(held, node.input[1]))
        weights[node.input[0]].CopyFrom(onnx.numpy_helper.from_array(fitted, node.input[0]))
    return changed


def _held(scales: NDArray[np.float32], half: HalfType) -> NDArray[np.float32]:
    """Scales that a half can hold: the nearest; below its normal numbers none smaller, so that 127 steps reach."""
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
    return np.clip(np.rint(integers * ratio), -_LIMIT, _LIMIT).astype(np.int8)


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
