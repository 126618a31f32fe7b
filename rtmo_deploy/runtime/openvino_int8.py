"""Which precision OpenVINO's layers really run in, and whether this CPU adds 8-bit products up without loss.

x86 CPUs without VNNI multiply 8-bit numbers with ``vpmaddubsw``, which adds pairs of products up in 16 bits and cuts
off what does not fit: two products of 255 and 127 are 64770, and 32767 comes out. OpenVINO uses it all the same
(its documentation calls it the saturation issue), and the people that come out are wrong without an error. So it is
tried out, with one small convolution, before a network is run in 8 bits. Weights of at most 64 in magnitude
(7 bits) fit: 2 x 255 x 64 = 32640.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Largest magnitude of weights that cannot saturate.
NARROW = 64
#: Layers that hold the arithmetic.
_HEAVY = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_NAMES = {"u8": "int8", "i8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def layer_precisions(compiled: Any) -> Mapping[str, int]:
    """How many convolutions and matrix products a compiled model runs in which precision.

    Args:
        compiled: An ``openvino.CompiledModel``.

    Returns:
        Such as ``{"int8": 58, "fp32": 12}``; what has another type is counted under OpenVINO's name for it.
    """
    counts: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in _HEAVY:
            precision = info["runtimePrecision"].astype(str)
            counts[_NAMES.get(precision, precision)] += 1
    return dict(counts)


def has_narrow_weights(model: Any) -> bool:
    """Whether a model has 8-bit weights and all of them are narrow.

    Args:
        model: An ``openvino.Model``.
    """
    found = False
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() not in {"i8", "u8"}:
            continue
        values = np.asarray(node.get_data(), np.int16)
        if values.ndim < 2:
            continue  # a zero point
        found = True
        if np.abs(values).max(initial=0) > NARROW:
            return False
    return found


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether an 8-bit convolution with the largest numbers there are comes out too small on this CPU."""
    import openvino as ov
    from openvino import opset13 as ops

    channels, largest, weight = 64, 255.0, 127
    source = ops.parameter([1, channels, 1, 8], np.float32)
    low, high = np.float32(0), np.float32(largest)
    quantised = ops.fake_quantize(source, low, high, low, high, 256)
    weights = ops.convert(ops.constant(np.full((16, channels, 1, 1), weight, np.int8)), np.float32)
    scaled = ops.multiply(weights, ops.constant(np.ones((16, 1, 1, 1), np.float32)))
    result = ops.convolution(quantised, scaled, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([result], [source], "saturation")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(model, "CPU", options)
    found = compiled(np.full((1, channels, 1, 8), largest, np.float32))[0]
    return not np.allclose(found, channels * largest * weight, rtol=1e-3)
