"""What was made in a directory is found again, and only as it was made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.cli import workspace as module
from rtmo_deploy.cli.workspace import Workspace
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.zoo import COCO_17

if TYPE_CHECKING:
    from pathlib import Path


def made(path: Path, content: bytes = b"x", **changes: object) -> Artifact:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    facts = {"kind": Kind.ONNX, "precision": "fp32", "parents": (Parent("a.pth", "0" * 64),), **changes}
    return Artifact(
        path=path,
        architecture="rtmo-n",
        skeleton=COCO_17,
        input=InputContract(192, 192),
        decode=DecodeContract(DecodeMode(str(facts.pop("decode", "onnx")))),
        **facts,  # type: ignore[arg-type]
    )


def test_nothing_was_made(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.entries() == []
    with pytest.raises(UsageError, match="No onnx was made in this directory"):
        workspace.last([Kind.ONNX])
    assert not (tmp_path / ".rtmo-deploy").exists()


def test_the_newest_that_fits(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.record(made(tmp_path / "a.onnx", b"a"), command="export")
    workspace.record(made(tmp_path / "sub" / "b.onnx", b"b", decode="fixed"), command="export")
    workspace.record(made(tmp_path / "c.engine", b"c", kind=Kind.ENGINE, precision="fp16"), command="build-trt")
    assert workspace.last()[0] == tmp_path / "c.engine"
    path, entry = workspace.last([Kind.ONNX])
    assert path == tmp_path / "sub" / "b.onnx"
    assert (entry.path, entry.decode, entry.parents) == ("sub/b.onnx", "fixed", ("0" * 64,))
    assert workspace.last([Kind.ONNX], decode="onnx")[0] == tmp_path / "a.onnx"
    assert workspace.last([Kind.ENGINE, Kind.ONNX], precision="fp32")[0] == path
    with pytest.raises(UsageError, match="No int8 engine was made"):
        workspace.last([Kind.ENGINE], precision="int8")


def test_made_again_is_one_entry_and_the_newest(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.record(made(tmp_path / "a.onnx", b"a"), command="export")
    workspace.record(made(tmp_path / "b.onnx", b"b"), command="export")
    workspace.record(made(tmp_path / "a.onnx", b"other"), command="export")
    assert [entry.path for entry in workspace.entries()] == ["b.onnx", "a.onnx"]
    assert workspace.last()[0].name == "a.onnx"


def test_outside_the_directory_the_path_is_absolute(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    entry = Workspace(inner).record(made(tmp_path / "a.onnx"), command="export")
    assert entry.path == str(tmp_path / "a.onnx")
    assert Workspace(inner).last()[0] == tmp_path / "a.onnx"


@pytest.mark.parametrize("content", [b"y", b"longer"])
def test_a_changed_file_is_noticed(tmp_path: Path, content: bytes) -> None:
    workspace = Workspace(tmp_path)
    workspace.record(made(tmp_path / "older.onnx"), command="export")
    workspace.record(made(tmp_path / "a.onnx"), command="export")
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="It was changed since 'export' made it"):
        workspace.last()


def test_a_moved_file_is_noticed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.record(made(tmp_path / "a.onnx"), command="export")
    (tmp_path / "a.onnx").rename(tmp_path / "b.onnx")
    with pytest.raises(ArtifactError, match="not there any more"):
        workspace.last()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema_version": 1}',
        '{"schema_version": 1, "made": [{}]}',
        '{"schema_version": "1"}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.file.parent.mkdir()
    workspace.file.write_text(text)
    with pytest.raises(ArtifactError, match=r"damaged|cannot be read"):
        workspace.last()
    with pytest.raises(ArtifactError, match=r"damaged|cannot be read"):
        workspace.record(made(tmp_path / "a.onnx"), command="export")
    assert workspace.file.read_text() == text


def test_a_newer_record_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.file.parent.mkdir()
    workspace.file.write_text(json.dumps({"schema_version": 99, "made": []}))
    with pytest.raises(ArtifactError, match="schema version 99"):
        workspace.entries()


def test_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 3)
    workspace = Workspace(tmp_path)
    for name in "abcde":
        workspace.record(made(tmp_path / f"{name}.onnx"), command="export")
    assert [entry.path for entry in workspace.entries()] == ["c.onnx", "d.onnx", "e.onnx"]


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".rtmo-deploy").write_text("a file")
    with pytest.raises(SetupError, match="cannot be recorded"):
        Workspace(tmp_path).record(made(tmp_path / "a.onnx"), command="export")


def test_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_workspace import made, Workspace\n"
        "folder = Path(sys.argv[1])\n"
        "for i in range(10):\n"
        "    Workspace(folder).record(made(folder / f'{sys.argv[3]}-{i}.onnx'), command='export')\n"
    )
    here = str(__file__).rpartition("/")[0]
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here, str(number)]) for number in range(3)]
    assert [child.wait(timeout=300) for child in children] == [0, 0, 0]
    found = {entry.path for entry in Workspace(tmp_path).entries()}
    assert found == {f"{number}-{i}.onnx" for number in range(3) for i in range(10)}
    assert {path.name for path in (tmp_path / ".rtmo-deploy").iterdir()} <= {"workspace.json", "workspace.lock"}


@pytest.mark.parametrize("kind", ["fifo", "endless", "folder"])
def test_a_record_that_is_no_file(tmp_path: Path, kind: str) -> None:
    path = Workspace(tmp_path).file
    path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match=r"damaged|cannot be read"):
        Workspace(tmp_path).entries()
