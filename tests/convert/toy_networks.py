"""Networks of three convolutions in every precision, with this project's metadata: their engines build in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.zoo import COCO_17

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONVOLUTIONS = 3
RAW = ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs")
_CASTS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def toy(
    precision: str, *, half: int = CONVOLUTIONS, batch: int | None = None, side: int | None = None
) -> onnx.ModelProto:
    """A network; only the first ``half`` convolutions are of the precision, the others of float32."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def node(kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def weight(name: str, value: Any, kind: int | None = None) -> str:
        tensor = numpy_helper.from_array(np.asarray(value), name)
        if kind is not None:
            value = np.asarray(value, np.float32)
            tensor = helper.make_tensor(name, kind, value.shape, value.ravel().tolist())
        weights.append(tensor)
        return name

    current, channels = "input", 3
    for index in range(CONVOLUTIONS):
        place, changed = f"/body/{index}", index < half
        kernel = rng.normal(size=(16, channels, 3, 3)).astype(np.float32) * 0.1
        bias = rng.normal(size=16).astype(np.float32)
        cast = _CASTS.get(precision) if changed else None
        if cast is not None:
            current = node("Cast", [current], f"{place}/in", to=cast)
        if precision == "int8" and changed:
            scale, zero = weight(f"s{index}", np.float32(0.05)), weight(f"z{index}", np.int8(0))
            current = node("QuantizeLinear", [current, scale, zero], f"{place}/q")
            current = node("DequantizeLinear", [current, scale, zero], f"{place}/dq")
            integers = weight(f"w{index}", np.clip(np.round(kernel / 0.01), -127, 127).astype(np.int8))
            scales = weight(f"ws{index}", np.full(16, 0.01, np.float32))
            zeros = weight(f"wz{index}", np.zeros(16, np.int8))
            held = node("DequantizeLinear", [integers, scales, zeros], f"{place}/dw", axis=0)
        else:
            held = weight(f"w{index}", kernel, cast)
        inputs = [current, held, weight(f"b{index}", bias, cast)]
        stride = 2 if index == 0 else 1
        out = node("Conv", inputs, f"{place}/Conv", kernel_shape=[3, 3], pads=[1] * 4, strides=[stride] * 2)
        current = node("Mul", [out, node("Sigmoid", [out], f"{place}/Sigmoid")], f"{place}/Mul")
        if cast is not None:
            current = node("Cast", [current], f"{place}/out", to=TensorProto.FLOAT)
        channels = 16
    nodes[-1].output[0] = "maps"
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch or "b", 3, side or "h", side or "w"])
    maps = helper.make_tensor_value_info("maps", TensorProto.FLOAT, [batch or "b", 16, None, None])
    graph = helper.make_graph(nodes, "toy", [source], [maps], weights)
    opset = 22 if precision == "bf16" else 17
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def describe(model: onnx.ModelProto, path: Path, precision: str, **contract: Any) -> Path:
    """Write a model with metadata that says what it is; it puts out a raw graph's four tensors beside the maps."""
    if len(model.graph.output) == 1:
        model.graph.node.extend(helper.make_node("Identity", ["maps"], [name], name=f"/{name}") for name in RAW)
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in RAW)
    size = {"height": 64, "width": 64, **contract}
    artifact = Artifact(
        path, Kind.ONNX, "toy", COCO_17, InputContract(**size), DecodeContract(DecodeMode.RAW), precision=precision
    )
    helper.set_model_props(model, artifact.to_metadata())
    onnx.save(model, path)
    return path


def write_toy(path: Path, precision: str = "fp32", *, said: str | None = None, half: int = CONVOLUTIONS) -> Path:
    """A dynamic network with metadata; ``said`` is the precision it claims, if that is another one."""
    return describe(toy(precision, half=half), path, said or precision)
