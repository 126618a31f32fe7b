"""An INT8 graph is computed as it is written, whatever this CPU's 8-bit sums do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.artifact import Target
from rtmo_deploy.runtime import onnxruntime_backend
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.onnxruntime_backend import EXACT, exact_entries, open_session, saturates

if TYPE_CHECKING:
    from pathlib import Path


def convolution(weights: np.ndarray) -> onnx.ModelProto:
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "weights": weights,
        "scales": np.ones(len(weights), np.float32),
        "zeros": np.zeros(len(weights), np.int8),
        "wide": np.float32(40_000),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "wide", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "wide", "zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, weights.shape[1], 6, 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_exact_sessions_round_as_the_graph_says() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(90, 128, (8, 64, 1, 1), dtype=np.int8)
    images = rng.integers(0, 128, (1, 64, 6, 6)).astype(np.float32)
    session = open_session(convolution(weights).SerializeToString(), where="graph", config=EXACT)
    found = session.run(None, {"input": images})[0]
    exact = np.einsum("oc,bchw->bohw", weights[:, :, 0, 0].astype(np.float64), images)
    np.testing.assert_allclose(found, np.clip(np.rint(exact / 40_000), -128, 127) * 40_000, atol=1)


@pytest.mark.parametrize("lossy", [True, False])
def test_only_int8_on_such_a_cpu_is_emulated(onnx_n: Path, monkeypatch: pytest.MonkeyPatch, lossy: bool) -> None:
    monkeypatch.setattr(onnxruntime_backend, "saturates", lambda: lossy)
    artifact = read_artifact(onnx_n)
    assert exact_entries(artifact, "cpu") == {}
    for target in Target:
        small = replace(artifact, precision="int8", target=target)
        assert exact_entries(small, "cuda:0") == {}
        # What was made for another runtime is not fast in this one, and its own fusions may compute it wrongly.
        own = target is Target.ONNXRUNTIME
        assert exact_entries(small, "cpu") == (EXACT if lossy or not own else {})
        # Its own fusions of pairs with half scales are not accepted by ONNX Runtime itself.
        assert exact_entries(replace(small, precision="int8+fp16"), "cpu") == EXACT
        assert exact_entries(replace(small, precision="int8+fp16"), "cuda:0") == {}


def test_the_probe_answers() -> None:
    assert isinstance(saturates(), bool)
