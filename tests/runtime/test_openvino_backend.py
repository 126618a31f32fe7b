"""OpenVINO against ONNX Runtime on the same graphs; what it must not do in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Target
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure import compare_people, structured_images
from rtmo_deploy.runtime.decode import outputs_to_poses
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend, open_session, run_session
from rtmo_deploy.zoo import COCO_17

pytest.importorskip("openvino", reason="needs openvino")

from rtmo_deploy.runtime import openvino_backend
from rtmo_deploy.runtime.openvino_backend import load, parse_model

pytestmark = pytest.mark.usefixtures("openvino_compiles")


@pytest.fixture(scope="module")
def opened(onnx_n):
    artifact = read_artifact(onnx_n)
    return load(artifact, "cpu", 1), OnnxRuntimeBackend(artifact, "cpu", 1)


@pytest.mark.parametrize("shape", [(1, 256, 256), (2, 96, 192), (3, 64, 32), (2, 192, 96)])
def test_it_finds_what_onnx_runtime_finds(opened, shape):
    images = structured_images(*shape)
    ours, reference = (backend(images) for backend in opened)
    assert set(ours) == set(reference) == {"dets", "keypoints"}
    for name, tolerance in (("dets", 0.01), ("keypoints", 0.05)):
        assert ours[name].dtype == np.float32
        assert ours[name].shape == reference[name].shape
        assert np.abs(ours[name] - reference[name]).max(initial=0) < tolerance
    artifact = opened[0].artifact
    one, two = (outputs_to_poses(outputs, shape[1:], artifact) for outputs in (reference, ours))
    people = compare_people(one, two)
    assert (people.missed, people.extra, people.in_order) == (0, 0, True)
    assert people.matched > 0 or shape[1] < 96


def test_it_says_what_it_really_uses(opened):
    backend = opened[0]
    assert (backend.device, backend.threads, backend.precision) == ("cpu", 1, "fp32")
    assert set(backend.layers) == {"fp32"}
    assert backend.layers["fp32"] > 50


def test_results_outlive_the_next_call(opened):
    first = opened[0](structured_images(1, 128, 128))
    copies = {name: value.copy() for name, value in first.items()}
    opened[0](structured_images(1, 128, 128, seed=1))
    for name, value in first.items():
        assert np.array_equal(value, copies[name])


def test_an_input_that_does_not_lie_row_by_row(opened):
    images = structured_images(1, 128, 160)
    straight, turned = opened[0](images), opened[0](np.asfortranarray(images))
    assert np.array_equal(straight["dets"], turned["dets"])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 100, 128), np.float32),
        np.zeros((1, 4, 128, 128), np.float32),
        np.zeros((3, 128, 128), np.float32),
        np.zeros((1, 3, 128, 128), np.float64),
        np.zeros((1, 3, 128, 128), np.uint8),
        np.zeros((0, 3, 128, 128), np.float32),
        np.zeros((1, 3, 0, 128), np.float32),
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}",
)
def test_a_wrong_input_is_refused(opened, onnx_n, images):
    with pytest.raises(ArtifactError, match="does not run on") as caught:
        opened[0](images)
    assert caught.value.where == str(onnx_n)
    assert "\n" not in str(caught.value)


def little_artifact(path: Path, *, precision: str = "fp32", mode: DecodeMode = DecodeMode.RAW) -> Artifact:
    return Artifact(path, Kind.ONNX, "little", COCO_17, InputContract(32, 32), DecodeContract(mode), precision)


def save(path: Path, nodes, weights, *, domain: str = "") -> Path:
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 3, "h", "w"])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(helper.make_graph(nodes, "little", inputs, outputs, tensors), opset_imports=opsets)
    model.ir_version = 8
    onnx.save(model, path)
    return path


def quantised(path: Path, largest: int) -> Path:
    """Two 8-bit convolutions, as ``rtmo-deploy quantize`` writes them; weights up to ``largest``."""
    rng = np.random.default_rng(0)
    weights = {
        "in_scale": np.float32(2.0),
        "mid_scale": np.float32(largest / 4),
        "zero": np.int8(0),
        "scales": rng.uniform(0.01, 0.02, 32).astype(np.float32),
        "zeros": np.zeros(32, np.int8),
        "w1": rng.integers(-largest, largest + 1, (32, 3, 3, 3)).astype(np.int8),
        "w2": rng.integers(-largest, largest + 1, (32, 32, 3, 3)).astype(np.int8),
    }
    nodes = []
    for number, (source, scale) in enumerate([("input", "in_scale"), ("c1", "mid_scale")], 1):
        nodes += [
            helper.make_node("QuantizeLinear", [source, scale, "zero"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", scale, "zero"], [f"d{number}"]),
            helper.make_node("DequantizeLinear", [f"w{number}", "scales", "zeros"], [f"dw{number}"], axis=0),
            helper.make_node("Conv", [f"d{number}", f"dw{number}"], [f"c{number}"], pads=[1, 1, 1, 1]),
        ]
    nodes[-1].output[0] = "out"
    return save(path, nodes, weights)


def as_written(path: Path, images):
    """What ONNX Runtime makes of a quantised graph without 8-bit kernels, which saturate on CPUs without VNNI."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["out"], {"input": images})[0]


