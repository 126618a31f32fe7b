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
from rtmo_deploy.convert.coordinates import ExportCoordinates
from rtmo_deploy.convert.decode import FixedDecode, OnnxDecode, RawDecode
from rtmo_deploy.convert.network import ExportNetwork
from rtmo_deploy.convert.onnx_ops import split
from rtmo_deploy.convert.options import FixedDecodeOptions, OnnxDecodeOptions
from rtmo_deploy.convert.passes import constants_to_initializers, name_nodes, simplify
from rtmo_deploy.model.spec import STRIDES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rtmo_deploy.convert.options import ExportOptions
    from rtmo_deploy.model import RTMO

_Shapes = dict[str, tuple[int | str, ...]]

OUTPUTS = {
    DecodeMode.ONNX: ("dets", "keypoints"),
    DecodeMode.FIXED: ("dets", "keypoints"),
    DecodeMode.RAW: ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs"),
}
#: What a dynamic input is traced with; none of the shapes that are verified later.
TRACED_SHAPE = (3, 192, 224)


def trace_network(model: RTMO, options: ExportOptions, input_hw: tuple[int, int]) -> onnx.ModelProto:
    """The whole graph of a network, simplified and named.

    Args:
        model: The network; untouched.
        options: What is asked for.
        input_hw: Height and width in pixels, baked in when the export is static.
    """
    batch, height, width = TRACED_SHAPE
    if options.static:
        height, width = input_hw
    batch = options.fixed_batch or batch
    mode = options.decode.contract().mode
    network = ExportNetwork(model, _decoder(model, options, height, width), dense=mode is DecodeMode.RAW)
    shapes = _shapes(model, options, height, width)
    images = torch.zeros(batch, 3, height, width)
    return _finish(_trace(network, (images,), ("input",), shapes, options.opset), shapes)


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


def _shapes(model: RTMO, options: ExportOptions, height: int, width: int) -> _Shapes:
    """Dimensions of the input and of every output: numbers where they are fixed, names where not."""
    decode, spec = options.decode.contract(), model.spec
    batch: int | str = options.fixed_batch or "batch"
    sides: tuple[int | str, int | str] = (height, width) if options.static else ("height", "width")
    shapes: _Shapes = {"input": (batch, 3, *sides)}
    if decode.mode is DecodeMode.RAW:
        cells: int | str = cells_of(height, width) if options.static else "cells"
        columns = (1, 4, spec.num_keypoints, spec.pose_vec_channels)
        for name, count in zip(OUTPUTS[decode.mode], columns, strict=True):
            shapes[name] = (batch, cells, count)
        return shapes
    rows: int | str = "people" if decode.mode is DecodeMode.ONNX else (decode.max_dets or "people")
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


def _decoder(model: RTMO, options: ExportOptions, height: int, width: int) -> nn.Module:
    decode, contract = options.decode, options.decode.contract()
    if isinstance(decode, OnnxDecodeOptions):
        return OnnxDecode(
            model,
            score_thr=contract.score_thr,
            nms_thr=contract.nms_thr,
            max_dets=decode.max_dets,
            pre_topk=decode.pre_topk,
            batch=options.fixed_batch,
            min_rows=decode.min_rows,
        )
    if isinstance(decode, FixedDecodeOptions):
        return FixedDecode(
            model,
            score_thr=contract.score_thr,
            nms_thr=contract.nms_thr,
            max_dets=decode.max_dets,
            pre_topk=decode.candidates,
            rounds=decode.rounds,
            # A dynamic input may have as few as 5 cells; a static one has what it has.
            pad=max(decode.candidates - cells_of(height, width), 0) if options.static else decode.candidates,
        )
    return RawDecode(model)


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
