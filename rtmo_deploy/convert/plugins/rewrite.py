"""``--decode fixed`` to ``--decode plugin``: the selection of detections becomes one RTMODecode node.

A rewrite, not an export of its own: the fixed graph is what was compared with PyTorch, and what the precision passes
judge in ONNX Runtime. Nodes are told apart by what they compute from what, within the scope ``/decode/``; a graph that
is built otherwise is refused with the reason. What follows the selection stays; it reads kept cells from the node
instead of the top-k. A node is also checked here before TensorRT's parser sees it: where the parser finds no plugin of
its name, version and namespace, its message names none of them, and some parsers end the process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from rtmo_deploy.artifact import Artifact, DecodeMode
from rtmo_deploy.convert.graph import GraphView, attribute, copy_of, element_types, infer, rebuild
from rtmo_deploy.convert.step import derived, read_source, write_model
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.runtime.plugins.kernel import (
    INPUTS,
    OUTPUTS,
    PLUGIN_DOMAIN,
    PLUGIN_NAME,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    DecodeFields,
    as_float32,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


SCOPE = "/decode/"
#: Operators of the suppression, from candidates' boxes and scores to the scores of survivors.
SUPPRESSION = {
    *("Add", "Cast", "Clip", "Div", "Gather", "Greater", "Identity", "MatMul", "Max", "Min", "Mul", "ReduceProd"),
    *("Relu", "Reshape", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}


@dataclass(frozen=True)
class Selection:
    """The part of a fixed graph that selects detections, by the names of its tensors."""

    fields: DecodeFields
    logits: str  #: ``(B, 1, P)``.
    flatten: onnx.NodeProto  #: Reshapes scores to ``(B, P)``.
    rest: str  #: ``(B, P, 4 + C)``: offset, log size, features.
    priors: str  #: ``(P, 2)``.
    cell: str  #: ``(B, pre_topk)`` int64, the candidates' cells.
    best: str  #: ``(B, max_dets)``, scores of detections, 0 below them.
    #: Of features, offsets, boxes and cells: the survivors' tensor, and the candidates' it is taken from.
    gathered: dict[str, str]
    corners: onnx.NodeProto  #: The matrix product that turns survivors' boxes into corners.


def find_selection(graph: GraphView) -> Selection:
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
    _refuse(len(graph.readers(cell)) != 2, first, "its cells are used for something else, too")
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
    for node in graph.readers(order.output[0]):
        _refuse(node.op_type != "GatherND", node, "it is not a GatherND of detections")
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


def _topks(graph: GraphView) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """Of candidates, and of detections, which is computed from the other."""
    nodes = [node for node in graph.nodes if node.op_type == "TopK" and node.name.startswith(SCOPE)]
    if len(nodes) != 2:
        raise _not_fixed(f"it has {len(nodes)} TopK nodes under {SCOPE}, not 2")
    first, second = sorted(nodes, key=lambda one: any(n.op_type == "TopK" for n in _behind(graph, one.input[0])))
    for node in (first, second):
        axis, largest, ordered = (attribute(node, name, 1) for name in ("axis", "largest", "sorted"))
        _refuse(axis not in (1, -1) or not largest or not ordered, node, "it does not sort the best of each image")
    return first, second


def _behind(graph: GraphView, name: str, leaves: Iterable[str] = ()) -> Iterator[onnx.NodeProto]:
    """Nodes that a tensor is computed from, up to the leaves."""
    waiting, seen = [name], set(leaves)
    while waiting:
        current = waiting.pop()
        node = graph.maker(current)
        if node is not None and current not in seen:
            seen.add(current)
            yield node
            waiting.extend(node.input)


def _count(graph: GraphView, node: onnx.NodeProto) -> int:
    count = graph.constant(node.input[1])
    if count is None or count.size != 1:
        raise _not_fixed(f"the count of {node.name} is not a constant")
    return int(count.flat[0])


def _scores(graph: GraphView, first: onnx.NodeProto) -> tuple[str, onnx.NodeProto, bool]:
    """The logits' name, the node that flattens the scores, and whether they are padded."""
    node = graph.maker(first.input[0])
    padded = node is not None and node.op_type == "Pad"
    if node is not None and padded:
        value = graph.constant(node.input[2]) if len(node.input) > 2 else None
        _refuse(value is None or float(value.flat[0]) >= 0, node, "it does not pad with scores below zero")
        node = graph.maker(node.input[0])
    if node is None or node.op_type != "Reshape":
        raise _not_fixed(f"the scores that {first.name} sorts are not reshaped before")
    sigmoid = graph.maker(node.input[0])
    if sigmoid is None or sigmoid.op_type != "Sigmoid":
        raise _not_fixed(f"the scores that {first.name} sorts are not a Sigmoid's")
    return sigmoid.input[0], node, padded


