"""Whether ONNX Runtime adds 8-bit products up without loss on this CPU.

It turns Q/DQ pairs around a convolution into an 8-bit one. x86 CPUs without VNNI do that with ``vpmaddubsw``, which
adds pairs of products up in 16 bits and cuts off what does not fit, without an error: a network of 8-bit weights then
finds other people than its graph says. ``session.disable_quant_qdq`` leaves the pairs as they stand: rounding as in 8
bits, arithmetic in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

#: Session configuration under which a Q/DQ graph is computed as it is written, on every CPU.
EXACT: Final = {"session.disable_quant_qdq": "1"}
_CHANNELS, _OUT, _LARGEST = 64, 16, 127


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether an 8-bit convolution of the largest numbers there are comes out too small."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_probe(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": np.full((1, _CHANNELS, 4, 8), float(_LARGEST), np.float32)})[0]
    return not np.allclose(found, _CHANNELS * _LARGEST * _LARGEST, rtol=1e-2)


def _probe() -> bytes:
    """A quantised 1x1 convolution, its input and weights all at their largest, Q/DQ on both sides."""
    from onnx import TensorProto, helper, numpy_helper

    total = float(_CHANNELS * _LARGEST * _LARGEST)
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "weights": np.full((_OUT, _CHANNELS, 1, 1), _LARGEST, np.int8),
        "scales": np.ones(_OUT, np.float32),
        "zeros": np.zeros(_OUT, np.int8),
        "out_scale": np.float32(total / 100),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "out_scale", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "out_scale", "zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, _CHANNELS, 4, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, _OUT, 4, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
