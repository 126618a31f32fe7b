"""Reading what an ONNX file knows of itself, its own or somebody else's, without running it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import ONNX, Kind, require
from rtmo_deploy.files import read_bounded, reading
from rtmo_deploy.runtime.contract import DEFAULT_SIDE, TensorSpec, by_graph, noted
from rtmo_deploy.runtime.onnx_check import check_graph, load_weights, takes
from rtmo_deploy.runtime.sdk_files import follow_sdk_files
from rtmo_deploy.zoo.skeletons import guessed_from_count

if TYPE_CHECKING:
    from pathlib import Path

#: protobuf reads no larger message.
MAX_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def load_onnx(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file and the files with its weights; ArtifactError where one is missing, cut short or damaged."""
    return parse_onnx(_content(path), path)


def read_graph(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file; weights in other files are left there."""
    return _parse(_content(path), path)


def _content(path: Path) -> bytes:
    require(path, ONNX)
    with reading(path):
        return read_bounded(path, max_bytes=MAX_BYTES)


def _parse(content: bytes, path: Path) -> onnx.ModelProto:
    model = None
    with contextlib.suppress(DecodeError, ValueError):
        model = onnx.load_from_string(content)
    if model is None or not model.graph.node or not model.opset_import:
        what = "It is not an ONNX model, or is cut short." if content else "It is empty."
        raise ArtifactError(what, remedy="Export or copy it again.", where=path)
    return model


def parse_onnx(content: bytes, path: Path) -> onnx.ModelProto:
    """Parse the content of an ONNX file; ``path`` is what errors name, and where its weights are looked for."""
    model = _parse(content, path)
    try:
        load_weights(model, path.parent)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "A part of its weights is kept in another file, which cannot be read: "
            f"{getattr(error, 'strerror', None) or error}.",
            remedy="Copy all files of the model together.",
            where=path,
        ) from error
    try:
        check_graph(model)
    except ValueError as error:
        raise ArtifactError(f"Its graph is damaged: {error}.", remedy="Export or copy it again.", where=path) from error
    return model


def signature(model: onnx.ModelProto) -> Signature:
    """Inputs (weights excluded) and outputs of a parsed model."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return Signature(
        tuple(_spec(value) for value in model.graph.input if value.name not in weights),
        tuple(_spec(value) for value in model.graph.output),
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        dtype = "undefined"
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)


def read_onnx_artifact(path: Path) -> Artifact:
    """What an ONNX file is; see :func:`onnx_artifact`."""
    return onnx_artifact(path, load_onnx(path))


def onnx_artifact(path: Path, model: onnx.ModelProto) -> Artifact:
    """What a parsed ONNX file is: by its graph, which decides, and the metadata of this project or MMDeploy."""
    shape = signature(model)
    said = Artifact.from_metadata(path, {entry.key: entry.value for entry in model.metadata_props})
    if said is not None and said.kind is not Kind.ONNX:
        raise ArtifactError(f"Its metadata is of a file of kind {said.kind}.", remedy="Export it again.", where=path)
    said = said or _foreign_artifact(path, model, shape)
    return noted(said, _by_shapes(by_graph(said, shape.inputs, shape.outputs), model, said.input))


def _by_shapes(artifact: Artifact, model: onnx.ModelProto, said: InputContract) -> Artifact:
    """A graph whose input was declared dynamic afterwards may have its old sizes baked in."""
    contract = artifact.input
    height, width, step = contract.height, contract.width, contract.multiple if contract.dynamic_hw else 0
    others = (height + step, width + 2 * step)
    if (contract.batch is not None and not step) or takes(model, (contract.batch or 3, *others)):
        return artifact
    batches = [contract.batch] if contract.batch else [said.batch or 1, 1]
    baked = next((batch for batch in batches if takes(model, (batch, height, width))), None)
    if baked is None:
        return artifact  # what ONNX cannot follow is not judged by it
    if contract.batch is None and not takes(model, (baked + 1, height, width)):
        contract = replace(contract, batch=baked)
    if step and not takes(model, (baked, *others)):
        contract = replace(contract, dynamic_hw=False)
    return replace(artifact, input=contract)


def _foreign_artifact(path: Path, model: onnx.ModelProto, shape: Signature) -> Artifact:
    outputs = {spec.name: spec.shape for spec in shape.outputs}
    dets, keypoints = outputs.get("dets", ()), outputs.get("keypoints", ())
    # In MMDeploy's own files the last side of dets is dynamic, if only by name.
    rows_of_five = len(dets) == 3 and not (isinstance(dets[2], int) and dets[2] != 5)
    if len(shape.inputs) != 1 or not rows_of_five or len(keypoints) != 4:
        raise ArtifactError(
            f"It is not an RTMO model: its inputs are {'; '.join(map(str, shape.inputs)) or 'none'} and its outputs "
            f"{'; '.join(map(str, shape.outputs))}.",
            remedy="RTMO models exported by rtmo-deploy or by MMDeploy are understood; export the checkpoint with "
            "'rtmo-deploy export'.",
            where=path,
        )
    source, joints = shape.inputs[0], keypoints[2]
    sides = source.fixed if len(source.shape) == 4 else (None,) * 4
    found = Artifact(
        path=path,
        kind=Kind.ONNX,
        architecture="unknown",
        skeleton=guessed_from_count(joints if isinstance(joints, int) else 17),
        input=InputContract(
            height=sides[2] or DEFAULT_SIDE,
            width=sides[3] or DEFAULT_SIDE,
            batch=sides[0],
            dynamic_hw=sides[2] is None or sides[3] is None,
        ),
        # It appends rows that are nobody, which the score threshold and one more suppression take out again.
        decode=DecodeContract(DecodeMode.ONNX, junk_rows=True, **_baked_thresholds(model)),
        producer="mmdeploy",
    )
    return follow_sdk_files(found)


def _baked_thresholds(model: onnx.ModelProto) -> dict[str, Any]:
    """The thresholds in a graph's only NonMaxSuppression, as far as they are constants."""
    operators = [node for node in model.graph.node if node.op_type == "NonMaxSuppression"]
    if len(operators) != 1:
        return {}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    given = dict(zip(("nms_thr", "score_thr"), operators[0].input[3:5], strict=False))
    values = {key: onnx.numpy_helper.to_array(constants[name]) for key, name in given.items() if name in constants}
    # Not 0.10000000149: what was written as float32 was meant as the short number.
    return {key: round(float(value.flat[0]), 6) for key, value in values.items() if value.size == 1}
