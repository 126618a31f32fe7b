"""Quantises a float32 ONNX model to INT8 by Q/DQ pairs in the graph: calibrated, judged, and within a budget.

The precision is in the graph. Which 8-bit numbers are fast and right differs between TensorRT, OpenVINO and ONNX
Runtime, so a model is quantised for one of them, its target. :func:`open_source` reads the model, :func:`calibrate`
measures it on images, :func:`quantize_onnx` makes the INT8 model; :mod:`~rtmo_deploy.convert.quantize.placement` says
what is quantised and why.
"""

from rtmo_deploy.convert.quantize.calibrate import DEFAULT_METHOD, calibrate
from rtmo_deploy.convert.quantize.judge import Judge, Verdict
from rtmo_deploy.convert.quantize.quantize import QuantizeResult, quantize_onnx, require_budget
from rtmo_deploy.convert.quantize.ranges import Method
from rtmo_deploy.convert.quantize.record import Calibration
from rtmo_deploy.convert.quantize.source_model import SourceModel, open_source

__all__ = [
    "DEFAULT_METHOD",
    "Calibration",
    "Judge",
    "Method",
    "QuantizeResult",
    "SourceModel",
    "Verdict",
    "calibrate",
    "open_source",
    "quantize_onnx",
    "require_budget",
]
