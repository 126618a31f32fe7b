"""Small rewrites of an exported graph. Each changes how the graph is written, none what it computes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: onnxsim turns a MatMul and Add of rank 3 into Reshape, Gemm and five nodes that compute the shape to go back to:
#: 25 nodes more on RTMO, for nothing. BatchNorm is already folded, in float64.
_SKIPPED = ["fuse_matmul_add_bias_into_gemm_batched", "fuse_bn_into_conv"]


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, remove what is dead or repeated.

    onnxsim, not onnxslim: both leave as many nodes (rtmo-s: 402 in ``onnx`` mode, 480 in ``fixed``), and onnxsim takes
    a ninth of the time.
    """
    import onnxsim

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simplified: onnx.ModelProto = onnxsim.simplify(model, skipped_optimizers=_SKIPPED)[0]
    return simplified


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Turn ``Constant`` nodes into initializers, in place: tools look for weights and thresholds there."""
    constants = [
        node
        for node in model.graph.node
        if node.op_type == "Constant" and [a.name for a in node.attribute] == ["value"]
    ]
    for node in constants:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        model.graph.node.remove(node)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes that the simplifier made a name under the module they belong to, in place.

    A node belongs where all its consumers do; where they are of several modules, to the module of its producer. Later
    passes tell by the name, ``/decode/...``, what must keep its precision.
    """
    nodes = list(model.graph.node)
    consumers: dict[str, list[onnx.NodeProto]] = {}
    producers = {output: node for node in nodes for output in node.output}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    taken = {node.name for node in nodes}
    # Consumers come after a node, so that one pass from the end names chains of unnamed nodes.
    for node in reversed(nodes):
        if node.name.startswith("/"):
            continue
        after = [_scope(c) for output in node.output for c in consumers.get(output, [])]
        before = [_scope(producers[name]) for name in node.input if name in producers]
        known = {scope for scope in after if scope is not None}
        scopes = [*known] if len(known) == 1 else [scope for scope in (*before, *after) if scope is not None]
        scope = scopes[0] if scopes else ""
        name = f"{scope}/{node.op_type}"
        count = 0
        while name in taken:
            count += 1
            name = f"{scope}/{node.op_type}_{count}"
        node.name = name
        taken.add(name)


def _scope(node: onnx.NodeProto) -> str | None:
    """Name of the module a node belongs to, None for a node without a name of that kind."""
    return node.name.rpartition("/")[0] if node.name.startswith("/") else None
