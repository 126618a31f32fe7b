"""A float32 ONNX model becomes an INT8 one, by Q/DQ pairs in the graph: calibrated, judged, and within a budget.

The precision is in the graph: whatever builds or runs it, TensorRT, OpenVINO or ONNX Runtime, sees the same 8-bit
tensors with the same scales. :func:`open_source` reads the model, :func:`calibrate` measures it on pictures,
:func:`quantize_onnx` makes the INT8 model; :mod:`~rtmo_deploy.convert.quantize.rules` says what is quantised and why.
"""

from rtmo_deploy.convert.quantize.calibrate import DEFAULT_METHOD, calibrate, calibrate_cached
from rtmo_deploy.convert.quantize.judge import Judge, Verdict
from rtmo_deploy.convert.quantize.quantize import QuantizeOptions, QuantizeResult, quantize_onnx
from rtmo_deploy.convert.quantize.ranges import Method
from rtmo_deploy.convert.quantize.record import Calibration
from rtmo_deploy.convert.quantize.source_model import SourceModel, open_source

__all__ = [
    "DEFAULT_METHOD",
    "Calibration",
    "Judge",
    "Method",
    "QuantizeOptions",
    "QuantizeResult",
    "SourceModel",
    "Verdict",
    "calibrate",
    "calibrate_cached",
    "open_source",
    "quantize_onnx",
]
