"""INT8 graphs cast to half: 8-bit numbers stay, the float side of each pair takes the type of what reads it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from toy_networks import describe, toy

pytest.importorskip("onnxruntime")

from rtmo_deploy.artifact import DecodeMode, Target
from rtmo_deploy.convert import ExportOptions
from rtmo_deploy.convert.graph import element_types
from rtmo_deploy.convert.precision import cast_onnx
from rtmo_deploy.convert.precision.graph import half_pairs, hold_scales, is_quantized, to_16bit
from rtmo_deploy.convert.precision.rules import CAST_TYPES, fp32_block_of
from rtmo_deploy.convert.precision.verify import changed_weights, emulated
from rtmo_deploy.convert.quantize import Method, open_source, quantize_onnx
from rtmo_deploy.convert.quantize.ranges import Range
from rtmo_deploy.convert.quantize.record import Calibration, Source
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure import structured_images, validate_onnx
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.onnxruntime_backend import EXACT, open_session, run_session

FLOAT, HALF, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
FP16, BF16 = CAST_TYPES["fp16"], CAST_TYPES["bf16"]
PAIR = {"QuantizeLinear", "DequantizeLinear"}


def everything(node):
    return True


def opset_of(model):
    (version,) = [entry.version for entry in model.opset_import if not entry.domain]
    return version


def values_of(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def maps_of(model, images):
    session = open_session(model.SerializeToString(), where="toy", config=EXACT)
    return run_session(session, {"input": images}, where="toy")["maps"]


@pytest.mark.parametrize("half", [FP16, BF16], ids=["fp16", "bf16"])
def test_pairs_take_the_type_of_what_reads_them(half):
    source = toy("int8")
    result = to_16bit(source, half, everything)
    onnx.checker.check_model(result.model, full_check=True)
    types, nodes = element_types(result.model), result.model.graph.node
    assert opset_of(result.model) == {"fp16": 19, "bf16": 22}[half.name]
    assert opset_of(source) == 17
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            assert [types[name] for name in (*node.input, *node.output)] == [half.onnx, half.onnx, INT8, INT8]
        elif node.op_type == "DequantizeLinear":
            assert [types[name] for name in (*node.input, *node.output)] == [INT8, half.onnx, INT8, half.onnx]
        elif node.op_type == "Conv":
            made = {output: maker.op_type for maker in nodes for output in maker.output}
            # Nothing stands between a pair and the convolution that it is fused into.
            assert [made.get(name) for name in node.input] == ["DequantizeLinear", "DequantizeLinear", None]
    assert result.casts == 2
    assert not result.kept
    before, after = values_of(source), values_of(result.model)
    assert all(np.array_equal(after[name], before[name]) for name in before if before[name].dtype == np.int8)
    assert after[f"ws0.{half.name}"].shape == (16,)
    assert [value.type.tensor_type.elem_type for value in (*result.model.graph.input, *result.model.graph.output)] == [
        FLOAT,
        FLOAT,
    ]


def test_it_computes_what_the_int8_graph_computes():
    source = toy("int8")
    images = structured_images(2, 64, 96) / 100
    expected = maps_of(source, images)
    cast = to_16bit(source, FP16, everything).model
    # A value near the middle of two steps may fall to the other side; few do.
    for found in (maps_of(cast, images), maps_of(emulated(cast, FP16, peaks=False), images)):
        assert 0 < np.abs(found - expected).mean() < 0.01 * np.abs(expected).mean()
        assert np.abs(found - expected).max() < 0.06 * np.abs(expected).max()
    coarse = maps_of(emulated(to_16bit(source, BF16, everything).model, BF16, peaks=False), images)
    assert np.abs(coarse - expected).mean() < 0.04 * np.abs(expected).mean()


def test_pairs_of_a_float32_island_stay_float32():
    result = to_16bit(toy("int8"), FP16, lambda node: not node.name.startswith("/body/1/"))
    types = element_types(result.model)
    floats = {
        node.name: types[node.output[0] if node.op_type == "DequantizeLinear" else node.input[0]]
        for node in result.model.graph.node
        if node.op_type in PAIR
    }
    assert {name: kind for name, kind in floats.items() if name.startswith("/body/1/")} == dict.fromkeys(
        ("/body/1/q", "/body/1/dq", "/body/1/dw"), FLOAT
    )
    assert {kind for name, kind in floats.items() if not name.startswith("/body/1/")} == {HALF}
    images = structured_images(1, 64, 64) / 100
    expected = maps_of(toy("int8"), images)
    assert np.abs(maps_of(result.model, images) - expected).max() < 0.06 * np.abs(expected).max()


def with_weight(model, name, value):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return model


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("s1", np.float32(1e-6), "loses precision below"),
        ("s1", np.float32(1e5), "fp16 ends at 65504"),
        ("s1", np.float32(np.inf), "is not finite"),
        ("ws1", np.full(16, 1e-6, np.float32), "loses precision below"),
    ],
)
def test_a_scale_that_no_half_holds_keeps_its_convolution_in_float32(name, value, why):
    result = to_16bit(with_weight(toy("int8"), name, value), FP16, everything)
    assert set(result.kept) == {"/body/1/Conv"}
    assert result.kept["/body/1/Conv"].startswith(f"{name} ")
    assert why in result.kept["/body/1/Conv"]
    types = element_types(result.model)
    assert {types[f"/body/1/{pair}_out"] for pair in ("dq", "dw")} == {FLOAT}
    assert {types[f"/body/0/{pair}_out"] for pair in ("dq", "dw")} == {HALF}


def test_a_channel_of_next_to_nothing_gets_the_smallest_scale():
    scales = np.full(16, 0.01, np.float32)
    scales[3], scales[5] = 1e-12, 4e-8
    source = with_weight(toy("int8"), "ws0", scales)
    result = to_16bit(source, FP16, everything)
    held = values_of(result.model)["ws0.fp16"]
    assert (held > 0).all()
    before, after = values_of(source)["w0"].astype(np.float64), values_of(result.model)["w0"]
    assert not after[3].any()
    assert np.abs(after[5] * np.float64(held[5]) - before[5] * scales[5]).max() <= np.float64(held[5]) / 2
    others = [channel for channel in range(16) if channel not in {3, 5}]
    assert np.array_equal(after[others], before[others])
    images = structured_images(1, 64, 64) / 100
    expected = maps_of(source, images)
    assert np.abs(maps_of(result.model, images) - expected).max() < 0.06 * np.abs(expected).max()


@settings(max_examples=60, deadline=None)
@given(
    integers=arrays(np.int8, (4, 3), elements=st.integers(-127, 127)),
    exponents=arrays(np.float64, (4,), elements=st.floats(-40, 4)),
    name=st.sampled_from(["fp16", "bf16"]),
)
def test_weights_move_by_less_than_their_step(integers, exponents, name):
    half, scales = CAST_TYPES[name], np.exp2(exponents).astype(np.float32)
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], name="/d", axis=0)
    weights = [numpy_helper.from_array(value, key) for key, value in {"w": integers, "s": scales}.items()]
    graph = helper.make_graph([node], "g", [], [], weights)
    changed = hold_scales(graph, half, {"/d"})
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert np.array_equal(after["s"], after["s"].astype(half.numpy).astype(np.float32))
    assert (after["s"] > 0).all()
    assert changed == np.count_nonzero(after["w"] != integers)
    normal = scales >= half.smallest_normal
    assert np.array_equal(after["w"][normal], integers[normal])
    old = integers * scales[:, None].astype(np.float64)
    moved = np.abs(after["w"] * after["s"][:, None].astype(np.float64) - old)
    # Half a step where a number was rounded anew; else what rounding the scale costs.
    allowed = np.maximum(0.51 * after["s"][:, None], 2.0**-7 * np.abs(old))
    assert (moved <= allowed + 1e-30).all()


@pytest.mark.parametrize("half", [FP16, BF16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_weight_that_changed_is_named(precision, half):
    source = toy(precision)
    cast = to_16bit(source, half, everything).model
    assert changed_weights(source, cast, half) == []
    kind = {"fp32": "w1", "int8": "ws1"}[precision]
    for tensor in cast.graph.initializer:
        if tensor.name == f"{kind}.{half.name}":
            value = numpy_helper.to_array(tensor).astype(np.float32)
            value.flat[3] *= 1 + 4 * half.epsilon
            tensor.CopyFrom(numpy_helper.from_array(value.astype(half.numpy), tensor.name))
    assert changed_weights(source, cast, half) == [f"{kind} is not what it was, rounded to {half.name}"]


def test_what_is_named_is_what_is_read():
    graph = toy("int8").graph
    assert half_pairs(graph, set()) == frozenset()
    assert half_pairs(graph, {"/body/2/Conv"}) == {"/body/2/q", "/body/2/dq", "/body/2/dw"}
    assert hold_scales(graph, FP16, frozenset()) == 0
    assert is_quantized(toy("int8"))
    assert not is_quantized(toy("fp32"))


def test_a_quantised_graph_that_says_otherwise_is_refused(tmp_path):
    for is_of, said, words in (
        ("int8", "fp32", "It has Q/DQ pairs, and says that it is fp32"),
        ("fp32", "int8", "It has no Q/DQ pairs, and says that it is int8"),
        ("int8", "int8+fp16", r"It is int8\+fp16 already"),
    ):
        source = describe(toy(is_of), tmp_path / "toy.onnx", said)
        with pytest.raises(ArtifactError, match=words):
            cast_onnx(source, tmp_path / "out.onnx", "fp16")
        assert not (tmp_path / "out.onnx").exists()


@pytest.fixture(scope="session")
def int8_file(exported, tmp_path_factory):
    """The small network quantised with made-up ranges that hold what it computes; each mode's file is made once."""
    made = {}

    def make(mode):
        if mode not in made:
            source = open_source(exported(ExportOptions(decode=mode, imgsz=(128, 128))).path, Target.TENSORRT)
            about = Source(
                source.sha256, {"name": "made up"}, (128, 128), "center", Method.MINMAX, source.placement.target
            )
            ranges = dict.fromkeys(source.placement.edges, Range(-16, 16)) | {"input": Range(-255, 255)}
            output = tmp_path_factory.mktemp(f"int8_{mode}") / f"{mode}.int8.onnx"
            quantize_onnx(source, Calibration(about, 1, (), ranges), output)
            made[mode] = output
        return made[mode]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fixed", "raw"])
