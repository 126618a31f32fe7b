"""The table of formats, and that a new format is an entry in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

import rtmo_deploy
from rtmo_deploy.convert import ExportOptions
from rtmo_deploy.file_kind import EXPORTED, FORMATS, MODEL, Format, Kind, kind_of_suffix
from rtmo_deploy.release.recipe import ExportArtifact


@pytest.mark.parametrize("kind", FORMATS)
def test_every_function_of_a_format_is_there(kind: Kind) -> None:
    known = FORMATS[kind]
    for function in (known.reader, known.validator, known.inspector, known.exporter):
        assert function is None or callable(Format.load(function))


def test_formats_are_kinds_of_files() -> None:
    assert set(FORMATS) == EXPORTED.kinds < MODEL.kinds
    assert Kind.CHECKPOINT not in FORMATS
    for kind, known in FORMATS.items():
        assert {kind_of_suffix(Path(f"x{suffix}")) for suffix in known.suffixes} == {kind}


def test_files_that_belong_to_one() -> None:
    assert FORMATS[Kind.OPENVINO].files_beside(Path("a/m.xml")) == [Path("a/m.bin")]
    assert FORMATS[Kind.ENGINE].files_beside(Path("a/m.engine")) == [Path("a/m.engine.json")]
    assert FORMATS[Kind.ONNX].files_beside(Path("a/m.onnx")) == []


def test_recipes_have_the_options_of_the_command() -> None:
    offered = {one.name: one.default for one in fields(ExportOptions) if "help" in one.metadata}
    section = ExportArtifact.model_fields
    assert offered == {name: field.default for name, field in section.items() if name not in {"make", "origin"}}
    made = ExportOptions.from_recipe({**offered, "imgsz": [64, 96], "file_stem": "x"})
    assert made == ExportOptions(imgsz=(64, 96))


# A format that does not exist, ONNX behind four bytes, as whoever adds it would write it.

#: Lines that are added, each after the first line that begins so: first file_kind.py, then backends.py.
KIND_LINES = {
    '    ENGINE = "engine", ': '    TINY = "tiny", "a tiny model"\n',
    "FORMATS: dict": """    Kind.TINY: Format(
        suffixes=(".tiny",),
        title="Tiny",
        remedy="Export it again.",
        reader="convert.tiny:read",
        validator="convert.tiny:validate",
        inspector="convert.tiny:inspect",
        exporter="convert.tiny:convert",
        magic=b"TINY",
    ),
""",
}
BACKEND_LINES = {
    "BACKENDS: tuple": """
    BackendRecord("tiny", (Kind.TINY,), "rtmo_deploy.runtime.tiny_backend", "onnxruntime", "cpu"),
"""
}
CONVERT = """
import onnx

from rtmo_deploy.artifact import Artifact, Kind
from rtmo_deploy.convert.step import ExportResult, derived, read_source, write_metadata
from rtmo_deploy.files import write_whole
from rtmo_deploy.measure import Check, ValidationReport


def convert(source, output, *, verify, progress):
    read = read_source(source, output)
    artifact = derived(read.artifact, output, "onnx", kind=Kind.TINY)
    progress("writing")
    write_metadata(read.model, artifact)
    write_whole(output, b"TINY" + read.model.SerializeToString())
    return ExportResult(artifact, (output,), output.stat().st_size, 0.0)


def model_of(path):
    return onnx.load_from_string(path.read_bytes().removeprefix(b"TINY"))


def read(path):
    return Artifact.from_metadata(path, {entry.key: entry.value for entry in model_of(path).metadata_props})


def validate(path):
    return ValidationReport((Check("magic", path.read_bytes().startswith(b"TINY"), "it begins with TINY"),))


def inspect(path):
    return {"path": str(path), "kind": read(path).kind.value}
"""
BACKEND = """
from dataclasses import dataclass
from typing import Any, ClassVar

from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session


@dataclass
class TinyBackend:
    name: ClassVar = "tiny"
    artifact: Any
    device: str
    session: Any

    def __call__(self, images):
        return run_session(self.session, {"input": images}, where=self.artifact.path)


def load(artifact, device, threads):
    content = artifact.path.read_bytes().removeprefix(b"TINY")
    return TinyBackend(artifact, device, open_session(content, where=artifact.path))
"""
RUN = """
import json, sys
from typer.testing import CliRunner
from rtmo_deploy.cli.app import app

answers = []
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    answers.append(result.stdout)
print(json.dumps(answers))
"""


def insert(path: Path, added: dict[str, str]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for before, text in added.items():
        place = next(number for number, line in enumerate(lines) if line.startswith(before))
        lines.insert(place + 1, text)
    path.write_text("".join(lines), encoding="utf-8")


def test_a_new_format_is_two_modules_and_two_tables(checkpoint_n: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    package = tmp_path / "rtmo_deploy"
    shutil.copytree(Path(rtmo_deploy.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    insert(package / "file_kind.py", KIND_LINES)
    insert(package / "runtime" / "backends.py", BACKEND_LINES)
    (package / "convert" / "tiny.py").write_text(CONVERT, encoding="utf-8")
    (package / "runtime" / "tiny_backend.py").write_text(BACKEND, encoding="utf-8")

    model, image = str(tmp_path / "m.tiny"), str(tmp_path / "image.png")
    cv2.imwrite(image, np.zeros((32, 32, 3), np.uint8))
    size = ["--static", "--imgsz", "32x32"]
    commands = [
        ["export", str(checkpoint_n), "--format", "tiny", "-o", model, "--no-verify", *size, "--json"],
        ["inspect", model, "--json"],
        ["validate", model, "--json"],
        ["predict", model, image, "--json"],
        ["export", "--help"],
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *documents, page = json.loads(done.stdout)
    exported, inspected, validated, predicted = map(json.loads, documents)
    assert (exported["path"], exported["onnx"]) == (model, str(tmp_path / "m.onnx"))
    assert exported["artifact"]["kind"] == inspected["kind"] == "tiny"
    assert validated["checks"][0]["name"] == "magic"
    assert predicted["command"] == "predict"
    assert "--format tiny|onnx|openvino" in page
