"""``rtmo-deploy validate``."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, ["validate", *(str(argument) for argument in arguments)])


def no_constants(name):
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def broken(onnx_n, tmp_path):
    """A model whose outputs are not finite."""
    model = onnx.load(onnx_n)
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == first_bias(model)]
    value = np.full(onnx.numpy_helper.to_array(bias).shape, np.nan, np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(value, bias.name))
    model.graph.output.append(onnx.helper.make_tensor_value_info(stem(model).output[0], onnx.TensorProto.FLOAT, None))
    model.graph.output[-1].CopyFrom(next(info for info in model.graph.value_info if info.name == stem(model).output[0]))
    onnx.save(model, tmp_path / "broken.onnx")
    return tmp_path / "broken.onnx"


def stem(model):
    return next(node for node in model.graph.node if node.op_type == "Conv")


def first_bias(model):
    return stem(model).input[2]


def test_a_sound_model(onnx_n):
    result = run(onnx_n)
    assert result.exit_code == 0, result.output
    cells = [re.split(r"  +", line.strip()) for line in result.stdout.split("─\n")[1].splitlines()]
    rows = [row for row in cells if len(row) > 2]
    assert [row[1] for row in rows] == ["ok"] * 8
    assert cells[-1] == ["passed: 8 checks"]
    assert str(onnx_n) in result.stdout
    assert result.stderr == "validating ...\n"


def test_the_json_document(onnx_n):
    result = run(onnx_n, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=no_constants)
    assert set(document) == {"schema_version", "command", "path", "ok", "checks"}
    assert (document["schema_version"], document["command"], document["path"]) == (1, "validate", str(onnx_n))
    assert document["ok"] is True
    assert all(set(check) == {"name", "ok", "detail"} and check["ok"] for check in document["checks"])


def test_a_broken_model(broken):
    result = run(broken)
    assert result.exit_code == 4
    assert "failed" in result.stdout
    *_, error = result.stderr.splitlines()
    assert error.startswith(f"Error: {broken}: It does not pass run 1x3x160x160: not finite")
    result = run(broken, "--json")
    assert result.exit_code == 4
    document = json.loads(result.stdout, parse_constant=no_constants)
    assert document["ok"] is False
    assert [check["ok"] for check in document["checks"]] == [True, True, True, True, False]


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 50])
def test_no_model_at_all(tmp_path, content):
    if content is not None:
        (tmp_path / "x.onnx").write_bytes(content)
    result = run(tmp_path / "x.onnx", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["where"] == str(tmp_path / "x.onnx")
    assert f"Error: {tmp_path / 'x.onnx'}: " in result.stderr


def test_a_model_of_somebody_else(shared, tmp_path):
    import lzma

    (tmp_path / "peer.onnx").write_bytes(lzma.decompress((shared / "peers" / "mmdeploy-rtmo-t.onnx.xz").read_bytes()))
    result = run(tmp_path / "peer.onnx")
    assert result.exit_code == 0, result.output
    assert "run 2x3x416x416" in result.stdout


def test_without_onnx_runtime(onnx_n, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run(onnx_n)
    assert result.exit_code == 5
    assert "pip install 'rtmo-deploy[cpu]'" in result.stderr