def test_a_whole_network(int8_file, tmp_path, mode):
    source = int8_file(mode)
    result = cast_onnx(source, tmp_path / "out.onnx", "fp16", verify=False)
    before, after = onnx.load(source), onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert not result.kept
    types = element_types(after)
    made = {output: node for node in after.graph.node for output in node.output}
    eight = 0
    for node in after.graph.node:
        if node.op_type in PAIR:
            assert types[node.output[0] if node.op_type == "DequantizeLinear" else node.input[0]] == HALF, node.name
        elif node.op_type == "Conv":
            assert types[node.output[0]] == (FLOAT if fp32_block_of(node) else HALF), node.name
            eight += made[node.input[0]].op_type == made.get(node.input[1], node).op_type == "DequantizeLinear"
    assert eight == sum(node.name.endswith("/weight/DequantizeLinear") for node in before.graph.node) > 60
    pairs = [[node.name for node in model.graph.node if node.op_type in PAIR] for model in (before, after)]
    assert pairs[0] == pairs[1]
    one, two = values_of(before), values_of(after)
    assert all(np.array_equal(two[name], one[name]) for name in one if one[name].dtype == np.int8)
    # What was float32 beside the 8-bit weights is about half as large.
    assert 0.6 < result.size / result.source_size < 0.95


