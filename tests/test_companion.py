"""The second file of a raw model goes with it unchanged, and takes nobody else's place."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from rtmo_deploy.artifact import (
    Artifact,
    DecodeContract,
    DecodeMode,
    InputContract,
    Parent,
    read_companion,
    refuse_companion,
    write_companion,
)
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.zoo import COCO_17

CONTENT = b"classifier"


@pytest.fixture
def artifact(tmp_path):
    (tmp_path / "m.dcc.onnx").write_bytes(CONTENT)
    return Artifact(
        tmp_path / "m.onnx",
        Kind.ONNX,
        "rtmo-n",
        COCO_17,
        InputContract(64, 64),
        DecodeContract(DecodeMode.RAW),
        companion=Parent("m.dcc.onnx", hashlib.sha256(CONTENT).hexdigest()),
    )


def test_it_is_read_and_written_beside_the_new_model(artifact, tmp_path):
    output = tmp_path / "made" / "new.onnx"
    output.parent.mkdir()
    write_companion(artifact, read_companion(artifact), output)
    assert (output.parent / "m.dcc.onnx").read_bytes() == CONTENT
    before = (output.parent / "m.dcc.onnx").stat().st_mtime_ns
    write_companion(artifact, CONTENT, output)  # it is there already
    assert (output.parent / "m.dcc.onnx").stat().st_mtime_ns == before


def test_most_models_have_none(artifact, tmp_path):
    alone = replace(artifact, companion=None)
    assert read_companion(alone) is None
    refuse_companion(alone, tmp_path / "new.onnx")
    write_companion(alone, None, tmp_path / "elsewhere.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.dcc.onnx"]


def test_a_missing_or_changed_one_is_told_with_the_model(artifact, tmp_path):
    (tmp_path / "m.dcc.onnx").write_bytes(CONTENT + b"!")
    with pytest.raises(ArtifactError, match="not the file it was exported with") as caught:
        read_companion(artifact)
    assert caught.value.where == str(artifact.path)
    (tmp_path / "m.dcc.onnx").unlink()
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        read_companion(artifact)


@pytest.mark.parametrize("folder", [False, True])
def test_another_models_is_left_alone(artifact, tmp_path, folder):
    other = tmp_path / "other" / "m.dcc.onnx"
    other.parent.mkdir()
    if folder:
        other.mkdir()
    else:
        other.write_bytes(b"another")
    for refused in (
        lambda: refuse_companion(artifact, other.with_name("new.onnx")),
        lambda: write_companion(artifact, CONTENT, other.with_name("new.onnx")),
    ):
        with pytest.raises(UsageError, match="belongs to another model"):
            refused()
    assert folder or other.read_bytes() == b"another"


def test_its_name_is_not_for_the_model(artifact, tmp_path):
    with pytest.raises(UsageError, match="name of its companion"):
        refuse_companion(artifact, tmp_path / "elsewhere" / "m.dcc.onnx")
