"""Symmetric 8-bit numbers, in plain NumPy: what the Q and DQ nodes of a quantised graph compute.

One scale a tensor for activations, one a channel for weights; the zero point is always 0, as TensorRT requires. Weights
stay within -127..127, so that a weight and its negative round alike; activations may use -128, as ONNX's
QuantizeLinear, TensorRT and OpenVINO all do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMIT: Final = 127
#: Where a tensor or channel is zero everywhere, any scale will do; a scale of 0 is refused by TensorRT.
_LEAST: Final = np.float32(1e-12)


def scale_of(threshold: float | NDArray[Any]) -> NDArray[np.float32]:
    """The scale that maps ``threshold`` to 127; positive even for 0."""
    scale: NDArray[np.float32] = np.maximum(np.asarray(threshold, np.float32) / np.float32(LIMIT), _LEAST)
    return scale


def quantize(values: NDArray[Any], scale: NDArray[Any] | float) -> NDArray[np.int8]:
    """Round to the nearest multiple of ``scale``, halves to even, saturated at -128 and 127 (ONNX QuantizeLinear)."""
    return np.clip(np.rint(np.asarray(values, np.float32) / scale), -128, LIMIT).astype(np.int8)


def dequantize(values: NDArray[np.int8], scale: NDArray[Any] | float) -> NDArray[np.float32]:
    """ONNX DequantizeLinear with zero point 0."""
    return (values.astype(np.float32) * scale).astype(np.float32)


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A convolution's weight in 8 bits, one scale for each output channel.

    Args:
        weight: ``(O, I, ...)``.

    Returns:
        ``(O, I, ...)`` int8 within -127..127, and ``(O,)`` float32 scales.
    """
    flat = np.abs(weight).reshape(len(weight), -1)
    scales = scale_of(flat.max(axis=1, initial=0.0))
    shaped = scales.reshape(-1, *([1] * (weight.ndim - 1)))
    return np.clip(np.rint(weight / shaped), -LIMIT, LIMIT).astype(np.int8), scales
