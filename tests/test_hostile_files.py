"""Files made to hurt their reader: each is refused by a sentence, at once."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.convert.quantize.record import Calibration
from rtmo_deploy.convert.trt.child import Job, _load_cache
from rtmo_deploy.errors import ArtifactError, InputDataError, RtmoDeployError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.accuracy.detections import Journal, _numbers
from rtmo_deploy.measure.bench.baseline import load_baseline
from rtmo_deploy.runtime.engine_file import MAX_RECORD, read_record, sidecar_path
from rtmo_deploy.runtime.onnx_file import load_onnx
from rtmo_deploy.runtime.openvino_file import read_ir
from rtmo_deploy.runtime.tensorrt_backend import _read_plan
from rtmo_deploy.zoo import COCO_17

PATH = Path("model.onnx")
SOUND = Artifact(
    PATH, Kind.ONNX, "rtmo-n", COCO_17, InputContract(256, 256), DecodeContract(DecodeMode.ONNX), versions={"a": "1"}
)
JOB = Job("tensorrt", "m.onnx", "m.engine", (), timing_cache_out="out")
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("verified", DEEP),
        ("skeleton", '{"name": "x", "keypoints": ["a", "b"], "edges": [[0, Infinity]]}'),
        ("skeleton", '{"name": "x", "keypoints": ["a", "b"], "sigmas": [1e999, 1]}'),
        ("skeleton", '{"name": "x", "keypoints": []}'),
        ("skeleton", json.dumps({"name": "x", "keypoints": ["a"] * 2000})),
        ("skeleton", '{"name": "\\ud800", "keypoints": ["a"]}'),
        ("input", '{"height": 1000000000, "width": 32}'),
        ("input", '{"height": 16384, "width": 16384}'),
        ("input", '{"height": "640", "width": 640}'),
        ("input", '{"height": 640, "width": 640, "multiple": 3}'),
        ("input", '{"height": 640, "width": 640, "batch": true}'),
        ("input", '{"height": 640, "width": 640, "batch": 1000000}'),
        ("input", '{"height": 640, "width": 640, "dynamic_hw": 1}'),
        ("input", '{"height": 640, "width": 640, "placement": []}'),
        ("input", '{"height": 640, "width": 640, "pad": -1}'),
        ("decode", '{"mode": "onnx", "min_rows": 1000000000000}'),
        ("decode", '{"mode": "onnx", "nms_rounds": 0}'),
        ("precision", "17"),
        ("architecture", json.dumps("x" * 2000)),
        ("schema_version", "true"),
        ("schema_version", '"1"'),
        ("versions", json.dumps({"a": "x" * 2**20})),
    ],
)
def test_hostile_metadata(field: str, text: str) -> None:
    with pytest.raises(ArtifactError, match="metadata is damaged") as caught:
        Artifact.from_metadata(PATH, {**SOUND.to_metadata(), f"rtmo_deploy.{field}": text})
    assert len(str(caught.value)) < 600
    str(caught.value).encode()  # it can be printed


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a\\b", "C:x", "..", "NUL", "con.onnx", "x" * 300, "a\nb"])
def test_a_companion_with_no_file_name(name: str) -> None:
    metadata = replace(SOUND, companion=Parent("x.onnx", "0" * 64)).to_metadata()
    metadata["rtmo_deploy.companion"] = json.dumps({"name": name, "sha256": "0" * 64})
    with pytest.raises(ArtifactError, match="metadata is damaged") as caught:
        Artifact.from_metadata(PATH, metadata)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "content", [DEEP, "[]", "17", '{"schema_version": true}', '{"schema_version": 1}', "\x00", "{"]
)
def test_hostile_engine_records(tmp_path: Path, content: str) -> None:
    engine = tmp_path / "x.engine"
    engine.write_bytes(b"plan")
    sidecar_path(engine).write_text(content)
    with pytest.raises(ArtifactError, match="record is damaged"):
        read_record(engine)


def test_an_engine_record_without_end(tmp_path: Path) -> None:
    engine = tmp_path / "x.engine"
    engine.write_bytes(b"plan")
    with sidecar_path(engine).open("wb") as stream:
        stream.truncate(MAX_RECORD + 1)
    with pytest.raises(ArtifactError, match=r"at most 4\.0 MiB are read"):
        read_record(engine)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize(("read", "name"), [(load_onnx, "x.onnx"), (read_ir, "x.xml"), (read_record, "x.engine.json")])
def test_a_fifo_is_not_waited_for(tmp_path: Path, read: Any, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "x.engine").write_bytes(b"plan")
    with pytest.raises(ArtifactError, match="not a regular file"):
        read(tmp_path / name.removesuffix(".json"))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
@pytest.mark.parametrize("read", [load_onnx, read_ir])
def test_a_device_is_not_read(tmp_path: Path, read: Any) -> None:
    link = tmp_path / "x"
    link.symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match="It is not a regular file"):
        read(link)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_other_files_of_users_that_are_fifos(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for read in (
        load_baseline,
        Calibration.load,
        _read_plan,
        lambda path: Journal(path, {}, 17),
        lambda path: _load_cache(None, replace(JOB, timing_cache_in=str(path))),
    ):
        with pytest.raises(RtmoDeployError, match="it is a FIFO, not a regular file"):
            read(fifo)


@pytest.mark.parametrize("content", [DEEP, '{"command": "bench", "x": 1e999}', "\xff", "{", "9" * 5000])
def test_hostile_baselines_and_calibrations(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match="cannot be read"):
        load_baseline(path)
    with pytest.raises(InputDataError, match=r"cannot be read|is not a calibration"):
        Calibration.load(path)


def test_numbers_that_no_float_holds() -> None:
    assert _numbers([10**400], 1) is None
    assert _numbers([1, 2.5], 2) == [1, 2.5]


def test_a_journal_with_numbers_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path, {}, 17).close()
    path.write_bytes(path.read_bytes() + b'{"batch": Infinity}\n' + DEEP.encode() + b"\n")
    with contextlib.closing(Journal(path, {}, 17)) as journal:
        assert journal.done == {}


def test_deep_xml(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text('<net version="11">' + "<a>" * 100_000)
    with pytest.raises(ArtifactError, match="nested too deep"):
        read_ir(path)
