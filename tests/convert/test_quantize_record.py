"""A calibration file is used for what it was measured on, as it was written, or not at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert.quantize.ranges import Method, Range
from rtmo_deploy.convert.quantize.record import CODE_VERSION, Calibration, Source
from rtmo_deploy.errors import ArtifactError, InputDataError

SOURCE = Source(
    "a" * 64, {"name": "synthetic", "seed": 1, "count": 5}, (192, 160), "center", Method.MSE, Target.OPENVINO
)
RANGES = {"x": Range(-0.28, 1.5), "y": Range(0.0, 0.0)}
MADE = Calibration(SOURCE, 4, (("bad.jpg", "It is empty."),), RANGES, {"conv": (0.5, -0.25)}, {"conv": 31.5})


def test_there_and_back(tmp_path):
    path = tmp_path / "c.json"
    MADE.save(path)
    assert Calibration.load(path) == MADE
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "b" * 64},
        {"pictures": {"name": "synthetic", "seed": 2, "count": 5}},
        {"pictures": {"name": "synthetic", "seed": 1, "count": 6}},
        {"input_hw": (160, 192)},
        {"placement": "top-left"},
        {"method": Method.ENTROPY},
        {"target": Target.ONNXRUNTIME},
        {"percentile": 99.9},
        {"code_version": CODE_VERSION + 1},
    ],
)
def test_the_key_tells_everything_apart(change):
    assert replace(SOURCE, **change).key() != SOURCE.key()
    assert replace(SOURCE).key() == SOURCE.key()


def test_another_model_target_or_version_is_refused():
    MADE.require_model("a" * 64, Target.OPENVINO, "m.onnx")
    with pytest.raises(ArtifactError, match=r"m\.onnx: This calibration was measured on another model"):
        MADE.require_model("b" * 64, Target.OPENVINO, "m.onnx")
    words = r"m\.onnx: This calibration is for openvino, and the model is quantised for tensorrt\."
    with pytest.raises(ArtifactError, match=words) as caught:
        MADE.require_model("a" * 64, Target.TENSORRT, "m.onnx")
    assert caught.value.remedy == "Make it again with 'rtmo-deploy calibrate --target tensorrt'."
    old = replace(MADE, source=replace(SOURCE, code_version=0))
    with pytest.raises(ArtifactError, match="version 0 of the method"):
        old.require_model("a" * 64, Target.OPENVINO, "m.onnx")


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["ranges"].update(x=[-0.28, 1.6]),
        lambda d: d["source"].update(model_sha256="b" * 64),
        lambda d: d["source"].update(target="onnxruntime"),
        lambda d: d["source"]["pictures"].update(seed=7),
        lambda d: d.update(used=40),
        lambda d: d.pop("sha256"),
        lambda d: d["shifts"].clear(),
    ],
)
def test_an_edited_file_is_refused(tmp_path, change):
    path = tmp_path / "c.json"
    MADE.save(path)
    edit(path, change)
    with pytest.raises(InputDataError, match="edited or cut") as caught:
        Calibration.load(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "no calibration"),
        (b"{}", "no calibration"),
        (b'{"schema_version": 99, "ranges": {}, "source": {}}', "schema version is 99"),
        (b'{"schema_version": 1, "thresholds": {}, "source": {}}', "no calibration"),
        (b"[" * 100_000, "nested deeper than 64"),
    ],
)
def test_what_is_no_calibration(tmp_path, content, words):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(InputDataError, match=words):
        Calibration.load(path)
    with pytest.raises(InputDataError, match="cannot be read: No such file"):
        Calibration.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("ranges", {"x": value}) for value in ([1, 2], [-2, -1], [0, float("nan")], [-1, "much"], [1], 3.0)),
        ("source", {"target": "coreml"}),
    ],
)
def test_a_sealed_file_with_odd_numbers(tmp_path, part, value):
    path = tmp_path / "c.json"
    MADE.save(path)
    document = json.loads(path.read_text())
    del document["sha256"]
    document[part].update(value)
    seal = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(document | {"sha256": seal}))
    with pytest.raises(InputDataError, match=r"cannot be read|is not a calibration"):
        Calibration.load(path)
