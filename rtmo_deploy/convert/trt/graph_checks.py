"""What a backend cannot build, found in the ONNX graph and refused by name before TensorRT sees it.

TensorRT's own answer would be an internal error of its optimiser, or the end of the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.trt_api import Flavour

#: Candidates that TensorRT's top-k takes.
MAX_TOPK = 3840
PLUGIN = "RTMODecode"
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_FIXED = "Export the model with: rtmo-deploy export --decode fixed"


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph, those in the branches of If and the bodies of Loop included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def operators_of(model: onnx.ModelProto) -> dict[str, str]:
    """Name of each node, and its operator."""
    return {node.name: node.op_type for node in nodes_of(model.graph) if node.name}


def weights_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name of each convolution with fixed weights, and their shape; 8-bit ones are behind a DequantizeLinear."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in {"DequantizeLinear", "Cast"} and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return {
        node.name: shapes[node.input[1]]
        for node in nodes_of(model.graph)
        if node.op_type == "Conv" and len(node.input) > 1 and node.input[1] in shapes
    }


def check_graph(
    model: onnx.ModelProto, artifact: Artifact, flavour: Flavour, *, targets: Sequence[str], where: Path
) -> None:
    """Refuse a graph that a backend cannot build.

    Args:
        model: The parsed model.
        artifact: What it is.
        flavour: The backend.
        targets: Compute capabilities that it shall be built for.
        where: What errors name.

    Raises:
        ArtifactError: Names the node, its operator and what to do.
    """
    _check_opset(model, where)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes_of(model.graph):
        if node.op_type in flavour.no_operators and node.domain in _STANDARD:
            raise _refused(node, where, f"{flavour.name} has no kernel for it.", _FIXED)
        if node.domain not in _STANDARD and not flavour.plugins:
            raise _refused(
                node, where, f"it is a plugin, and {flavour.name} takes none.", f"{_FIXED}, which needs no plugin."
            )
        if node.op_type == "TopK":
            count = _constant(node, 1, constants)
            if count is not None and count > MAX_TOPK:
                raise _refused(
                    node,
                    where,
                    f"it takes the best {count} of its candidates, and TensorRT's limit is {MAX_TOPK}.",
                    f"Export the model with --pre-topk {MAX_TOPK} or less.",
                )
    if any(node.op_type == PLUGIN for node in nodes_of(model.graph)):
        from rtmo_deploy.convert.plugins.rewrite import check_plugin_node

        check_plugin_node(model)
    if artifact.decode.mode is DecodeMode.ONNX:
        raise ArtifactError(
            "It was exported with --decode onnx, whose number of rows depends on the picture: fixed buffers and CUDA "
            "graphs cannot take that.",
            remedy=_FIXED,
            where=where,
        )
    if "7.5" in targets:
        _check_turing(model, artifact, flavour, where)


def _check_opset(model: onnx.ModelProto, where: Path) -> None:
    """TensorRT's parser takes any number for granted, and reads the operators as it knows them."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    opset = max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0)
    if opset > newest:
        raise ArtifactError(
            f"It is of opset {opset}; the installed onnx {onnx.__version__} knows up to {newest}.",
            remedy="Export it with --opset 17, or upgrade onnx.",
            where=where,
        )


def _check_turing(model: onnx.ModelProto, artifact: Artifact, flavour: Flavour, where: Path) -> None:
    """Turing has no FP32 matrix products in TensorRT-RTX, and no BF16 at all."""
    import onnx

    remedy = "Leave compute capability 7.5 away, or use --backend tensorrt on the Turing machine itself."
    if artifact.precision == "bf16":
        raise ArtifactError("It is of bf16, which compute capability 7.5 does not have.", remedy=remedy, where=where)
    typed = onnx.shape_inference.infer_shapes(model, data_prop=False)
    floats = {value.name for value in typed.graph.value_info if _is_float32(value)}
    floats |= {value.name for value in typed.graph.input if _is_float32(value)}
    for node in nodes_of(typed.graph):
        if node.op_type in {"MatMul", "Gemm"} and node.input[0] in floats:
            raise _refused(
                node, where, f"{flavour.name} has no FP32 matrix product for compute capability 7.5.", remedy
            )


def _is_float32(value: onnx.ValueInfoProto) -> bool:
    import onnx

    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def _constant(node: onnx.NodeProto, index: int, constants: dict[str, onnx.TensorProto]) -> int | None:
    import onnx

    if len(node.input) <= index or node.input[index] not in constants:
        return None
    value = onnx.numpy_helper.to_array(constants[node.input[index]])
    return int(value.flat[0]) if value.size == 1 else None


def _refused(node: onnx.NodeProto, where: Path, why: str, remedy: str) -> ArtifactError:
    name = node.name or ", ".join(node.output)
    return ArtifactError(f"Its node {name} ({node.op_type}) cannot be built: {why}", remedy=remedy, where=where)
