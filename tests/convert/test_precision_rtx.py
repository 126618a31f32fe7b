"""TensorRT-RTX takes the half graphs, strongly typed. Builds engines on the CPU, in a child process; runs none."""

from __future__ import annotations

import pytest

from rtmo_deploy.convert import ExportOptions
from rtmo_deploy.convert.precision import cast_onnx

pytest.importorskip("tensorrt_rtx")

from test_tensorrt_rtx import build

DECODES = ("fixed", "raw")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("mode", DECODES)
def test_a_strongly_typed_engine_is_built(exported, tmp_path, mode, precision):
    source = exported(ExportOptions(decode=mode))
    path = tmp_path / "half.onnx"
    cast_onnx(source.path, path, precision, verify=False)
    result = build(path, 256)
    assert result["errors"] == []
    assert result["inputs"] == [["input", [-1, 3, -1, -1]]]
    rows = [
        [value.name, [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]]
        for value in source.graph.graph.output
    ]
    assert result["outputs"] == rows
    # The weights are in it, and they are not float32.
    full = build(source.path, 256)
    assert 0.7 * path.stat().st_size < result["bytes"] < full["bytes"] - 0.25 * source.path.stat().st_size


@pytest.mark.slow
def test_a_graph_that_is_not_strongly_typed_is_noticed(exported, tmp_path):
    import onnx

    source = exported(ExportOptions(decode="raw"))
    path = tmp_path / "half.onnx"
    cast_onnx(source.path, path, "fp16", verify=False)
    model = onnx.load(path)
    first = next(node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == "input")
    for node in model.graph.node:
        if node is not first:
            node.input[:] = ["input" if name == first.output[0] else name for name in node.input]
    onnx.save(model, path)
    assert build(path, 256)["bytes"] is None
