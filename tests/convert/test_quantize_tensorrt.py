"""TensorRT-RTX takes the INT8 graph, strongly typed, and keeps 8-bit tensors. Builds on the CPU; runs none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("onnxruntime")

from rtmo_deploy.convert import ExportOptions
from rtmo_deploy.convert.quantize import Method, open_source, quantize_onnx
from rtmo_deploy.convert.quantize.ranges import Range
from rtmo_deploy.convert.quantize.record import Calibration, Source

pytestmark = pytest.mark.slow

#: In a process of its own: on some graphs the parser ends the process instead of reporting an error.
BUILD = """
import json, sys
import tensorrt_rtx as trt

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors, self.layers = [], ""

    def log(self, severity, message):
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(message)
        if message.startswith("Layers:"):
            self.layers = message

log = Log()
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
parser.parse_from_file(sys.argv[1])
result = {"errors": [parser.get_error(i).desc() for i in range(parser.num_errors)], "bytes": None}
if not result["errors"]:
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    result["quantize"] = sum(kind == trt.LayerType.QUANTIZE for kind in kinds)
    result["dequantize"] = sum(kind == trt.LayerType.DEQUANTIZE for kind in kinds)
    result["outputs"] = [[network.get_output(i).name, str(network.get_output(i).dtype)] for i in range(2)]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, 128, 128), (1, 3, 192, 192), (4, 3, 256, 256))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    result["bytes"] = None if engine is None else engine.nbytes
    result["errors"] += log.errors[-3:]
    result["int8"] = log.layers.count("Int8")
print(json.dumps(result))
"""


def build(path):
    child = subprocess.run(
        [sys.executable, "-c", BUILD, str(path)], capture_output=True, text=True, timeout=400, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout.splitlines()[-1])


def test_the_int8_graph_builds_strongly_typed(exported, tmp_path):
    source = open_source(exported(ExportOptions(decode="fixed", imgsz=(128, 128))).path)
    about = Source(source.sha256, {"name": "made up"}, (128, 128), "center", Method.MINMAX, source.placement.target)
    # What the ranges are does not matter to a builder.
    made_up = Calibration(about, 1, (), dict.fromkeys(source.placement.edges, Range(-8, 8)))
    output = tmp_path / "n.int8.onnx"
    result = quantize_onnx(source, made_up, output)
    built = build(output)
    assert built["errors"] == []
    assert isinstance(built["bytes"], int)
    assert built["quantize"] == result.pairs
    assert built["dequantize"] == result.pairs + result.layers
    assert [name for name, _ in built["outputs"]] == ["dets", "keypoints"]
    assert all("FLOAT" in dtype for _, dtype in built["outputs"])
    # The audit: most of what the engine's layers hand on is 8-bit.
    assert built["int8"] > result.layers
