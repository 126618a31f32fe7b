"""Finds, node by node, where a graph exported with ``--decode fixed`` selects its detections.

Nodes are told apart by what they compute from what, within the scope ``/decode/``; a graph that is built otherwise is
refused with the reason, never rewritten by guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.runtime.plugins.kernel import DecodeFields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SCOPE = "/decode/"
#: Operators of the suppression, from candidates' boxes and scores to the scores of survivors.
SUPPRESSION = {
    *("Add", "Cast", "Clip", "Div", "Gather", "Greater", "Identity", "MatMul", "Max", "Min", "Mul", "ReduceProd"),
    *("Relu", "Reshape", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}


class Graph:
    """A graph's nodes by what they produce and consume."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """Nodes that take a tensor."""
        return self._consumers.get(name, [])

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of an initializer, None if the tensor is none."""
        return onnx.numpy_helper.to_array(self.tensors[name]) if name in self.tensors else None


@dataclass(frozen=True)
class Selection:
    """The part of a fixed graph that selects detections, by the names of its tensors."""

    fields: DecodeFields
    #: ``(B, 1, P)``.
    logits: str
    #: Reshapes scores to ``(B, P)``.
    flatten: onnx.NodeProto
    #: ``(B, P, 4 + C)``: offset, log size, features.
    rest: str
    #: ``(P, 2)``.
    priors: str
    #: ``(B, pre_topk)`` int64, the candidates' cells.
    cell: str
    #: ``(B, max_dets)``, scores of detections, 0 below them.
    best: str
    #: Of features, offsets, boxes and cells: the survivors' tensor, and the candidates' it is taken from.
    gathered: dict[str, str]
    #: The matrix product that turns survivors' boxes into corners.
    corners: onnx.NodeProto


def find_selection(graph: Graph) -> Selection:
    """Find the part of a fixed graph that selects detections."""
    first, second = _topks(graph)
    pre_topk, max_dets = (_count(graph, node) for node in (first, second))
    logits, flatten, padded = _scores(graph, first)
    cell = first.output[1]
    if padded:
        limit = _only(graph, cell, "Min")
        cell = limit.output[0]
    index = _one(graph, cell, "Unsqueeze")
    where = _one(graph, cell, "Gather")
    _refuse(len(graph.consumers(cell)) != 2, first, "its cells are used for something else, too")
    fetch = _only(graph, index.output[0], "GatherND", besides=1)
    parts = _only(graph, fetch.output[0], "Split")
    _refuse(len(parts.output) != 3, parts, "it does not split offset, size and features")
    offset, log_size, feats = parts.output
    centre, size = _one(graph, offset, "Add"), _only(graph, log_size, "Exp")
    _refuse(set(centre.input) != {offset, where.output[0]}, centre, "it does not add the priors to the offsets")
    boxes = _only(graph, centre.output[0], "Concat")
    _refuse(list(boxes.input) != [centre.output[0], size.output[0]], boxes, "it does not join centre and size")
    score_thr, nms_thr = _thresholds(graph, second.input[0], first.output[0], boxes.output[0])
    order = _only(graph, second.output[1], "Unsqueeze")
    gathered = {}
    for node in graph.consumers(order.output[0]):
        _refuse(node.op_type != "GatherND", node, "it is not a GatherND of people")
        gathered[node.output[0]] = node.input[0]
    wanted = {feats, offset, boxes.output[0], index.output[0]}
    _refuse(set(gathered.values()) != wanted or len(gathered) != 4, order, "other tensors are gathered than known")
    survivors = next(to for to, source in gathered.items() if source == boxes.output[0])
    return Selection(
        fields=DecodeFields(max_dets=max_dets, score_thr=score_thr, nms_thr=nms_thr, pre_topk=pre_topk),
        logits=logits,
        flatten=flatten,
        rest=fetch.input[0],
        priors=where.input[0],
        cell=cell,
        best=second.output[0],
        gathered=gathered,
        corners=_corners(graph, survivors),
    )


def _topks(graph: Graph) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    nodes = [node for node in graph.graph.node if node.op_type == "TopK" and node.name.startswith(SCOPE)]
    if len(nodes) != 2:
        raise _not_fixed(f"it has {len(nodes)} TopK nodes under {SCOPE}, not 2")
    first, second = sorted(nodes, key=lambda node: any(n is not node for n in _behind(graph, node.input[0], nodes)))
    for node in (first, second):
        known = _attributes(node)
        good = known.get("axis", -1) in (1, -1) and known.get("largest", 1) == 1 and known.get("sorted", 1) == 1
        _refuse(not good, node, "it does not sort the best of each image")
    return first, second


def _behind(graph: Graph, name: str, wanted: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Those of some nodes that a tensor is computed from."""
    for node in _slice(graph, name, set()):
        yield from (other for other in wanted if other is node)


