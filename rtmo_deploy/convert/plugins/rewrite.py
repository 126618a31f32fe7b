"""``--decode fixed`` to ``--decode plugin``: the selection of detections becomes one RTMODecode node.

A rewrite, not an export of its own: the fixed graph is what was compared with PyTorch, and what the precision passes
judge in ONNX Runtime. What follows the selection is left as it is; it reads kept cells from the node instead of the
top-k. A node is also checked here before TensorRT's parser sees it: where the parser finds no plugin of its name,
version and namespace, its message names none of them, and some parsers end the process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy.artifact import Artifact, DecodeMode, Parent
from rtmo_deploy.convert.graph import copy_of
from rtmo_deploy.convert.plugins.pattern import Graph, Selection, find_selection
from rtmo_deploy.convert.step import write_bytes
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact
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
    from pathlib import Path


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
    found: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    text = {
        name: value.decode(errors="replace") if isinstance(value := found.pop(name, None), bytes) else value
        for name in ("plugin_version", "plugin_namespace")
    }
    expected = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}
    for name, value in text.items():
        if value != expected[name]:
            raise _wrong(node, f"its {name} is {value!r}, not {expected[name]!r}")
    if node.domain != PLUGIN_DOMAIN:
        raise _wrong(node, f"its domain is {node.domain!r}, not {PLUGIN_DOMAIN!r}")
    if PLUGIN_DOMAIN not in {opset.domain for opset in model.opset_import}:
        raise _wrong(node, f"the graph does not import its domain {PLUGIN_DOMAIN!r}")
    for what, names, count in (("inputs", node.input, len(INPUTS)), ("outputs", node.output, len(OUTPUTS))):
        if len(names) != count or not all(names):
            raise _wrong(node, f"it has {sum(map(bool, names))} {what}, not {count}")
    kinds = {"max_dets": int, "nms_thr": float, "pre_topk": int, "score_thr": float}
    if set(found) != set(kinds):
        odd = ", ".join(sorted(set(found) ^ set(kinds)))
        raise _wrong(node, f"fields are missing or unknown: {odd}")
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
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise _malformed(error) from error
    result = copy_of(model)
    graph = Graph(result.graph)
    if any(node.op_type == PLUGIN_NAME for node in result.graph.node):
        raise ArtifactError(f"The graph has a {PLUGIN_NAME} node already.", remedy="Use it as it is.")
    selection = find_selection(graph)
    # What stands there may be of before a precision pass.
    del result.graph.value_info[:]
    _require_float32(result, (selection.logits, selection.rest, selection.priors))
    _splice(result.graph, selection)
    _sweep(result.graph)
    result.opset_import.append(onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1))
    _describe_outputs(result, selection.fields)
    check_plugin_node(result)
    onnx.checker.check_model(result)
    return result


def plugin_onnx(source: Path, output: Path) -> Artifact:
    """Rewrite an ONNX file exported with ``--decode fixed`` to ``output``, which appears whole or not at all.

    Raises:
        ArtifactError: ``source`` is no fixed graph, or its metadata contradicts it.
        SetupError: ``output`` cannot be written.
    """
    model = load_onnx(source)
    known = onnx_artifact(source, model)
    if known.decode.mode is not DecodeMode.FIXED:
        raise ArtifactError(
            f"Its decode mode is {known.decode.mode}; the plugin replaces that of a fixed graph.",
            remedy="Export the checkpoint with --decode fixed.",
            where=source,
        )
    rewritten = insert_plugin(model)
    _require_contract(known, check_plugin_node(rewritten))
    artifact = replace(
        known,
        path=output,
        decode=replace(known.decode, mode=DecodeMode.PLUGIN, nms_rounds=None),
        parents=(Parent(source.name, sha256_of(source)), *known.parents),
        verified=None,
    )
    onnx.helper.set_model_props(rewritten, artifact.to_metadata())
    write_bytes(output, rewritten.SerializeToString())
    return artifact


def _require_contract(known: Artifact, fields: DecodeFields) -> None:
    decode = known.decode
    recorded = {
        "max_dets": (decode.max_dets, fields.max_dets),
        "pre_topk": (decode.pre_topk, fields.pre_topk),
        "score_thr": (as_float32(decode.score_thr), fields.score_thr),
        "nms_thr": (as_float32(decode.nms_thr), fields.nms_thr),
    }
    for name, (said, found) in recorded.items():
        if said != found:
            raise ArtifactError(
                f"Its metadata says that {name} is {said}, its graph {found}.",
                remedy="The file was changed: export the checkpoint again.",
                where=known.path,
            )


def _require_float32(model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    inferred = _infer(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    kinds |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for name in names:
        kind = kinds.get(name, onnx.TensorProto.UNDEFINED)
        if kind != onnx.TensorProto.FLOAT:
            raise ArtifactError(
                f"{name}, which the plugin would read, is {onnx.TensorProto.DataType.Name(kind)}, not FLOAT.",
                remedy="Keep the nodes under /decode/ in float32 when lowering the precision.",
            )


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> ArtifactError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return ArtifactError(f"The graph is not well formed: {reason}.", remedy="Export the checkpoint again.")


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
    done: set[str] = {""}
    waiting = [value.name for value in graph.output]
    while waiting:
        name = waiting[-1]
        node = producer.get(name)
        if name in done or node is None:
            waiting.pop()
            continue
        missing = [source for source in node.input if source not in done and source in producer]
        if missing:
            waiting.extend(missing)
            continue
        ordered.append(node)
        done.update(node.output)
    needed = {name for node in ordered for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    nodes = [type(node).FromString(node.SerializeToString()) for node in ordered]
    tensors = [type(tensor).FromString(tensor.SerializeToString()) for tensor in initializers]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


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
    inferred = _infer(model)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
