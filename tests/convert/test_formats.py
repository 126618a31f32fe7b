"""The table of formats, and that a new format is an entry in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rtmo_deploy.artifact import Kind
from rtmo_deploy.file_kind import EXPORTED, FORMATS, MODEL, FileKind, Format, kind_of_suffix


@pytest.mark.parametrize("kind", FORMATS)
def test_every_function_of_a_format_is_there(kind: FileKind) -> None:
    known = FORMATS[kind]
    for function in (known.reader, known.validator, known.inspector, known.exporter):
        assert function is None or callable(Format.load(function))


def test_formats_are_kinds_of_artifacts_and_of_files() -> None:
    assert {kind.value for kind in FORMATS} | {"checkpoint"} == set(Kind)
    assert set(FORMATS) == EXPORTED.kinds < MODEL.kinds
    for kind, known in FORMATS.items():
        assert {kind_of_suffix(Path(f"x{suffix}")) for suffix in known.suffixes} == {kind}


def test_files_that_belong_to_one() -> None:
    assert FORMATS[FileKind.OPENVINO].files_beside(Path("a/m.xml")) == [Path("a/m.bin")]
    assert FORMATS[FileKind.ENGINE].files_beside(Path("a/m.engine")) == [Path("a/m.engine.json")]
    assert FORMATS[FileKind.ONNX].files_beside(Path("a/m.onnx")) == []


def test_a_new_format_is_two_modules_and_two_tables(checkpoint_n: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    script = Path(__file__).with_name("tiny_format.py")
    command = [sys.executable, str(script), str(checkpoint_n), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout)
    assert answers["export"]["path"] == str(tmp_path / "m.tiny")
    assert answers["export"]["onnx"] == str(tmp_path / "m.onnx")
    assert answers["export"]["artifact"]["kind"] == answers["inspect"]["kind"] == "tiny"
    assert answers["validate"]["checks"][0]["name"] == "magic"
    assert answers["predict"]
    assert "--format onnx|openvino|tiny" in answers["help"]