def _thresholds(graph: GraphView, kept: str, score: str, boxes: str) -> tuple[float, float]:
    """Score and IoU threshold of the suppression that leads to ``kept``."""
    found: dict[str, float] = {}
    for node in _behind(graph, kept, {score, boxes}):
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


def _corners(graph: GraphView, survivors: str) -> onnx.NodeProto:
    """The product of survivors' boxes with a constant 4x4 matrix."""
    names = [survivors, *(n.output[0] for n in graph.readers(survivors) if n.op_type == "Reshape")]
    for node in (node for name in names for node in graph.readers(name)):
        if node.op_type == "MatMul" and (matrix := graph.constant(node.input[1])) is not None:
            _refuse(matrix.shape != (4, 4), node, "it does not turn boxes into corners")
            return node
    raise _not_fixed("its boxes are not turned into corners")


def _one(graph: GraphView, name: str, op: str) -> onnx.NodeProto:
    """The only consumer of that operator; there may be others of another."""
    nodes = [node for node in graph.readers(name) if node.op_type == op]
    if len(nodes) != 1:
        raise _not_fixed(f"{name} goes to {len(nodes)} {op} nodes, not one")
    _refuse(not nodes[0].name.startswith(SCOPE), nodes[0], f"it is not under {SCOPE}")
    return nodes[0]


def _only(graph: GraphView, name: str, op: str, *, besides: int = 0) -> onnx.NodeProto:
    """The first consumer of that operator; there must be no others but ``besides``."""
    readers = graph.readers(name)
    node = next((node for node in readers if node.op_type == op), None)
    if node is None or len(readers) != 1 + besides:
        raise _not_fixed(f"{name} goes to {[node.op_type for node in readers]}, not to one {op}")
    _refuse(not node.name.startswith(SCOPE), node, f"it is not under {SCOPE}")
    return node


def _refuse(wrong: bool, node: onnx.NodeProto, why: str) -> None:
    if wrong:
        raise _not_fixed(f"{node.name} ({node.op_type}): {why}")


def _not_fixed(why: str) -> ArtifactError:
    return ArtifactError(
        f"The graph does not select detections as --decode fixed does: {why}.",
        remedy="Export the checkpoint with --decode fixed and this release of rtmo-deploy.",
    )


#: Name of the node, and of its outputs in the graph.
NODE = f"/decode/{PLUGIN_NAME}"
TENSORS = tuple(f"{NODE}_{name}" for name in OUTPUTS)
_REMEDY = "Export with --decode fixed and let this release of rtmo-deploy insert the plugin."


