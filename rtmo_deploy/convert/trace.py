"""PyTorch to an ONNX graph: tracing, simplifying, naming."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

import onnx
import torch
from torch import Tensor, nn

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.decode import ExportCoordinates, FixedDecode, OnnxDecode, RawDecode
from rtmo_deploy.convert.network import ExportNetwork
from rtmo_deploy.convert.onnx_ops import split
from rtmo_deploy.convert.passes import constants_to_initializers, name_nodes, simplify
from rtmo_deploy.model.spec import STRIDES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.model import RTMO

_Shapes = dict[str, tuple[int | str, ...]]

OUTPUTS = {
    DecodeMode.ONNX: ("dets", "keypoints"),
    DecodeMode.FIXED: ("dets", "keypoints"),
    DecodeMode.RAW: ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs"),
}
#: What a dynamic input is traced with; none of the shapes that are verified later.
TRACED_SHAPE = (3, 192, 224)


def trace_network(model: RTMO, artifact: Artifact, opset: int) -> onnx.ModelProto:
    """The graph of a network as the artifact describes it, simplified and named."""
    contract = artifact.input
    batch, height, width = TRACED_SHAPE
    if not contract.dynamic_hw:
        height, width = contract.height, contract.width
    dense = artifact.decode.mode is DecodeMode.RAW
    network = ExportNetwork(model, _decoder(model, artifact), dense=dense)
    images = torch.zeros(contract.batch or batch, 3, height, width)
    shapes = _shapes(model, artifact)
    return _finish(_trace(network, (images,), ("input",), shapes, opset), shapes)


def trace_coordinates(model: RTMO, opset: int) -> onnx.ModelProto:
    """The classifier alone, for the consumers of a ``raw`` graph.

    Inputs ``pose_vecs`` (n, V), ``boxes`` (n, 4) x1, y1, x2, y2 unclipped and ``priors`` (n, 2) cell centres, all in
    input pixels; output ``keypoints`` (n, K, 2).
    """
    channels, joints = model.spec.pose_vec_channels, model.spec.num_keypoints
    shapes: _Shapes = {
        "pose_vecs": ("people", channels),
        "boxes": ("people", 4),
        "priors": ("people", 2),
        "keypoints": ("people", joints, 2),
    }
    inputs = (torch.zeros(3, channels), torch.rand(3, 4), torch.rand(3, 2))
    traced = _trace(_Coordinates(model), inputs, ("pose_vecs", "boxes", "priors"), shapes, opset)
    return _finish(traced, shapes)


def _shapes(model: RTMO, artifact: Artifact) -> _Shapes:
    """Dimensions of the input and of every output: numbers where they are fixed, names where not."""
    contract, decode, spec = artifact.input, artifact.decode, model.spec
    batch: int | str = contract.batch or "batch"
    sides = ("height", "width") if contract.dynamic_hw else (contract.height, contract.width)
    shapes: _Shapes = {"input": (batch, 3, *sides)}
    if decode.mode is DecodeMode.RAW:
        cells = "cells" if contract.dynamic_hw else cells_of(contract.height, contract.width)
        columns = (1, 4, spec.num_keypoints, spec.pose_vec_channels)
        for name, count in zip(OUTPUTS[decode.mode], columns, strict=True):
            shapes[name] = (batch, cells, count)
        return shapes
    rows = "people" if decode.mode is DecodeMode.ONNX else (decode.max_dets or "people")
    return shapes | {"dets": (batch, rows, 5), "keypoints": (batch, rows, spec.num_keypoints, 3)}


def cells_of(height: int, width: int) -> int:
    """Grid cells of an input of this size, both levels together."""
    return sum((height // stride) * (width // stride) for stride in STRIDES)


class _Coordinates(nn.Module):
    def __init__(self, model: RTMO) -> None:
        super().__init__()
        self.decode = ExportCoordinates(model.head.dcc)

    def forward(self, pose_vecs: Tensor, boxes: Tensor, priors: Tensor) -> Tensor:
        low, high = split(boxes, [2, 2], dim=1)
        centre = (low + high) / 2
        result: Tensor = self.decode(pose_vecs, centre - priors, torch.cat([centre, high - low], dim=1))
        return result


def _decoder(model: RTMO, artifact: Artifact) -> nn.Module:
    contract, decode = artifact.input, artifact.decode
    if decode.mode is DecodeMode.RAW:
        return RawDecode(model)
    if decode.mode is DecodeMode.ONNX:
        return OnnxDecode(model, decode, batch=contract.batch)
    # A dynamic input may have as few as 5 cells; a static one has what it has.
    cells = 0 if contract.dynamic_hw else cells_of(contract.height, contract.width)
    return FixedDecode(model, decode, pad=max((decode.pre_topk or 0) - cells, 0))


def _trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    shapes: _Shapes,
    opset: int,
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes a stream
            # The TorchScript exporter: it writes every opset from 17 on and names nodes after modules.
            dynamo=False,
            opset_version=opset,
            input_names=list(input_names),
            output_names=[name for name in shapes if name not in input_names],
            dynamic_axes={
                name: {axis: side for axis, side in enumerate(shape) if isinstance(side, str)}
                for name, shape in shapes.items()
            },
        )
    return onnx.load_from_string(buffer.getvalue())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter announces its deprecation and warns of traced shapes; the verification judges what it wrote."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _finish(traced: onnx.ModelProto, shapes: _Shapes) -> onnx.ModelProto:
    model = simplify(traced)
    constants_to_initializers(model)
    name_nodes(model)
    for value in (*model.graph.input, *model.graph.output):
        fresh = onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shapes[value.name])
        value.CopyFrom(fresh)
    # The exporter's own guesses at inner shapes are partly wrong; infer them anew.
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
