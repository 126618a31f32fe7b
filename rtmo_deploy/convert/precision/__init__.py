"""FP16 and BF16: a pass that puts casts into an ONNX graph, so that the engine build can stay blind to precision."""

from rtmo_deploy.convert.precision.cast import CastResult, cast_onnx

__all__ = ["CastResult", "cast_onnx"]