def plugin_node(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The graph's RTMODecode node, None if there is none; of several, ArtifactError."""
    nodes = [node for node in model.graph.node if node.op_type == PLUGIN_NAME]
    if len(nodes) > 1:
        raise ArtifactError(f"The graph has {len(nodes)} {PLUGIN_NAME} nodes.", remedy=_REMEDY)
    return nodes[0] if nodes else None


def check_plugin_node(model: onnx.ModelProto) -> DecodeFields:
    """The fields of the graph's plugin node, which must be the one that this release implements."""
    node = plugin_node(model)
    if node is None:
        raise ArtifactError(f"The graph has no {PLUGIN_NAME} node.", remedy=_REMEDY)
    found = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    for name, expected in (("plugin_version", PLUGIN_VERSION), ("plugin_namespace", PLUGIN_NAMESPACE)):
        value = found.pop(name, None)
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if text != expected:
            raise _wrong(node, f"its {name} is {text!r}, not {expected!r}")
    if node.domain != PLUGIN_DOMAIN:
        raise _wrong(node, f"its domain is {node.domain!r}, not {PLUGIN_DOMAIN!r}")
    if PLUGIN_DOMAIN not in {opset.domain for opset in model.opset_import}:
        raise _wrong(node, f"the graph does not import its domain {PLUGIN_DOMAIN!r}")
    for what, names, count in (("inputs", node.input, len(INPUTS)), ("outputs", node.output, len(OUTPUTS))):
        if len(names) != count or not all(names):
            raise _wrong(node, f"it has {sum(map(bool, names))} {what}, not {count}")
    kinds = {"max_dets": int, "nms_thr": float, "pre_topk": int, "score_thr": float}
    if set(found) != set(kinds):
        raise _wrong(node, f"fields are missing or unknown: {', '.join(sorted(set(found) ^ set(kinds)))}")
    for name, kind in kinds.items():
        if type(found[name]) is not kind:
            raise _wrong(node, f"its field {name} is {found[name]!r}, not a {kind.__name__}")
    return DecodeFields(**found)


def _wrong(node: onnx.NodeProto, what: str) -> ArtifactError:
    return ArtifactError(
        f"The node {node.name or PLUGIN_NAME!r} is not the plugin {PLUGIN_NAMESPACE}::{PLUGIN_NAME} version "
        f"{PLUGIN_VERSION}: {what}.",
        remedy=_REMEDY,
    )


def insert_plugin(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a fixed graph whose selection of detections is one RTMODecode node; metadata as it was.

    Inputs and outputs stay, and so do the detections where the fixed suppression has rounds enough. The graph may be of
    any precision as long as ``/decode/`` is float32 up to the survivors.
    """
    if plugin_node(model) is not None:
        raise ArtifactError(f"The graph has a {PLUGIN_NAME} node already.", remedy="Use it as it is.")
    result = copy_of(model)
    try:
        onnx.checker.check_model(model)
        selection = find_selection(GraphView(result.graph))
        del result.graph.value_info[:]  # what stands there may be of before a precision pass
        types = element_types(result)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ArtifactError(
            f"The graph is not well formed: {reason}.", remedy="Export the checkpoint again."
        ) from error
    for name in (selection.logits, selection.rest, selection.priors):
        kind = types.get(name, onnx.TensorProto.UNDEFINED)
        if kind != onnx.TensorProto.FLOAT:
            raise ArtifactError(
                f"{name}, which the plugin would read, is {onnx.TensorProto.DataType.Name(kind)}, not FLOAT.",
                remedy="Keep the nodes under /decode/ in float32 when lowering the precision.",
            )
    _splice(result.graph, selection)
    _sweep(result.graph)
    result.opset_import.append(onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1))
    _describe_outputs(result, selection.fields)
    check_plugin_node(result)
    onnx.checker.check_model(result)
    return result


def plugin_onnx(source: Path, output: Path) -> Artifact:
    """Rewrite an ONNX file exported with ``--decode fixed`` to ``output``, which appears whole or not at all.

    ArtifactError where ``source`` is no fixed graph or its metadata contradicts it; UsageError where ``output`` is it;
    SetupError where it cannot be written.
    """
    read = read_source(source, output)
    known = read.artifact
    if known.decode.mode is not DecodeMode.FIXED:
        raise ArtifactError(
            f"Its decode mode is {known.decode.mode}; the plugin replaces that of a fixed graph.",
            remedy="Export the checkpoint with --decode fixed.",
            where=source,
        )
    rewritten = insert_plugin(read.model)
    for name, found in vars(check_plugin_node(rewritten)).items():
        said = getattr(known.decode, name)
        if (as_float32(said) if isinstance(found, float) else said) != found:
            raise ArtifactError(
                f"Its metadata says that {name} is {said}, its graph {found}.",
                remedy="The file was changed: export the checkpoint again.",
                where=source,
            )
    artifact = derived(known, output, decode=replace(known.decode, mode=DecodeMode.PLUGIN, nms_rounds=None))
    artifact = replace(artifact, parents=(*artifact.parents, *known.parents), versions=known.versions)
    write_model(rewritten, artifact, read.companion)
    return artifact


def _splice(graph: onnx.GraphProto, selection: Selection) -> None:
    """Put the node in, and lead what consumed the old selection to its outputs."""
    renamed = {**selection.gathered, selection.best: TENSORS[2]}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in renamed:
                node.input[place] = renamed[name]
        # The old producer of the cells makes room for the new one.
        for place, name in enumerate(node.output):
            if name == selection.cell:
                node.output[place] = f"{name}_of_candidates"
    selection.flatten.input[0] = selection.logits
    names = {}
    for name, value in {"starts": [0], "ends": [4], "axes": [2], "rows": [-1, 4]}.items():
        names[name] = f"{NODE}_{name}"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), names[name]))
    box_maps = f"{NODE}_box_maps"
    make = onnx.helper.make_node
    inputs = [selection.rest, names["starts"], names["ends"], names["axes"]]
    added = [
        make("Slice", inputs, [box_maps], name=f"{NODE}/Slice"),
        # All outputs must have names: newer parsers want as many as the plugin has.
        make(
            PLUGIN_NAME,
            [selection.flatten.output[0], box_maps, selection.priors],
            list(TENSORS),
            name=NODE,
            domain=PLUGIN_DOMAIN,
            plugin_version=PLUGIN_VERSION,
            plugin_namespace=PLUGIN_NAMESPACE,
            **vars(selection.fields),
        ),
        make("Cast", [TENSORS[3]], [selection.cell], to=onnx.TensorProto.INT64, name=f"{NODE}/Cast"),
        # The boxes that the suppression judged are those that are put out.
        make("Reshape", [TENSORS[1], names["rows"]], [selection.corners.output[0]], name=f"{NODE}/Reshape"),
    ]
    graph.node.remove(selection.corners)
    graph.node.extend(added)


def _sweep(graph: onnx.GraphProto) -> None:
    """Remove what no output needs, and bring the rest into an order in which nodes follow what they read."""
    producer = {name: node for node in graph.node for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    done = {""}
    waiting = [value.name for value in graph.output]
    while waiting:
        node = producer.get(waiting[-1])
        if waiting[-1] in done or node is None:
            waiting.pop()
            continue
        missing = [source for source in node.input if source not in done and source in producer]
        waiting.extend(missing)
        if not missing:
            ordered.append(node)
            done.update(node.output)
    rebuild(graph, ordered, graph.initializer)


def _describe_outputs(model: onnx.ModelProto, fields: DecodeFields) -> None:
    """Types and shapes of the node's outputs, which no shape inference knows, and of all that follows."""
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch: int | str = first.dim_value or first.dim_param or "batch"
    real, whole, rows = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, fields.max_dets
    shapes: dict[str, tuple[int, list[int | str | None]]] = {
        "num_dets": (whole, [batch, 1]),
        "boxes": (real, [batch, rows, 4]),
        "scores": (real, [batch, rows]),
        "kept": (whole, [batch, rows]),
        "work": (real, [batch, 5, None]),
    }
    described = [
        onnx.helper.make_tensor_value_info(tensor, *shapes[name]) for name, tensor in zip(OUTPUTS, TENSORS, strict=True)
    ]
    model.graph.value_info.extend(described)
    inferred = infer(model, strict=False)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
