"""Profiles, options and refusals: everything that is settled before TensorRT is asked."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from toy_networks import describe, toy, write_toy

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.convert.trt import BuildOptions
from rtmo_deploy.convert.trt.options import make_profiles
from rtmo_deploy.convert.trt.plan import check_graph, default_output, plan_build, plan_chain
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime.engine_file import Profile, Shape
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, VOLTA
from rtmo_deploy.zoo import COCO_17

RTX, CLASSIC = TRT_VARIANTS["tensorrt-rtx"], TRT_VARIANTS["tensorrt"]


def profile(*texts):
    return Profile(*(Shape.parse(text) for text in texts))


def shapes(*texts):
    return tuple(Shape.parse(text) for text in texts)


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (InputContract(192, 192), profile("1x192x192", "1x192x192", "8x1280x1280")),
        (InputContract(640, 640), profile("1x320x320", "1x640x640", "8x1280x1280")),
        (InputContract(416, 256), profile("1x320x256", "1x416x256", "8x1280x1280")),
        (InputContract(1536, 640), profile("1x320x320", "1x1536x640", "8x1536x1280")),
        (InputContract(640, 640, batch=4), profile("4x320x320", "4x640x640", "4x1280x1280")),
        (InputContract(640, 480, dynamic_hw=False), profile("1x640x480", "1x640x480", "8x640x480")),
        (InputContract(640, 480, batch=2, dynamic_hw=False), profile(*["2x640x480"] * 3)),
    ],
    ids=str,
)
def test_the_default_profile_bends_to_the_model(contract, expected):
    assert make_profiles(BuildOptions(), contract) == (expected,)


@pytest.mark.parametrize(
    ("given_shapes", "expected"),
    [
        ({"max": ("16x640x640",)}, [("1x192x192", "1x192x192", "16x640x640")]),
        ({"max": ("2x160x160",)}, [("1x160x160", "1x160x160", "2x160x160")]),
        ({"min": ("2x640x640",)}, [("2x640x640", "2x640x640", "8x1280x1280")]),
        ({"opt": ("4x1408x1408",)}, [("1x192x192", "4x1408x1408", "8x1408x1408")]),
        ({"min": ("1x64x64",), "opt": ("1x64x64",), "max": ("1x64x64",)}, [("1x64x64",) * 3]),
        (
            {"opt": ("1x320x320", "8x640x640"), "max": ("1x320x320", "8x640x640")},
            [("1x192x192", "1x320x320", "1x320x320"), ("1x192x192", "8x640x640", "8x640x640")],
        ),
    ],
    ids=str,
)
def test_what_is_given_stands_and_the_rest_bends(given_shapes, expected):
    options = BuildOptions(**{name: shapes(*texts) for name, texts in given_shapes.items()})
    assert make_profiles(options, InputContract(192, 192)) == tuple(profile(*texts) for texts in expected)


def test_a_size_may_be_a_plain_tuple():
    assert make_profiles(BuildOptions(opt=((4, 1408, 1408),)), InputContract(192, 192)) == (
        profile("1x192x192", "4x1408x1408", "8x1408x1408"),
    )


side = st.integers(1, 50).map(lambda n: 32 * n)
shape = st.builds(Shape, st.integers(1, 64), side, side)


@given(side, side, st.lists(shape, max_size=1), st.lists(shape, max_size=1), st.lists(shape, max_size=1))
def test_a_profile_is_always_in_order_or_refused(height, width, least, usual, most):
    options = BuildOptions(min=tuple(least), opt=tuple(usual), max=tuple(most))
    given_shapes = [*least, *usual, *most]
    if any(a > b for one, two in pairwise(given_shapes) for a, b in zip(one, two, strict=True)):
        with pytest.raises(UsageError, match="is larger than"):
            make_profiles(options, InputContract(height, width))
        return
    (made,) = make_profiles(options, InputContract(height, width))
    assert made.takes(made.opt)
    assert made.takes(made.min)
    for given_shape, kept in ((least, made.min), (usual, made.opt), (most, made.max)):
        assert given_shape in ([], [kept])


@pytest.mark.parametrize(
    ("given_shapes", "contract", "said"),
    [
        ({"min": ("1x100x96",)}, InputContract(192, 192), "--min 1x100x96 is not possible"),
        ({"max": ("0x96x96",)}, InputContract(192, 192), "--max 0x96x96 is not possible"),
        ({"opt": ("1x0x96",)}, InputContract(192, 192), "--opt 1x0x96 is not possible"),
        ({"min": ("1x640x640",), "opt": ("1x320x320",)}, InputContract(192, 192), "--min 1x640x640 is larger"),
        ({"opt": ("9x96x96",), "max": ("8x96x96",)}, InputContract(192, 192), "--opt 9x96x96 is larger than --max"),
        ({"max": ("8x640x640",)}, InputContract(640, 640, batch=2), "outside the model: its batch is 2 only"),
        ({"max": ("2x640x672",)}, InputContract(640, 640, dynamic_hw=False), "images of 640x640 only"),
        (
            {"opt": ("1x96x96", "2x96x96"), "max": ("8x96x96",)},
            InputContract(192, 192),
            "--max is given 1 times and another size 2 times",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_sizes_that_make_no_sense_are_refused_by_name(given_shapes, contract, said):
    options = BuildOptions(**{name: shapes(*texts) for name, texts in given_shapes.items()})
    with pytest.raises(UsageError) as caught:
        make_profiles(options, contract)
    assert said in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["640x640", "1x2x3x4", "axbxc", "1x-32x32", "", "1x 32x32", "1x٣٢x32"])
def test_a_size_is_written_bxhxw(text):
    with pytest.raises(UsageError, match="is no size"):
        Shape.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "fp64"},
        {"targets": ("sm80",)},
        {"targets": ("8",)},
        {"opt_level": 6},
        {"opt_level": -1},
        {"workspace": 0},
        {"timeout": -1.0},
    ],
    ids=str,
)
def test_options_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        BuildOptions(**wrong)


@pytest.mark.parametrize("target", ["7.0", "9.0", "10.0"])
def test_what_rtx_cannot_build_for_is_refused_by_name(target):
    with pytest.raises(UsageError, match=f"tensorrt-rtx cannot build for compute capability {target}"):
        BuildOptions(targets=("8.0", target)).check(RTX)
    BuildOptions(targets=("8.0", "12.0")).check(RTX)


def test_volta_is_answered_in_one_sentence():
    with pytest.raises(UsageError) as caught:
        BuildOptions(targets=("7.0",)).check(RTX)
    assert VOLTA in str(caught.value)
    assert "10.4" in VOLTA
    assert "CUDA 12" in VOLTA


@pytest.mark.parametrize(
    ("options", "variant", "name"),
    [
        (BuildOptions(targets=("8.0",)), CLASSIC, "--compute-capability"),
        (BuildOptions(version_compatible=True), RTX, "--version-compatible"),
        (BuildOptions(hardware_compatible=True), RTX, "--hardware-compatible"),
    ],
)
def test_an_option_that_does_nothing_is_refused(options, variant, name):
    with pytest.raises(UsageError, match=f"{name} does not apply to {variant.name}"):
        options.check(variant)


def graph_of(*nodes, weights=()):
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 3, "h", "w"])
    target = helper.make_tensor_value_info("maps", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [source], [target], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def artifact_of(path, mode=DecodeMode.FIXED, precision="fp32"):
    contract = DecodeContract(mode)
    return Artifact(path, Kind.ONNX, "toy", COCO_17, InputContract(64, 64), contract, precision=precision)


def branch():
    inner = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"], name="/deep/NonZero")], "then", [], [])
    return helper.make_node("If", ["c"], ["maps"], name="/If", then_branch=inner, else_branch=inner)


@pytest.mark.parametrize(
    ("node", "weights", "said"),
    [
        (helper.make_node("NonMaxSuppression", ["a", "b"], ["maps"], name="/decode/nms"), (), "NonMaxSuppression"),
        (helper.make_node("NonZero", ["a"], ["maps"], name="/decode/nz"), (), "/decode/nz (NonZero)"),
        (branch(), (), "/deep/NonZero (NonZero)"),
        (helper.make_node("RTMODecode", ["a"], ["maps"], name="/p", domain="trt.plugins"), (), "/p (RTMODecode)"),
        (helper.make_node("EfficientNMS_TRT", ["a"], ["maps"], domain="mine"), (), "maps (EfficientNMS_TRT)"),
        (
            helper.make_node("TopK", ["a", "k"], ["maps", "i"], name="/decode/TopK"),
            (numpy_helper.from_array(np.array([3841]), "k"),),
            "the best 3841",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_operator_that_rtx_lacks_is_refused_before_it_sees_it(tmp_path, node, weights, said):
    path = tmp_path / "m.onnx"
    with pytest.raises(ArtifactError) as caught:
        check_graph(graph_of(node, weights=weights), artifact_of(path), RTX, targets=(), where=path)
    assert said in str(caught.value)
    assert "xport" in caught.value.remedy
    assert caught.value.exit_code == 4


def test_what_it_has_passes(tmp_path):
    weights = (numpy_helper.from_array(np.array([3840]), "k"),)
    node = helper.make_node("TopK", ["a", "k"], ["maps", "i"], name="/decode/TopK")
    path = tmp_path / "m.onnx"
    check_graph(graph_of(node, weights=weights), artifact_of(path), RTX, targets=(), where=path)


def test_rows_that_depend_on_the_picture_are_refused_by_both(tmp_path):
    path = tmp_path / "m.onnx"
    node = helper.make_node("NonMaxSuppression", ["a", "b"], ["maps"], name="/decode/nms")
    for variant in (RTX, CLASSIC):
        with pytest.raises(ArtifactError, match="decode fixed"):
            check_graph(graph_of(node), artifact_of(path, DecodeMode.ONNX), variant, targets=(), where=path)


def test_turing_has_no_fp32_products_and_no_bf16(tmp_path):
    path = tmp_path / "m.onnx"
    node = helper.make_node("MatMul", ["input", "input"], ["maps"], name="/neck/MatMul")
    with pytest.raises(ArtifactError, match=r"/neck/MatMul \(MatMul\)"):
        check_graph(graph_of(node), artifact_of(path), RTX, targets=("7.5",), where=path)
    check_graph(graph_of(node), artifact_of(path), RTX, targets=("8.0",), where=path)
    with pytest.raises(ArtifactError, match="It is of bf16"):
        check_graph(toy("bf16"), artifact_of(path, precision="bf16"), RTX, targets=("7.5",), where=path)
    check_graph(toy("fp16"), artifact_of(path, precision="fp16"), RTX, targets=("7.5",), where=path)


@pytest.mark.parametrize(
    ("is_of", "asked", "said"),
    [
        ("fp32", "fp16", "rtmo-deploy cast MODEL.onnx --fp16"),
        ("fp32", "int8", "rtmo-deploy quantize"),
        ("fp16", "int8", "rtmo-deploy quantize"),
        ("fp16", "fp32", "cannot be undone"),
        ("fp16", "bf16", "cannot be undone"),
    ],
)
def test_a_model_of_another_precision_is_refused(tmp_path, is_of, asked, said):
    path = write_toy(tmp_path / "m.onnx", "fp32", said=is_of)
    with pytest.raises(ArtifactError) as caught:
        plan_build(path, None, BuildOptions(backend="tensorrt-rtx", precision=asked))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "precision", "variant", "expected"),
    [
        ("rtmo-s.onnx", "fp16", RTX, "rtmo-s.fp16.tensorrt-rtx.engine"),
        ("rtmo-s.fp16.onnx", "fp16", CLASSIC, "rtmo-s.fp16.tensorrt.engine"),
        ("my.model.onnx", "fp32", RTX, "my.model.fp32.tensorrt-rtx.engine"),
        ("rtmo-s.int8.fp16.onnx", "int8+fp16", RTX, "rtmo-s.int8+fp16.tensorrt-rtx.engine"),
    ],
)
def test_an_engine_is_named_after_what_it_is(tmp_path, name, precision, variant, expected):
    assert default_output(tmp_path / name, precision, variant) == tmp_path / expected


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x08"])
def test_what_is_no_onnx_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        plan_build(path, None, BuildOptions(backend="tensorrt-rtx"))


def test_a_truncated_model_is_refused(tmp_path):
    path = write_toy(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ArtifactError, match="cut short"):
        plan_build(path, None, BuildOptions(backend="tensorrt-rtx"))


def test_other_files_and_names_are_refused(tmp_path):
    other = tmp_path / "m.pth"
    other.write_bytes(b"x")
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        plan_build(other, None, BuildOptions(backend="tensorrt-rtx"))
    path = write_toy(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"suffix \.engine"):
        plan_build(path, tmp_path / "m.onnx", BuildOptions(backend="tensorrt-rtx"))
    with pytest.raises(UsageError, match="backend is 'trt'"):
        plan_build(path, None, BuildOptions(backend="trt"))


def test_the_graph_decides_where_metadata_contradict_it(tmp_path):
    path = describe(toy("fp32", batch=2, side=96), tmp_path / "m.onnx", "fp32", batch=1)
    made = plan_build(path, None, BuildOptions(backend="tensorrt-rtx"))
    assert made.profiles == (profile(*["2x96x96"] * 3),)
    assert not made.artifact.input.dynamic_hw


def test_a_timing_cache_on_rtx_is_said_to_do_nothing(tmp_path):
    path = write_toy(tmp_path / "m.onnx")
    made = plan_build(path, None, BuildOptions(backend="tensorrt-rtx", timing_cache=tmp_path / "t.cache"))
    assert made.notes == ("tensorrt-rtx has no timing cache: t.cache is neither read nor written.",)


@pytest.mark.parametrize(("asked", "said"), [("fp16", "cannot be cast"), ("int8", "cannot be quantised")])
def test_a_model_with_the_plugin_is_judged_before_it_gets_it(tmp_path, asked, said):
    path = write_toy(tmp_path / "m.onnx")
    options = BuildOptions(backend="tensorrt-rtx", precision=asked)
    with pytest.raises(ArtifactError, match=said) as caught:
        plan_chain(path, artifact_of(path, DecodeMode.PLUGIN), None, options)
    assert "--decode plugin puts the plugin in afterwards" in caught.value.remedy


def test_another_decode_than_the_models_is_refused(tmp_path):
    path = write_toy(tmp_path / "m.onnx")
    options = BuildOptions(backend="tensorrt-rtx")
    with pytest.raises(UsageError, match=r"--decode raw was asked for, and .* was exported with --decode fixed"):
        plan_chain(path, artifact_of(path), None, options, decode=DecodeMode.RAW)
    with pytest.raises(UsageError, match="takes no plugins"):
        plan_chain(path, artifact_of(path), None, options, decode=DecodeMode.PLUGIN)
