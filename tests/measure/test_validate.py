"""Checks of a model alone: each must be able to fail."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.errors import ArtifactError, MissingDependencyError
from rtmo_deploy.measure import validate_model, validate_onnx
from rtmo_deploy.measure.validate import SHAPES

F32 = TensorProto.FLOAT


def model(nodes, *, side=("batch", 3, "h", "w"), outputs=(("y", F32, "bchw"),), weights=None, inputs=None, opset=17):
    inputs = inputs or [helper.make_tensor_value_info("x", F32, list(side))]
    made = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in outputs],
        initializer=[numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind, inputs, outputs=("y",), **attributes):
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def verdict(broken, tmp_path):
    """Name and finding of the check that failed; whatever comes after it was not tried."""
    report = validate_model(broken, tmp_path / "x.onnx")
    assert not report.ok
    *before, last = report.checks
    assert all(check.ok for check in before)
    assert not last.ok
    assert "\n" not in last.detail
    assert report.to_dict()["ok"] is False
    return last.name, last.detail


def test_a_sound_model_passes_every_check(onnx_n):
    report = validate_onnx(onnx_n)
    assert report.ok
    names = [check.name for check in report.checks]
    runs = [f"run {batch}x3x{height}x{width}" for batch, height, width in SHAPES]
    assert names == ["metadata", "onnx.checker", "shape inference", "ONNX Runtime session", *runs]
    assert all("finite" in check.detail for check in report.checks[4:])


def test_fixed_sides_are_kept(tmp_path):
    fixed = model([node("Relu", "x")], side=(2, 3, 64, "w"))
    report = validate_model(fixed, tmp_path / "x.onnx")
    assert report.ok
    assert [check.name for check in report.checks[3:]] == [
        "run 2x3x64x160",
        "run 2x3x64x192",
        "run 2x3x64x64",
        "run 2x3x64x32",
    ]


def test_a_broken_graph(tmp_path):
    name, detail = verdict(model([node("Relu", ["nowhere"])]), tmp_path)
    assert name == "onnx.checker"
    assert "nowhere" in detail
    assert verdict(model([node("NoSuchOperator", "x")]), tmp_path)[0] == "onnx.checker"
    twice = model([node("Relu", "x", ["y"]), node("Abs", "x", ["y"])])
    assert verdict(twice, tmp_path)[0] == "onnx.checker"


def test_shapes_that_contradict_each_other(tmp_path, monkeypatch):
    wrong = model([node("Relu", "x")], side=(1, 3, 32, 32), outputs=[("y", F32, [1, 3, 32, 33])])
    name, _ = verdict(wrong, tmp_path)
    assert name == "onnx.checker"  # the full check infers shapes as well, and finds this one first
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: None)
    name, detail = verdict(wrong, tmp_path)
    assert name == "shape inference"
    assert "33" in detail


def test_a_model_that_onnx_runtime_does_not_take(tmp_path):
    # Well formed, with an operator of a domain nobody knows.
    custom = model([node("Magic", "x", domain="acme")])
    custom.opset_import.append(helper.make_opsetid("acme", 1))
    name, detail = verdict(custom, tmp_path)
    assert name == "ONNX Runtime session"
    assert "Magic" in detail


def test_a_run_that_fails(tmp_path):
    # Takes 1x3x160x160, but no image of 96x192.
    broken = model([node("Reshape", ["x", "shape"])], weights={"shape": np.array([0, 3, 160, -1], np.int64)})
    name, detail = verdict(broken, tmp_path)
    assert name == "run 2x3x96x192"
    assert "does not run" in detail


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite(tmp_path, value):
    broken = model([node("Add", ["x", "c"])], weights={"c": np.array(value, np.float32)})
    assert verdict(broken, tmp_path) == ("run 1x3x160x160", "not finite: y")


def test_two_runs_that_differ(tmp_path):
    random = model([node("RandomNormalLike", "x")])
    assert verdict(random, tmp_path) == ("run 1x3x160x160", "two runs differ: y")


def test_inputs_that_are_no_picture(tmp_path):
    for inputs in (
        [helper.make_tensor_value_info("x", F32, [1, 3])],
        [helper.make_tensor_value_info("x", F32, [1, 4, 32, 32])],
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1, 3, 32, 32])],
        [helper.make_tensor_value_info(name, F32, [1, 3, 32, 32]) for name in ("x", "other")],
    ):
        kind = inputs[0].type.tensor_type.elem_type
        name, detail = verdict(
            model(
                [node("Abs", "x")],
                inputs=inputs,
                outputs=[("y", kind, "bchw"[: len(inputs[0].type.tensor_type.shape.dim)])],
            ),
            tmp_path,
        )
        assert name == "runs"
        assert "no single image tensor: x " in detail


def test_outputs_that_are_no_numbers(tmp_path):
    text = model([node("Cast", "x", to=TensorProto.STRING)], outputs=[("y", TensorProto.STRING, "bchw")])
    assert verdict(text, tmp_path) == ("run 1x3x160x160", "no tensors of numbers: y")
    listed = model([node("SequenceConstruct", ["x", "x"])])
    listed.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", F32, list("bchw")))
    assert verdict(listed, tmp_path) == ("run 1x3x160x160", "no tensors of numbers: y")


def test_whole_numbers_and_booleans_are_fine(tmp_path):
    counted = model(
        [node("Shape", "x", ["n"]), node("Greater", ["x", "x"], ["b"])],
        outputs=[("n", TensorProto.INT64, [4]), ("b", TensorProto.BOOL, "bchw")],
    )
    assert validate_model(counted, tmp_path / "x.onnx").ok


def test_no_onnx_and_no_onnx_runtime(tmp_path, onnx_n, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(b"hello")
    with pytest.raises(ArtifactError, match=r"x\.onnx"):
        validate_onnx(tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rtmo-deploy\[cpu\]'"):
        validate_onnx(onnx_n)
