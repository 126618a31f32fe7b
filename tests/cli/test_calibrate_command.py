"""``rtmo-deploy calibrate`` as a user meets it."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.convert.quantize.record import Calibration

pytest.importorskip("onnxruntime")


def run(*arguments):
    return CliRunner().invoke(app, ["calibrate", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("cal") / "shots"
    folder.mkdir()
    (folder / "a.png").write_bytes(pictures[0].read_bytes())
    (folder / "b.png").write_bytes(pictures[3].read_bytes())
    (folder / "broken.jpg").write_bytes(b"")
    return folder


def test_a_folder_with_a_broken_picture(onnx_n, folder, tmp_path):
    target = tmp_path / "c.json"
    result = run(onnx_n, "--images", folder, "--method", "minmax", "-o", target, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["schema_version"], document["command"]) == (1, "calibrate")
    assert (document["used"], document["method"], document["path"]) == (2, "minmax", str(target))
    assert [entry["name"] for entry in document["skipped"]] == ["broken.jpg"]
    assert document["pictures"]["source"] == "folder"
    assert document["target"] == "openvino"
    assert document["tensors"] == 79
    assert "Skipped: broken.jpg: " in result.stderr
    made = Calibration.load(target)
    assert made.source.model_sha256 == document["model_sha256"]
    assert made.used == 2


def test_a_named_set_beside_the_model(onnx_n, tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(onnx_n.read_bytes())
    result = run(model, "--set", "synthetic", "--count", 1, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.synthetic-mse.calibration.json"}
    assert "1 of 'synthetic' used, 0 skipped" in result.stdout
    assert "reading the model" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no images to measure on"),
        (("--images", "x", "--ann", "a.json"), "--ann belongs to a named set"),
        (("--set", "synthetic", "-o", "x.onnx"), "suffix .json"),
        (("--set", "synthetic", "--count", "0"), "--count"),
        (("--set", "synthetic", "--method", "guess"), "guess"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_read(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rtmo_deploy.convert.quantize", None)
    result = run("nowhere.onnx", *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_model_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    result = run(path, "--set", "synthetic")
    assert result.exit_code == 4
    assert str(path) in result.stderr
    assert result.stdout == ""


def test_folders_without_a_usable_picture(onnx_n, tmp_path):
    assert run(onnx_n, "--images", tmp_path).exit_code == 3
    assert run(onnx_n, "--images", tmp_path / "nowhere").exit_code == 3
    (tmp_path / "x.jpg").write_bytes(b"")
    result = run(onnx_n, "--images", tmp_path, "-o", tmp_path / "c.json")
    assert result.exit_code == 3
    assert "None of the 1 images" in result.stderr
    assert "x.jpg" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.jpg"]


def test_a_set_that_does_not_exist_or_needs_files(onnx_n):
    for name, words in (("coco", "no calibration set"), ("coco-train2017", "person_keypoints_train2017.json")):
        result = run(onnx_n, "--set", name)
        assert result.exit_code == 2
        assert words in result.stderr