def difference(path: Path, backend) -> float:
    """Mean distance from what the graph says, as a share of the output's mean magnitude."""
    images = structured_images(2, 64, 32)
    reference = as_written(path, images)
    return float(np.abs(backend(images)["out"] - reference).mean() / np.abs(reference).mean())


def test_a_quantised_graph_runs_in_8_bits(tmp_path):
    path = quantised(tmp_path / "narrow.onnx", 64)
    backend = load(little_artifact(path, precision="int8"), "cpu", 1)
    assert (backend.precision, dict(backend.layers)) == ("int8", {"int8": 2})
    assert difference(path, backend) < 1e-3


def test_a_quantised_graph_can_be_emulated_in_float32(tmp_path):
    path = quantised(tmp_path / "wide.onnx", 127)
    backend = load(little_artifact(path, precision="int8"), "cpu", 1, "fp32")
    assert (backend.precision, dict(backend.layers)) == ("fp32", {"fp32": 2})
    assert difference(path, backend) < 1e-3


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.ONNXRUNTIME])
def test_bf16_of_what_was_quantised_for_another_runtime_is_refused(tmp_path, target):
    path = quantised(tmp_path / "narrow.onnx", 64)
    artifact = replace(little_artifact(path, precision="int8"), target=target)
    with pytest.raises(UsageError, match=f"quantised for {target}; OpenVINO has no bf16 around those 8 bits"):
        load(artifact, "cpu", 1, "bf16")
    assert load(artifact, "cpu", 1).precision == load(artifact, "cpu", 1, "fp32").precision == "fp32"


def test_8_bits_in_a_bf16_graph_are_refused(tmp_path):
    path = quantised(tmp_path / "narrow.onnx", 64)
    with pytest.raises(ArtifactError, match="computes 8 bits wrongly") as caught:
        load(little_artifact(path, precision="int8+bf16"), "cpu", 1)
    assert "precision bf16" in caught.value.remedy


FIRST_CALLS = """
import sys, threading
from pathlib import Path
import numpy as np
from rtmo_deploy.runtime.openvino_backend import load
from test_openvino_backend import little_artifact

backends = [load(little_artifact(Path(sys.argv[1])), "cpu", 1) for _ in range(4)]
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(4)

def call(backend):
    barrier.wait()
    backend(np.zeros((1, 3, 32, 32), np.float32))

threads = [threading.Thread(target=call, args=(one,)) for one in backends]
for act in (threading.Thread.start, threading.Thread.join):
    for one in threads:
        act(one)
"""


def test_the_first_calls_of_a_process_may_come_from_several_threads(little):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for _ in range(3):
        command = [sys.executable, "-c", FIRST_CALLS, str(little.path)]
        subprocess.run(command, env=environment, check=True, timeout=120)


def test_where_8_bits_saturate_they_are_refused(tmp_path, monkeypatch):
    path = quantised(tmp_path / "wide.onnx", 127)
    artifact = little_artifact(path, precision="int8")
    monkeypatch.setattr(openvino_backend, "saturates", lambda: True)
    with pytest.raises(SetupError, match="products saturate on this CPU, as on those without VNNI") as caught:
        load(artifact, "cpu", 1)
    assert caught.value.where == str(path)
    assert load(replace(artifact, path=quantised(tmp_path / "narrow.onnx", 64)), "cpu", 1).precision == "int8"
    monkeypatch.setattr(openvino_backend, "saturates", lambda: False)
    assert load(artifact, "cpu", 1).precision == "int8"


