"""A format that does not exist: ONNX behind four bytes. What is here is all that a new export format needs.

Run as a script with a checkpoint and a folder, it takes the format through the commands and prints what they say.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy import file_kind
from rtmo_deploy.file_kind import FORMATS, FileKind, Format, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert import ExportResult
    from rtmo_deploy.measure import ValidationReport

MAGIC = b"TINY"


# 1. rtmo_deploy/file_kind.py: two lines in its enums and an entry in its table.


def add_member(enum: Any, name: str, value: str, **attributes: str) -> None:
    """What a line in the enum's body does."""
    member = str.__new__(enum, value)
    member._name_, member._value_, member.__objclass__ = name, value, enum
    for attribute, text in attributes.items():
        setattr(member, attribute, text)
    enum._member_names_.append(name)
    enum._member_map_[name] = enum._value2member_map_[value] = member
    type.__setattr__(enum, name, member)


def register() -> None:
    add_member(FileKind, "TINY", "tiny", article="a tiny model")
    add_member(Kind, "TINY", "tiny")
    FORMATS[FileKind("tiny")] = Format(
        suffixes=(".tiny",),
        title="Tiny",
        remedy="Export it again.",
        reader="convert.tiny:read",
        validator="convert.tiny:validate",
        inspector="convert.tiny:inspect",
        exporter="convert.tiny:convert",
        magic=MAGIC,
    )


# 2. rtmo_deploy/convert/tiny.py: makes, reads, checks and describes such files.


def convert(source: Path, output: Path, *, verify: bool, progress: Callable[[str], None]) -> ExportResult:
    from rtmo_deploy.convert.step import ExportResult, derived, read_source, write_bytes, write_metadata

    read = read_source(source, output)
    artifact = derived(read.artifact, output, "onnx", kind=Kind("tiny"))
    if verify:
        raise NotImplementedError
    progress("writing")
    write_metadata(read.model, artifact)
    write_bytes(output, MAGIC + read.model.SerializeToString())
    return ExportResult(artifact, (output,), output.stat().st_size, 0.0)


def _model(path: Path) -> onnx.ModelProto:
    return onnx.load_from_string(path.read_bytes().removeprefix(MAGIC))


def read(path: Path) -> Artifact:
    from rtmo_deploy.artifact import Artifact

    found = Artifact.from_metadata(path, {entry.key: entry.value for entry in _model(path).metadata_props})
    assert found is not None
    return found


def validate(path: Path) -> ValidationReport:
    from rtmo_deploy.measure import Check, ValidationReport

    return ValidationReport((Check("magic", path.read_bytes().startswith(MAGIC), "it begins with TINY"),))


def inspect(path: Path) -> dict[str, Any]:
    artifact = read(path)
    return {"path": str(path), "kind": artifact.kind.value, "decode": artifact.decode.mode.value}


# 3. rtmo_deploy/runtime/tiny_backend.py: runs them.


@dataclass
class TinyBackend:
    artifact: Artifact
    device: str
    session: Any

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        from rtmo_deploy.runtime.onnxruntime_backend import run_session

        return run_session(self.session, {"input": images}, where=self.artifact.path)


def load(artifact: Artifact, device: str, threads: int | None) -> TinyBackend:
    from rtmo_deploy.runtime.onnxruntime_backend import open_session

    assert threads is None
    content = _model(artifact.path).SerializeToString()
    return TinyBackend(artifact, device, open_session(content, where=artifact.path))


# 4. rtmo_deploy/runtime/backends.py: an entry in its table.


def register_backend() -> None:
    from rtmo_deploy.runtime import backends

    record = backends.BackendRecord("tiny", (Kind("tiny"),), "rtmo_deploy.runtime.tiny_backend", "onnxruntime", "cpu")
    backends.BACKENDS += (record,)


def main(checkpoint: str, folder: Path) -> None:
    register()
    sys.modules["rtmo_deploy.convert.tiny"] = sys.modules["rtmo_deploy.runtime.tiny_backend"] = sys.modules[__name__]
    register_backend()
    import cv2
    from typer.testing import CliRunner

    from rtmo_deploy.cli.app import app

    assert file_kind.kind_of  # registered before any command was imported
    cv2.imwrite(str(folder / "image.png"), np.zeros((32, 32, 3), np.uint8))
    model = str(folder / "m.tiny")
    size = ("--static", "--imgsz", "32x32")
    answers = {}
    for command in (
        ("export", checkpoint, "--format", "tiny", "-o", model, "--no-verify", *size),
        ("inspect", model),
        ("validate", model),
        ("predict", model, str(folder / "image.png")),
    ):
        result = CliRunner().invoke(app, [*command, "--json"])
        assert result.exit_code == 0, result.output
        answers[command[0]] = json.loads(result.stdout)
    answers["help"] = CliRunner().invoke(app, ["export", "--help"]).stdout
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
