"""``rtmo-deploy cast``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import onnx
import pytest
from typer.testing import CliRunner

from rtmo_deploy.artifact import Artifact
from rtmo_deploy.cli.app import app

#: The bounds of a cast on distances and scores.
LIMITS = ("keypoint_mean_px", "keypoint_max_px", "box_px", "score", "keypoint_score", "keypoint_score_mean")


def run(*arguments):
    return CliRunner().invoke(app, ["cast", *(str(argument) for argument in arguments)])


def no_constants(name):
    raise AssertionError(f"{name} is no JSON")


def document_of(result):
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=no_constants)
    assert document["schema_version"] == 1
    assert document["command"] == "cast"
    return document


@pytest.fixture
def model(onnx_n, tmp_path):
    """A model of its own in a folder of its own."""
    path = tmp_path / "my.model.onnx"
    path.write_bytes(onnx_n.read_bytes())
    return path


def test_the_json_document(model):
    result = run(model, "--fp16", "--json")
    document = document_of(result)
    keys = ["path", "source", "precision", "half_nodes", "casts", "fp32_nodes", "kept", "size", "source_size"]
    assert list(document) == ["schema_version", "command", *keys, "seconds", "artifact"]
    target = model.with_name("my.model.fp16.onnx")
    assert document["path"] == str(target)
    assert document["size"] == target.stat().st_size < 0.65 * document["source_size"]
    assert document["fp32_nodes"]["decode"] > 10
    written = onnx.load(target)
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert document["artifact"] == json.loads(json.dumps(Artifact.from_metadata(target, properties).to_dict()))
    assert document["artifact"]["precision"] == document["precision"] == "fp16"
    assert document["artifact"]["verified"]["precision"]["ok"] is True
    lines = result.stderr.splitlines()
    assert lines[-1] == "writing ..."
    assert all(line.endswith(" ...") for line in lines)


def test_the_table(model, tmp_path, monkeypatch):
    from rtmo_deploy.measure.bounds import CASTS

    # Under made-up weights bfloat16 is far off; this is about what is printed.
    monkeypatch.setitem(CASTS, "bf16", replace(CASTS["bf16"], **dict.fromkeys(LIMITS, 1e9), unmatched=1))
    target = tmp_path / "new" / "b.onnx"
    result = run(model, "--bf16", "-o", target)
    assert result.exit_code == 0, result.output
    facts = {line.split("  ")[0]: line.split("  ", 1)[-1].strip() for line in result.stdout.splitlines()}
    assert facts["file"].startswith(f"{target} (")
    assert facts["precision"].startswith("bf16: ")
    assert facts["verified"].startswith("passed, emulated only: the file itself was not run here: ONNX Runtime")
    assert "rounding emulated" in result.stdout
    assert "as it is" not in result.stdout
    assert [path.name for path in target.parent.iterdir()] == ["b.onnx"]


def test_unverified_if_asked(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run(model, "--fp16", "--no-verify")
    assert result.exit_code == 0, result.output
    assert "not verified (--no-verify)" in result.stdout


def test_without_onnx_runtime(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run(model, "--fp16")
    assert result.exit_code == 5
    assert "pip install 'rtmo-deploy[cpu]'" in result.stderr
    assert [path.name for path in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Neither --fp16 nor --bf16 was given"),
        (("--fp16", "--bf16"), "Both --fp16 and --bf16 were given"),
        (("--fp16", "-o", "x.txt"), "Give it the suffix .onnx"),
        (("--int8",), "No such option"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_read(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rtmo_deploy.convert.precision", None)  # reading it would fail
    result = run("nowhere.onnx", *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file(tmp_path):
    result = run(tmp_path / "nowhere.onnx", "--fp16")
    assert result.exit_code == 4
    assert f"{tmp_path / 'nowhere.onnx'}: There is no such file." in result.stderr


def test_onto_itself(model):
    before = model.read_bytes()
    result = run(model, "--fp16", "-o", model)
    assert result.exit_code == 2
    assert "one of the inputs" in " ".join(result.stderr.split())
    assert model.read_bytes() == before


def test_twice(model):
    assert run(model, "--fp16", "--no-verify").exit_code == 0
    again = run(model.with_name("my.model.fp16.onnx"), "--fp16")
    assert again.exit_code == 4
    assert "It is fp16 already" in again.stderr
    target = model.with_name("my.model.fp16.onnx")
    target.write_bytes(b"somebody's")
    again = run(model, "--fp16", "--no-verify")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert target.read_bytes() == b"somebody's"
    assert run(model, "--fp16", "--no-verify", "--force").exit_code == 0
    assert target.read_bytes() != b"somebody's"


def test_no_half_file_is_left_where_it_fails(model, monkeypatch):
    from rtmo_deploy.measure.bounds import CASTS

    target = model.with_name("out.onnx")
    target.write_bytes(b"what stood there before")
    monkeypatch.setitem(CASTS, "fp16", replace(CASTS["fp16"], **dict.fromkeys(LIMITS, 0.0), unmatched=0))
    monkeypatch.setattr("rtmo_deploy.measure.bounds.AMPLIFICATION", 0.0)
    result = run(model, "--fp16", "-o", target, "--force")
    assert result.exit_code == 6
    assert "Nothing was written" in " ".join(result.stderr.split())
    assert target.read_bytes() == b"what stood there before"
    assert sorted(path.name for path in model.parent.iterdir()) == [model.name, "out.onnx"]


def test_a_folder_that_cannot_be_written_to(model, tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    result = run(model, "--fp16", "--no-verify", "-o", tmp_path / "file" / "x.onnx")
    assert result.exit_code == 5
    assert "could not be written" in " ".join(result.stderr.split())
