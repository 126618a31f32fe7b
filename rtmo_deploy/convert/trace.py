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
from rtmo_deploy.convert.graph import GraphView, constants_to_initializers, infer, unique
from rtmo_deploy.convert.network import ExportNetwork
from rtmo_deploy.convert.onnx_ops import split
from rtmo_deploy.model.spec import STRIDES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.model import RTMO

_Shapes = dict[str, tuple[int | str, ...]]

#: onnxsim turns a MatMul and Add of rank 3 into Reshape, Gemm and five nodes that compute the shape to go back to:
#: 25 nodes more on RTMO, for nothing. BatchNorm is already folded, in float64.
_SKIPPED = ["fuse_matmul_add_bias_into_gemm_batched", "fuse_bn_into_conv"]
#: What a dynamic input is traced with; none of the shapes that are verified later.
TRACED_SHAPE = (3, 192, 224)


def trace_network(model: RTMO, artifact: Artifact, opset: int) -> onnx.ModelProto:
    """The graph of a network as the artifact describes it, simplified and named."""
    contract, decode = artifact.input, artifact.decode
    batch, height, width = TRACED_SHAPE
    # A dynamic input may have as few as 5 cells; a static one has what it has.
    cells = 0
    if not contract.dynamic_hw:
        height, width = contract.height, contract.width
        cells = cells_of(height, width)
    decoder: nn.Module
    if decode.mode is DecodeMode.RAW:
        decoder = RawDecode(model)
    elif decode.mode is DecodeMode.ONNX:
        decoder = OnnxDecode(model, decode, batch=contract.batch)
    else:
        decoder = FixedDecode(model, decode, pad=max((decode.pre_topk or 0) - cells, 0))
    network = ExportNetwork(model, decoder, dense=decode.mode is DecodeMode.RAW)
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
        names = ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs")
        return shapes | {name: (batch, cells, count) for name, count in zip(names, columns, strict=True)}
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
    """Fold constants, remove what is dead or repeated, name nodes, describe inputs and outputs.

    By onnxsim, not onnxslim: both leave as many nodes (rtmo-s: 402 in ``onnx`` mode, 480 in ``fixed``), and onnxsim
    takes a ninth of the time.
    """
    import onnxsim

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: onnx.ModelProto = onnxsim.simplify(traced, skipped_optimizers=_SKIPPED)[0]
    constants_to_initializers(model)
    _name_nodes(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        fresh = onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shapes[value.name])
        value.CopyFrom(fresh)
    # The exporter's own guesses at inner shapes are partly wrong; infer them anew.
    del model.graph.value_info[:]
    return infer(model)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give nodes that the simplifier made a name under the module they belong to, in place.

    A node belongs where all its consumers do; where they are of several modules, to the module of its producer. Later
    passes tell by the name, ``/decode/...``, what must keep its precision.
    """
    view = GraphView(graph)
    taken = {node.name for node in view.nodes}
    # Consumers come after a node, so that one pass from the end names chains of unnamed nodes.
    for node in reversed(view.nodes):
        if node.name.startswith("/"):
            continue
        after = _scopes(reader for output in node.output for reader in view.readers(output))
        before = _scopes(maker for name in node.input if (maker := view.maker(name)) is not None)
        scopes = after if len(set(after)) == 1 else [*before, *after]
        node.name = unique(f"{scopes[0] if scopes else ''}/{node.op_type}", taken)


def _scopes(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """The modules that nodes belong to; a node without a name of that kind belongs to none."""
    return [node.name.rpartition("/")[0] for node in nodes if node.name.startswith("/")]
