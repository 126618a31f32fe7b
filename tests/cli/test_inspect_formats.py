"""``rtmo-deploy inspect`` on engines and OpenVINO models: without TensorRT, OpenVINO or a GPU."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
from model_files import PLAN, write_engine, write_openvino
from typer.testing import CliRunner

from rtmo_deploy.artifact import DecodeContract, DecodeMode, Parent
from rtmo_deploy.cli.app import app
from rtmo_deploy.runtime.engine_file import sidecar_path
from rtmo_deploy.runtime.openvino_file import read_ir
from rtmo_deploy.runtime.plugins.kernel import kernel_record

#: What ``inspect`` must do without.
PACKAGES = ("tensorrt", "tensorrt_rtx", "cuda", "cuda.bindings", "openvino", "onnxruntime")


@pytest.fixture
def without_packages(monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *(str(argument) for argument in arguments)])


def document_of(path):
    result = run(path, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert (document["schema_version"], document["command"], document["path"]) == (1, "inspect", str(path))
    return document


def facts_of(path):
    result = run(path)
    assert result.exit_code == 0, result.output
    return {line.split("  ")[0]: line.split("  ", 1)[-1].strip() for line in result.stdout.splitlines()}


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize("name", ["m.engine", "M.PLAN"])
def test_an_engine(tmp_path, name):
    path = tmp_path / name
    write_engine(path)
    document = document_of(path)
    expected = {
        "kind": "engine",
        "sha256": hashlib.sha256(PLAN).hexdigest(),
        "size": len(PLAN),
        "record": f"{name}.json",
        "differs": [],
        "architecture": "rtmo-n",
        "input_hw": [192, 192],
        "backend": {"name": "tensorrt-rtx", "version": "1.7.1.116"},
        "gpu": {"name": "none: built ahead of time", "compute_capability": None, "targets": ["8.6", "12.0"]},
        "profiles": [{"min": "1x192x192", "opt": "1x192x192", "max": "8x1280x1280"}],
        "inputs": ["input float32 [-1, 3, -1, -1]"],
        "outputs": ["dets float32 [-1, 100, 5]", "keypoints float32 [-1, 100, 17, 3]"],
        "precision": "fp16",
        "layers": {"correlation": {"fp16": 70, "fp32": 8}},
        "plugin": None,
        "onnx_sha256": "0" * 64,
        "build_seconds": 1.5,
        "notes": ["a note"],
        "batch": None,
        "dynamic_hw": True,
        "companion": None,
    }
    assert {key: document[key] for key in expected} == expected
    assert document["audit"]["asked"] == "fp16"
    assert document["audit"]["engine"]["convolutions"] == {"fp16": 70, "fp32": 8}
    facts = facts_of(path)
    assert facts["differs"] == "nothing"
    assert facts["profiles"] == "min 1x192x192, opt 1x192x192, max 8x1280x1280"
    assert facts["gpu"] == "name none: built ahead of time, targets 8.6; 12.0"
    assert facts["verified"] == "engine 70 of 78 convolutions in fp16"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PLAN + b"!", f"the engine has {len(PLAN) + 1} bytes, its record says {len(PLAN)}"),
        (b"x" * len(PLAN), "the engine's SHA-256 begins with"),
    ],
)
def test_an_engine_of_other_bytes_is_told(tmp_path, content, said):
    path = tmp_path / "m.engine"
    write_engine(path)
    path.write_bytes(content)
    (finding,) = document_of(path)["differs"]
    assert finding.startswith(said)
    assert facts_of(path)["differs"].startswith(said)


def test_a_plugin_and_its_kernel(tmp_path):
    path, decode = tmp_path / "m.engine", DecodeContract(DecodeMode.PLUGIN, max_dets=100)
    plugin = {"name": "RTMODecode", "version": "1", "namespace": "rtmo", "form": "python"}
    ours = {**plugin, "kernel_sha256": kernel_record().ptx_sha256}
    write_engine(path, plugin=ours, artifact={"decode": decode})
    assert (document_of(path)["plugin"], document_of(path)["differs"]) == (ours, [])
    other = {**plugin, "kernel_sha256": "f" * 64}
    write_engine(path, plugin=other, artifact={"decode": decode})
    (finding,) = document_of(path)["differs"]
    assert "built with the kernel ffffffffffff" in finding
    # A kernel that lies in the engine is not this release's business.
    write_engine(path, plugin={**other, "form": "aot"}, artifact={"decode": decode})
    assert document_of(path)["differs"] == []
    write_engine(path, artifact={"decode": decode})
    assert document_of(path)["differs"] == ["its decoding is plugin, and its record says that it has no plugin"]


def test_a_companion_that_is_not_there_or_another(tmp_path):
    path = tmp_path / "m.engine"
    companion = Parent("m.dcc.onnx", hashlib.sha256(b"dcc").hexdigest())
    write_engine(path, artifact={"companion": companion})
    assert "It needs m.dcc.onnx beside it, which cannot be read" in document_of(path)["differs"][0]
    (tmp_path / "m.dcc.onnx").write_bytes(b"other")
    assert "m.dcc.onnx beside it is not the file" in document_of(path)["differs"][0]
    (tmp_path / "m.dcc.onnx").write_bytes(b"dcc")
    assert document_of(path)["differs"] == []


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"schema_version": 99}'])
def test_an_engine_without_a_record_that_can_be_read(tmp_path, text):
    path = tmp_path / "m.engine"
    write_engine(path)
    if text is None:
        sidecar_path(path).unlink()
    else:
        sidecar_path(path).write_text(text)
    result = run(path, "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["exit_code"] == 4
    assert "m.engine" in result.stderr


def test_no_such_engine(tmp_path):
    result = run(tmp_path / "m.plan")
    assert result.exit_code == 4
    assert "There is no such file" in result.stderr


@pytest.fixture
def little(tmp_path):
    pytest.importorskip("openvino", reason="needs openvino to make a model")
    write_openvino(tmp_path / "little.xml")
    return tmp_path / "little.xml"


def test_an_openvino_model(little, monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    document = document_of(little)
    weights = little.with_suffix(".bin").read_bytes()
    expected = {
        "kind": "openvino",
        "architecture": "little",
        "input_hw": [64, 64],
        "weights": "little.bin",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "weights_size": len(weights),
        "differs": [],
        "inputs": ["input float32 [?, 3, ?, ?]"],
        "outputs": ["dets float32 [?, 2, 5]", "keypoints float32 [?, 2, 17, 3]"],
        "ir_version": 11,
        "precision": "fp32",
        "parents": [{"name": "little.onnx", "sha256": "1" * 64}],
        "companion": None,
    }
    assert {key: document[key] for key in expected} == expected
    assert document["layers"] > 5
    assert document["constants"]["float32"] == 4 * (2 * 5 + 2 * 17 * 3)
    assert facts_of(little)["differs"] == "nothing"


def test_an_openvino_model_with_other_weights(little):
    weights = little.with_suffix(".bin")
    content = weights.read_bytes()
    weights.write_bytes(bytes(len(content)))
    (finding,) = document_of(little)["differs"]
    assert "little.bin is not the file that it was written with" in finding
    weights.write_bytes(content[:-1])
    (finding,) = document_of(little)["differs"]
    assert "little.bin is cut short" in finding
    weights.unlink()
    document = document_of(little)
    assert "little.bin cannot be read" in document["differs"][0]
    assert (document["weights_sha256"], document["weights_size"]) == (None, None)


def test_an_openvino_model_that_says_what_it_is_not(tmp_path):
    pytest.importorskip("openvino", reason="needs openvino to make a model")
    path = tmp_path / "little.xml"
    write_openvino(path, decode=DecodeContract(DecodeMode.FIXED, max_dets=7))
    document = json.loads(run(path, "--json").stdout)
    assert document["differs"] == ["its graph puts out 2 rows, and its metadata says 7"]
    assert document["decode"]["max_dets"] == 2


def test_an_openvino_model_of_somebody_else(tmp_path):
    pytest.importorskip("openvino", reason="needs openvino to make a model")
    path = tmp_path / "foreign.xml"
    write_openvino(path, described=False)
    result = run(path)
    assert result.exit_code == 4
    assert "without this project's metadata" in result.stderr


XML = '<net name="n" version="11"><layers>{}</layers></net>'


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "<html></html>",
        "<net></net>",
        '<net version="many"></net>',
        XML.format(""),
        XML.format('<layer id="0" type="Const"><data element_type="f32" offset="0" size="x"/></layer>'),
        XML.format('<layer id="0" name="a" type="Parameter"><output><port id="0"/></output></layer>'),
        XML.format(
            '<layer id="0" name="a" type="Parameter"><output><port precision="F"><dim>a</dim></port></output></layer>'
        ),
        XML.format("<layer/>"),
        '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "b">]><net version="11"></net>',
        '<net name="n" version="11"><layers><layer',
    ],
)
def test_xml_that_is_no_model(tmp_path, text):
    path = tmp_path / "x.xml"
    if text is not None:
        path.write_text(text)
    result = run(path, "--json")
    assert result.exit_code == 4, result.output
    assert json.loads(result.stdout)["error"]["exit_code"] == 4
    assert result.stderr.startswith(f"Error: {path}: ")


def test_bodies_of_loops_are_not_the_graph(tmp_path):
    inner = '<layer id="0" name="inner" type="Parameter"><output><port id="0" precision="FP32"/></output></layer>'
    outer = (
        '<layer id="0" name="x" type="Parameter"><output><port id="0" precision="BOOL"><dim>-1</dim><dim>3</dim></port>'
        "</output></layer>"
        f'<layer id="1" name="l" type="Loop"><body><layers>{inner}</layers></body></layer>'
        '<layer id="2" name="y/sink_port_0" type="Result"><input><port id="0" precision="FP16"><dim>4</dim></port>'
        "</input></layer>"
    )
    path = tmp_path / "x.xml"
    path.write_text(XML.format(outer))
    ir = read_ir(path)
    assert ir.layers == {"Loop": 1, "Parameter": 1, "Result": 1}
    assert [str(spec) for spec in (*ir.inputs, *ir.outputs)] == ["x bool [?, 3]", "y float16 [4]"]