def test_whether_it_saturates_is_found_by_trying(tmp_path, monkeypatch):
    path, found = quantised(tmp_path / "wide.onnx", 127), openvino_backend.saturates()
    monkeypatch.setattr(openvino_backend, "saturates", lambda: False)  # run it all the same
    backend = load(little_artifact(path, precision="int8"), "cpu", 1)
    images = np.full((1, 3, 32, 32), 255, np.float32)
    reference = as_written(path, images)
    wrong = np.abs(backend(images)["out"] - reference).mean() > 0.05 * np.abs(reference).mean()
    assert found == wrong


def test_a_quantised_graph_that_would_run_in_floats_is_refused(tmp_path, monkeypatch):
    path = quantised(tmp_path / "narrow.onnx", 64)
    monkeypatch.setattr(openvino_backend, "layer_precisions", lambda _: {"fp32": 2})
    with pytest.raises(SetupError, match="none of its layers in 8 bits"):
        load(little_artifact(path, precision="int8"), "cpu", 1)


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_half_graph_runs(tmp_path, half):
    weight = np.random.default_rng(0).normal(0, 0.05, (8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=half),
        helper.make_node("Cast", ["w"], ["wh"], to=half),
        helper.make_node("Conv", ["x", "wh"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["y"], ["out"], to=TensorProto.FLOAT),
    ]
    path = save(tmp_path / "half.onnx", nodes, {"w": weight})
    backend = load(little_artifact(path, precision="fp16"), "cpu", 1)
    # With AVX512 OpenVINO computes bfloat16 nodes in bfloat16 whatever it is asked for; with AVX2 in float32.
    assert set(backend.layers) == {backend.precision}
    assert backend.precision in {"fp32", {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}[half]}
    images = structured_images(1, 32, 64)
    plain = save(
        tmp_path / "plain.onnx", [helper.make_node("Conv", ["input", "w"], ["out"], pads=[1] * 4)], {"w": weight}
    )
    expected = run_session(open_session(plain, threads=1, where=plain), {"input": images}, where=plain)["out"]
    assert np.abs(backend(images)["out"] - expected).max() < 0.02 * np.abs(expected).max()


class Core:
    """The real thing with other capabilities, what it compiles replaced by ``compiled``; notes what it is asked for."""

    def __init__(self, capabilities, compiled=None):
        import openvino

        self._core = openvino.Core()
        self._capabilities = capabilities
        self._compiled = compiled
        self.asked = []

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self._capabilities

    def compile_model(self, model, device, options):
        self.asked.append(options)
        return self._compiled or self._core.compile_model(model, device, options)

    def read_model(self, *args):
        return self._core.read_model(*args)


@pytest.fixture
def little(tmp_path):
    weight = np.ones((8, 3, 3, 3), np.float32)
    nodes = [helper.make_node("Conv", ["input", "w"], ["out"], pads=[1, 1, 1, 1])]
    return little_artifact(save(tmp_path / "little.onnx", nodes, {"w": weight}))


def test_the_precision_is_always_said(little, monkeypatch):
    core = Core(["FP32", "INT8", "BF16"])
    monkeypatch.setattr(openvino_backend, "_core", lambda: core)
    for precision in (None, "fp32"):
        assert load(little, "cpu", None, precision).precision == "fp32"
    assert [options["INFERENCE_PRECISION_HINT"] for options in core.asked] == ["f32", "f32"]


def test_bf16_is_refused_where_the_cpu_lacks_it(little, monkeypatch):
    core = Core(["FP32", "INT8"])
    monkeypatch.setattr(openvino_backend, "_core", lambda: core)
    with pytest.raises(SetupError, match="This CPU has no bf16 arithmetic"):
        load(little, "cpu", 1, "bf16")
    assert core.asked == []


def test_bf16_is_what_was_asked_for_or_an_error(little):
    """On the CPU at hand, whatever it has."""
    import openvino

    known = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    limited = any(map(os.environ.get, openvino_backend.ISA_LIMITS))
    try:
        found = load(little, "cpu", 1, "bf16").precision
    except SetupError as error:
        found = str(error)
    assert limited or (found == "bf16" if known else "no bf16 arithmetic" in found)


class Compiled:
    """A compiled model that reports a precision and the layers' precisions; it cannot be run."""

    def __init__(self, precision, *layers):
        self.precision, self.layers = precision, layers

    def get_property(self, name):
        assert name == "INFERENCE_PRECISION_HINT"
        return self

    def get_type_name(self):
        return self.precision

    def get_runtime_model(self):
        return self

    def get_ordered_ops(self):
        return [Layer(precision) for precision in self.layers]


class Layer:
    """One convolution of a compiled model."""

    def __init__(self, precision):
        self.values = {"layerType": "Convolution", "runtimePrecision": precision}

    def get_rt_info(self):
        return {name: Text(value) for name, value in self.values.items()}


class Text(str):
    __slots__ = ()

    def astype(self, kind):
        return kind(self)


@pytest.mark.parametrize(
    ("asked", "compiled", "words"),
    [
        ("bf16", Compiled("f32", "f32"), "asked for bf16 and would run in f32"),
        ("bf16", Compiled("bf16", "f32"), "asked for bf16 and would run in bf16"),
        (None, Compiled("bf16", "bf16"), "asked for fp32 and would run in bf16"),
        ("fp32", Compiled("bf16", "bf16"), "asked for fp32 and would run in bf16"),
        ("fp32", Compiled("f32", "u8", "f32"), "asked for fp32 and would run layers in 8 bits"),
    ],
)
def test_another_precision_than_asked_for_is_found_out(little, monkeypatch, asked, compiled, words):
    monkeypatch.setattr(openvino_backend, "_core", lambda: Core(["FP32", "BF16"], compiled))
    for limit in openvino_backend.ISA_LIMITS:
        monkeypatch.delenv(limit, raising=False)
    with pytest.raises(SetupError, match=words):
        load(little, "cpu", 1, asked)


def test_layers_are_counted_by_what_the_cpu_runs_them_in():
    assert openvino_backend.layer_precisions(Compiled("f32", "u8", "i8", "f32", "bf16", "f16")) == {
        "int8": 2,
        "fp32": 1,
        "bf16": 1,
        "fp16": 1,
    }


@pytest.mark.parametrize("precision", ["fp16", "int8", "f32", ""])
def test_an_unknown_precision(little, precision):
    with pytest.raises(UsageError, match=r"Those it has: fp32, bf16\."):
        load(little, "cpu", 1, precision)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_it_does_not_take_the_cpu_for_a_gpu(little, device):
    with pytest.raises(SetupError, match=f"on the CPU only, not on {device}"):
        load(little, device, 1)


def test_an_operator_it_does_not_have(tmp_path):
    path = save(
        tmp_path / "odd.onnx", [helper.make_node("Nonsense", ["input"], ["out"], domain="x.y")], {}, domain="x.y"
    )
    with pytest.raises(ArtifactError, match=r"does not accept it.*x\.y\.Nonsense") as caught:
        load(little_artifact(path), "cpu", 1)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_of_the_instruction_set_is_named(little, monkeypatch, limit):
    class Core:
        def get_property(self, *_):
            return ["FP32"]

        def compile_model(self, *_):
            raise RuntimeError("Exception from src/x.cpp:1:\nbad combination\n")

    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openvino_backend, "_core", Core)
    with pytest.raises(ArtifactError, match="does not accept it: bad combination\\. Export"):
        openvino_backend.compile_model(None, where="m.xml")
    monkeypatch.setenv(limit, "SSE41")
    with pytest.raises(SetupError, match=f"under {limit}=SSE41: bad combination\\. Unset {limit}"):
        openvino_backend.compile_model(None, where="m.xml")


