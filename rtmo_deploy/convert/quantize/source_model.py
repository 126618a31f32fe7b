"""The float32 model that is quantised: read, checked, and looked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.convert.graph import GraphView
from rtmo_deploy.convert.quantize.blocks import MacCount, count_macs
from rtmo_deploy.convert.quantize.placement import Placement, candidates, place
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact, signature

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"})


@dataclass(frozen=True, eq=False)
class SourceModel:
    """A float32 model."""

    path: Path
    sha256: str  #: Of the file.
    model: onnx.ModelProto
    artifact: Artifact
    view: GraphView
    placement: Placement  #: Where Q/DQ pairs go if all of it is quantised.
    macs: MacCount


def open_source(path: Path) -> SourceModel:
    """Read a model that is to be quantised.

    Raises:
        ArtifactError: It is no float32 ONNX model of this kind, is quantised already, or has nothing to quantise.
    """
    model = load_onnx(path)
    artifact = onnx_artifact(path, model)
    operators = {node.op_type for node in model.graph.node}
    if artifact.kind is not Kind.ONNX or artifact.precision != "fp32" or operators & _QUANTIZED:
        precision = "quantised" if operators & _QUANTIZED else artifact.precision
        raise ArtifactError(
            f"This model is {precision} already; its float32 form is needed.",
            remedy="Quantise the file it was made from; casts to fp16 come after the quantisation.",
            where=path,
        )
    inputs = signature(model).inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != "float32":
        raise ArtifactError(
            f"Its inputs are no single float32 image tensor: {'; '.join(map(str, inputs)) or 'none'}.",
            remedy="Export the checkpoint with 'rtmo-deploy export'.",
            where=path,
        )
    try:
        onnx.checker.check_model(model)
        view = GraphView(model.graph)
        macs = count_macs(model, (artifact.input.height, artifact.input.width))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"It is not well formed: {detail}", remedy="'rtmo-deploy validate' tells more; export it again.", where=path
        ) from error
    layers = candidates(view)
    if not layers:
        raise ArtifactError(
            "There is no convolution with a fixed float32 weight in it, so there is nothing to quantise.",
            remedy="Give a model exported by 'rtmo-deploy export'.",
            where=path,
        )
    return SourceModel(path, sha256_of(path), model, artifact, view, place(view, layers), macs)