@pytest.fixture(scope="session")
def verified(int8_file, tmp_path_factory):
    return cast_onnx(int8_file("fixed"), tmp_path_factory.mktemp("v") / "half.onnx", "fp16")


@pytest.mark.slow
def test_it_is_compared_with_the_int8_model_and_says_what_it_is(verified, int8_file):
    source = read_artifact(int8_file("fixed"))
    artifact = read_artifact(verified.artifact.path)
    assert (source.precision, artifact.precision) == ("int8", "int8+fp16")
    assert artifact.decode.mode is DecodeMode.FIXED
    assert artifact.parents[-1].name == int8_file("fixed").name
    assert artifact.parents[-1].sha256 == sha256_of(int8_file("fixed"))
    assert set(artifact.verified) == {"precision", "quantization"}
    assert artifact.verified["quantization"] == source.verified["quantization"]
    report = verified.verification
    assert report.failures() == []
    assert report.not_run is None
    assert report.reference.startswith("the int8 graph in ONNX Runtime")
    assert sum(case.people.people_a for case in report.cases) > 10
    json.dumps(artifact.verified, allow_nan=False)


@pytest.mark.slow
def test_the_file_passes_validation(verified):
    # ONNX Runtime's own fusions of its pairs would make a graph that ONNX Runtime does not take.
    report = validate_onnx(verified.artifact.path)
    assert report.ok, report.checks[-1]
    assert len(report.checks) > 4


@pytest.mark.slow
def test_a_broken_scale_is_noticed(int8_file, tmp_path, monkeypatch):
    from rtmo_deploy.convert.precision import graph
    from rtmo_deploy.errors import ParityError

    def broken(work, half, names):
        for tensor in work.initializer:
            if tensor.name.startswith("backbone.") and tensor.name.endswith("_scale"):
                value = numpy_helper.to_array(tensor) * np.float32(3)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    monkeypatch.setattr(graph, "hold_scales", broken)
    # The weights themselves tell: how far the keypoints move on made-up weights depends on the CPU.
    words = r"does not find what it finds in int8: backbone\.\S+_scale is not what it was, rounded to fp16"
    with pytest.raises(ParityError, match=words):
        cast_onnx(int8_file("fixed"), tmp_path / "x.onnx", "fp16")
    assert not (tmp_path / "x.onnx").exists()
