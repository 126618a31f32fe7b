"""``--decode fixed`` to ``--decode plugin``: the selection of people becomes one RTMODecode node.

A rewrite, not an export of its own: the fixed graph is what was compared with PyTorch, what the precision passes judge
in ONNX Runtime, and the plugin-free equal that stays at hand. Everything behind the selection, the pose features of
survivors and the coordinate classifier, is left as it is; it reads kept cells from the node, where it read them from
the top-k.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import Artifact, DecodeMode, Parent
from rtmo_deploy.convert.plugins.node import check_plugin_node, make_plugin_node
from rtmo_deploy.convert.plugins.pattern import Graph, Selection, find_selection
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import atomic_write, sha256_of
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact
from rtmo_deploy.runtime.plugins.kernel import OUTPUTS, PLUGIN_DOMAIN, PLUGIN_NAME, DecodeFields, as_float32

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

#: Names of the node's outputs in the graph.
TENSORS = tuple(f"/decode/{PLUGIN_NAME}_{name}" for name in OUTPUTS)


def insert_plugin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace a fixed graph's selection of people by one RTMODecode node.

    Args:
        model: A graph exported with ``--decode fixed``, of any precision as long as ``/decode/`` is float32 up to the
            survivors; untouched.

    Returns:
        A new graph with the same inputs and outputs and, where the fixed suppression has rounds enough, the same
        people. Its metadata is untouched: see :func:`plugin_onnx`.

    Raises:
        ArtifactError: It is no such graph; the message says what is different.
    """
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise _malformed(error) from error
    result = onnx.ModelProto()
    result.CopyFrom(model)
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
    """Rewrite a file exported with ``--decode fixed``.

    Args:
        source: The fixed ONNX file.
        output: Where to write the graph with the plugin; appears whole or not at all.

    Returns:
        What the new file knows of itself: decode mode ``plugin``, ``source`` as its parent.

    Raises:
        ArtifactError: ``source`` is no fixed graph, or its metadata contradicts it.
        SetupError: ``output`` cannot be written.
    """
    import onnx

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
    with atomic_write(output) as temporary:
        temporary.write_bytes(rewritten.SerializeToString())
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
    import onnx

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
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> ArtifactError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return ArtifactError(f"The graph is not well formed: {reason}.", remedy="Export the checkpoint again.")


def _splice(graph: onnx.GraphProto, selection: Selection) -> None:
    """Put the node in, and lead what consumed the old selection to its outputs."""
    import numpy as np
    import onnx

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
    constants = {"starts": [0], "ends": [4], "axes": [2], "rows": [-1, 4]}
    for name, value in constants.items():
        array = np.array(value, np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"/decode/{PLUGIN_NAME}_{name}"))
    names = {name: f"/decode/{PLUGIN_NAME}_{name}" for name in constants}
    box_maps = f"/decode/{PLUGIN_NAME}_box_maps"
    make = onnx.helper.make_node
    added = [
        make(
            "Slice",
            [selection.rest, names["starts"], names["ends"], names["axes"]],
            [box_maps],
            name=f"/decode/{PLUGIN_NAME}/Slice",
        ),
        make_plugin_node(
            (selection.flatten.output[0], box_maps, selection.priors),
            TENSORS,
            selection.fields,
            f"/decode/{PLUGIN_NAME}",
        ),
        make("Cast", [TENSORS[3]], [selection.cell], to=onnx.TensorProto.INT64, name=f"/decode/{PLUGIN_NAME}/Cast"),
        # The boxes that the suppression judged are those that are put out.
        make(
            "Reshape",
            [TENSORS[1], names["rows"]],
            [selection.corners.output[0]],
            name=f"/decode/{PLUGIN_NAME}/Reshape",
        ),
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
    import onnx

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