def _slice(graph: Graph, name: str, leaves: set[str]) -> Iterator[onnx.NodeProto]:
    """Nodes that a tensor is computed from, up to the leaves."""
    waiting, seen = [name], set(leaves)
    while waiting:
        current = waiting.pop()
        if current in seen or current not in graph.producer:
            continue
        seen.add(current)
        node = graph.producer[current]
        yield node
        waiting.extend(node.input)


def _count(graph: Graph, node: onnx.NodeProto) -> int:
    count = graph.constant(node.input[1])
    if count is None or count.size != 1:
        raise _not_fixed(f"the count of {node.name} is not a constant")
    return int(count.flat[0])


def _scores(graph: Graph, first: onnx.NodeProto) -> tuple[str, onnx.NodeProto, bool]:
    """The logits' name, the node that flattens the scores, and whether they are padded."""
    node = graph.producer.get(first.input[0])
    padded = node is not None and node.op_type == "Pad"
    if node is not None and padded:
        value = graph.constant(node.input[2]) if len(node.input) > 2 else None
        _refuse(value is None or float(value.flat[0]) >= 0, node, "it does not pad with scores of nobody")
        node = graph.producer.get(node.input[0])
    if node is None or node.op_type != "Reshape":
        raise _not_fixed(f"the scores that {first.name} sorts are not reshaped before")
    sigmoid = graph.producer.get(node.input[0])
    if sigmoid is None or sigmoid.op_type != "Sigmoid":
        raise _not_fixed(f"the scores that {first.name} sorts are not a Sigmoid's")
    return sigmoid.input[0], node, padded


def _thresholds(graph: Graph, kept: str, score: str, boxes: str) -> tuple[float, float]:
    """Score and IoU threshold of the suppression that leads to ``kept``."""
    found: dict[str, float] = {}
    for node in _slice(graph, kept, {score, boxes}):
        _refuse(node.op_type not in SUPPRESSION, node, "this operator is not part of the suppression")
        if node.op_type == "Greater":
            bound = graph.constant(node.input[1])
            if bound is None or bound.dtype != np.float32 or bound.size != 1:
                raise _not_fixed(f"the threshold of {node.name} is not a float32 constant")
            found["score" if node.input[0] == score else "iou"] = float(bound.flat[0])
        if node.op_type == "Clip":
            low = graph.constant(node.input[1])
            _refuse(low is None or float(low.flat[0]) != float(np.float32(1e-6)), node, "the union has another bound")
    if set(found) != {"score", "iou"}:
        raise _not_fixed("its suppression does not compare one score and one overlap")
    return found["score"], found["iou"]


def _corners(graph: Graph, survivors: str) -> onnx.NodeProto:
    """The product of survivors' boxes with a constant 4x4 matrix."""
    names = [survivors, *(n.output[0] for n in graph.consumers(survivors) if n.op_type == "Reshape")]
    for node in (node for name in names for node in graph.consumers(name)):
        if node.op_type == "MatMul" and (matrix := graph.constant(node.input[1])) is not None:
            _refuse(matrix.shape != (4, 4), node, "it does not turn boxes into corners")
            return node
    raise _not_fixed("its boxes are not turned into corners")


def _one(graph: Graph, name: str, op: str) -> onnx.NodeProto:
    """The only consumer of that operator; there may be others of another."""
    nodes = [node for node in graph.consumers(name) if node.op_type == op]
    if len(nodes) != 1:
        raise _not_fixed(f"{name} goes to {len(nodes)} {op} nodes, not one")
    _refuse(not nodes[0].name.startswith(SCOPE), nodes[0], f"it is not under {SCOPE}")
    return nodes[0]


def _only(graph: Graph, name: str, op: str, *, besides: int = 0) -> onnx.NodeProto:
    """The only consumer that reads a tensor first, of that operator; ``besides`` others may take it, too."""
    node = next((node for node in graph.consumers(name) if node.op_type == op), None)
    if node is None or len(graph.consumers(name)) != 1 + besides:
        raise _not_fixed(f"{name} goes to {[n.op_type for n in graph.consumers(name)]}, not to one {op}")
    _refuse(not node.name.startswith(SCOPE), node, f"it is not under {SCOPE}")
    return node


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _refuse(wrong: bool, node: onnx.NodeProto, why: str) -> None:
    if wrong:
        raise _not_fixed(f"{node.name} ({node.op_type}): {why}")


def _not_fixed(why: str) -> ArtifactError:
    return ArtifactError(
        f"The graph does not select people as --decode fixed does: {why}.",
        remedy="Export the checkpoint with --decode fixed and this release of rtmo-deploy.",
    )
