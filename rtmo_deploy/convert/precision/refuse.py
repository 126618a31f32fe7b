"""What cannot be cast, and why: said before anything is computed or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.artifact import Artifact, DecodeMode, Kind, refuse_companion
from rtmo_deploy.convert.precision.quantized import is_quantized
from rtmo_deploy.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.convert.precision.graph import HalfType


def refuse_source(model: onnx.ModelProto, artifact: Artifact, half: HalfType, *, verify: bool) -> None:
    """Say up front what cannot be cast.

    Args:
        model: The source.
        artifact: What it says of itself.
        half: What it is to be cast to.
        verify: Whether the result is to be compared with it.

    Raises:
        ArtifactError: Another maker's, neither float32 nor INT8, with subgraphs or without node names; or it cannot be
            compared.
    """
    where = artifact.path
    if artifact.producer != "rtmo-deploy" or artifact.kind is not Kind.ONNX:
        raise ArtifactError(
            f"It was made by {artifact.producer}; what must stay in float32 is told by the node names that this "
            "project's export gives.",
            remedy="Export the checkpoint with 'rtmo-deploy export', and cast that.",
            where=where,
        )
    if artifact.precision not in {"fp32", "int8"}:
        raise ArtifactError(
            f"It is {artifact.precision} already.",
            remedy="Cast the float32 or INT8 model it was made from.",
            where=where,
        )
    nodes = model.graph.node
    if is_quantized(model) != (artifact.precision == "int8"):
        has = "Q/DQ pairs" if is_quantized(model) else "no Q/DQ pairs"
        raise ArtifactError(
            f"It has {has}, and says that it is {artifact.precision}.",
            remedy="Another tool has changed it: cast what 'rtmo-deploy export' or 'rtmo-deploy quantize' wrote.",
            where=where,
        )
    if any(
        tensor.data_type in {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16} for tensor in model.graph.initializer
    ):
        raise ArtifactError(
            f"It has 16-bit weights, and says that it is {artifact.precision}.",
            remedy="Cast the float32 model it was made from.",
            where=where,
        )
    kinds = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
    nested = next((node for node in nodes if any(a.type in kinds for a in node.attribute)), None)
    if nested is not None or model.functions:
        what = f"{nested.name} ({nested.op_type})" if nested is not None else f"function {model.functions[0].name}"
        raise ArtifactError(
            f"It has a subgraph, {what}, which this pass does not look into.",
            remedy="Cast the model as 'rtmo-deploy export' wrote it.",
            where=where,
        )
    names = [node.name for node in nodes]
    if not all(name.startswith("/") for name in names) or len(set(names)) != len(names):
        raise ArtifactError(
            "Nodes have no names, or one name twice; what must stay in float32 is told by them.",
            remedy="Another tool has taken them away: cast the model as 'rtmo-deploy export' wrote it.",
            where=where,
        )
    if verify and artifact.decode.mode is DecodeMode.PLUGIN:
        raise ArtifactError(
            f"ONNX Runtime cannot run its decode plugin, so its {half.name} form cannot be compared with it.",
            remedy="Cast with --no-verify, or cast the model before the plugin is put in.",
            where=where,
        )


def refuse_output(output: Path, artifact: Artifact) -> None:
    """Keep the source and its companion from being overwritten.

    Raises:
        UsageError: The output is one of them, or another model's companion lies where its own goes.
    """
    source = artifact.path
    if output.exists() and output.samefile(source):
        raise UsageError(
            f"{output} is the model that is to be cast.", remedy="Give another name with -o: it is never overwritten."
        )
    refuse_companion(artifact, output)
