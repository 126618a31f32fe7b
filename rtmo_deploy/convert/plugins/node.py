"""The RTMODecode node in an ONNX graph: making one, and checking one before TensorRT's parser sees it.

The parser looks a plugin up by operator, ``plugin_version`` and ``plugin_namespace``. When it finds none, or another,
its message names none of the three, and some parsers end the process; so the node is checked here first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.runtime.plugins.kernel import (
    INPUTS,
    OUTPUTS,
    PLUGIN_DOMAIN,
    PLUGIN_NAME,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    DecodeFields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

_REMEDY = "Export with --decode fixed and let this release of rtmo-deploy insert the plugin."


def make_plugin_node(inputs: Sequence[str], outputs: Sequence[str], fields: DecodeFields, name: str) -> onnx.NodeProto:
    """The node.

    Args:
        inputs: Names of ``logits`` (B, P), ``boxes`` (B, P, 4) and ``priors`` (P, 2), float32.
        outputs: Names for ``num_dets``, ``boxes``, ``scores``, ``kept`` and ``work``. All must have one: newer parsers
            want as many outputs as the plugin has.
        fields: The plugin's fields.
        name: Name of the node.
    """
    import onnx

    return onnx.helper.make_node(
        PLUGIN_NAME,
        list(inputs),
        list(outputs),
        name=name,
        domain=PLUGIN_DOMAIN,
        plugin_version=PLUGIN_VERSION,
        plugin_namespace=PLUGIN_NAMESPACE,
        max_dets=fields.max_dets,
        nms_thr=fields.nms_thr,
        pre_topk=fields.pre_topk,
        score_thr=fields.score_thr,
    )


def plugin_node(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The graph's RTMODecode node, None if there is none.

    Raises:
        ArtifactError: There are several.
    """
    nodes = [node for node in model.graph.node if node.op_type == PLUGIN_NAME]
    if len(nodes) > 1:
        raise ArtifactError(f"The graph has {len(nodes)} {PLUGIN_NAME} nodes.", remedy=_REMEDY)
    return nodes[0] if nodes else None


def check_plugin_node(model: onnx.ModelProto) -> DecodeFields:
    """Check that the graph's plugin node is the one that this release implements.

    Returns:
        Its fields.

    Raises:
        ArtifactError: There is none or several, or one of another version, namespace or signature, or with fields that
            are missing, unknown or out of range.
    """
    import onnx

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
