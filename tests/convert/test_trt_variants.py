"""Whole networks built by TensorRT-RTX in each precision, dynamic: tensors, profile, and what the layer table says."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from golden import CLS_BIAS, golden_model

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.convert.graph import element_types
from rtmo_deploy.convert.precision import cast_onnx
from rtmo_deploy.convert.quantize import Method, open_source, quantize_onnx
from rtmo_deploy.convert.quantize.ranges import Range
from rtmo_deploy.convert.quantize.record import Calibration, Source
from rtmo_deploy.convert.trt import BuildOptions, build_engine
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.validate_engine import engine_findings, validate_engine
from rtmo_deploy.model import NetworkSpec
from rtmo_deploy.runtime.engine_file import Shape, engine_artifact, read_record
from rtmo_deploy.runtime.trt_api import installed_backends
from rtmo_deploy.zoo import ARCHITECTURES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("tensorrt-rtx" not in installed_backends(), reason="needs tensorrt_rtx"),
]

SIDE = 128
SIZES = tuple((Shape.parse(text),) for text in ("1x128x128", "2x192x128", "4x256x256"))
RTX = BuildOptions(backend="tensorrt-rtx", min=SIZES[0], opt=SIZES[1], max=SIZES[2])
_NAMES = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}


@pytest.fixture(scope="session")
def float32_file(as_checkpoint, tmp_path_factory):
    """A network exported with everything dynamic; each architecture's file is made once."""
    made = {}

    def make(architecture):
        if architecture not in made:
            model = golden_model(NetworkSpec.of(ARCHITECTURES[architecture], 17), bias=CLS_BIAS[architecture])
            path = tmp_path_factory.mktemp(architecture) / f"{architecture}.onnx"
            options = ExportOptions(decode="fixed", imgsz=(SIDE, SIDE))
            export_onnx(as_checkpoint(model), path, options, verify=False)
            made[architecture] = path
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def model_file(float32_file):
    """The same in another precision. INT8 has made-up ranges: what they are does not matter to a builder."""

    def quantised(path):
        output = path.with_suffix(".int8.onnx")
        if not output.exists():
            source = open_source(path, Target.TENSORRT)
            about = Source(
                source.sha256, {"name": "made up"}, (SIDE, SIDE), "center", Method.MINMAX, source.placement.target
            )
            ranges = dict.fromkeys(source.placement.edges, Range(-16, 16))
            quantize_onnx(source, Calibration(about, 1, (), ranges), output)
        return output

    def make(architecture, precision):
        path = float32_file(architecture)
        if precision.startswith("int8"):
            path = quantised(path)
        if precision.endswith("fp16"):
            half = path.with_suffix(".fp16.onnx")
            cast_onnx(path, half, "fp16", verify=False)
            path = half
        return path

    return make


def convolutions_of(path):
    """How many convolutions of a graph compute in which type, by its tensors alone."""
    model = onnx.load(path)
    types = element_types(model)
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    counts = Counter()
    for node in model.graph.node:
        if node.op_type == "Conv":
            eight = [made.get(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2
            counts["int8" if eight else _NAMES[types[node.output[0]]]] += 1
    return dict(counts)


def layer_types(record):
    return {dtype for counts in record.layers.values() for dtype in counts}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16"])
@pytest.mark.parametrize("architecture", ["rtmo-n", pytest.param("rtmo-s", marks=pytest.mark.long)])
def test_an_engine_is_what_its_graph_is(model_file, tmp_path, architecture, precision):
    source = model_file(architecture, precision)
    path = tmp_path / "a.engine"
    result = build_engine(source, path, RTX)
    record = read_record(path)
    assert record == result.record
    assert [str(spec) for spec in record.inputs] == ["input float32 [-1, 3, -1, -1]"]
    assert [str(spec) for spec in record.outputs] == ["dets float32 [-1, 100, 5]", "keypoints float32 [-1, 100, 17, 3]"]
    assert [str(profile) for profile in record.profiles] == ["1x128x128 to 4x256x256, tuned for 2x192x128"]
    assert record.onnx_sha256 == sha256_of(source)
    artifact = engine_artifact(path)
    assert (artifact.kind, artifact.architecture, artifact.precision) == (Kind.ENGINE, architecture, precision)
    assert (artifact.input.batch, artifact.input.dynamic_hw) == (None, True)
    # The audit: each convolution of the graph is seen in the engine, in the type that the graph gives it.
    expected = convolutions_of(source)
    assert record.precision["asked"] == precision
    assert record.precision["how"] == "layer table of the build log"
    assert record.precision["network"]["convolutions"] == expected
    found = record.precision["engine"]["convolutions"]
    assert found.get("unseen", 0) == 0
    first = precision.partition("+")[0]
    assert found[first] == expected[first] > 50
    assert sum(found.values()) == sum(expected.values())
    if "fp16" not in precision:
        assert "fp16" not in {*found, *layer_types(record)}
    assert ("int8" in layer_types(record)) == (first == "int8")
    assert engine_findings(path, record) == []


def test_a_real_engine_passes_validation_and_another_half_of_it_does_not(model_file, tmp_path):
    path = tmp_path / "a.engine"
    build_engine(model_file("rtmo-n", "fp16"), path, RTX)
    report = validate_engine(path)
    assert report.ok
    assert {check.name for check in report.checks if check.ok} >= {"record", "bytes", "input and outputs", "header"}
    path.write_bytes(path.read_bytes()[:-100])
    assert [check.name for check in validate_engine(path).checks if check.failed] == ["bytes"]


def test_what_was_not_asked_for_is_refused(model_file, tmp_path):
    from dataclasses import replace

    with pytest.raises(ArtifactError, match="int8 was asked for, and the model is fp16"):
        build_engine(model_file("rtmo-n", "fp16"), tmp_path / "a.engine", replace(RTX, precision="int8"))
    assert list(tmp_path.iterdir()) == []