def test_the_tensorrt_plugin(little):
    with pytest.raises(ArtifactError, match="TensorRT plugin"):
        load(replace(little, decode=DecodeContract(DecodeMode.PLUGIN)), "cpu", 1)


@pytest.mark.parametrize("kind", [Kind.CHECKPOINT, Kind.ENGINE])
def test_another_kind_of_file(little, kind):
    with pytest.raises(UsageError, match="does not run an artifact of kind"):
        load(replace(little, kind=kind), "cpu", 1)


@pytest.mark.parametrize("content", [b"", b"junk" * 50, None], ids=["empty", "junk", "missing"])
def test_a_file_it_cannot_read(tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="does not accept it") as caught:
        load(little_artifact(path), "cpu", 1)
    assert "\n" not in str(caught.value)


def test_a_missing_package(little, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rtmo-deploy\[openvino\]'"):
        load(little, "cpu", 1)


def test_weights_are_looked_at(tmp_path):
    wide = parse_model(str(quantised(tmp_path / "wide.onnx", 65)), where="x")
    narrow = parse_model(str(quantised(tmp_path / "narrow.onnx", 64)), where="x")
    assert openvino_backend.has_narrow_weights(narrow)
    assert not openvino_backend.has_narrow_weights(wide)


def test_a_float_model_has_no_8_bit_weights(little):
    assert not openvino_backend.has_narrow_weights(parse_model(str(little.path), where="x"))
