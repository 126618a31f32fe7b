"""An engine is known by its record, and refused where the record is missing or belongs to other bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.runtime.cuda import Gpu
from rtmo_deploy.runtime.engine_file import (
    AHEAD_OF_TIME,
    EngineRecord,
    Profile,
    Shape,
    choose_profile,
    differences,
    engine_artifact,
    is_trusted,
    read_record,
    sidecar_path,
    split_batch,
)
from rtmo_deploy.runtime.onnx_file import TensorSpec
from rtmo_deploy.zoo import COCO_17

BYTES = b"a plan"


def profile(*texts):
    return Profile(*(Shape.parse(text) for text in texts))


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "m.engine"
    path.write_bytes(BYTES)
    artifact = Artifact(
        path,
        Kind.ENGINE,
        "rtmo-n",
        COCO_17,
        InputContract(192, 192),
        DecodeContract(DecodeMode.FIXED, max_dets=100),
        precision="fp16",
        parents=(Parent("m.onnx", "0" * 64),),
        versions={"tensorrt-rtx": "1.7.1.116"},
        verified={"engine": "70 of 78 convolutions in fp16"},
    )
    made = EngineRecord(
        artifact=artifact,
        backend="tensorrt-rtx",
        version="1.7.1.116",
        gpu=AHEAD_OF_TIME,
        compute_capability=None,
        targets=(),
        profiles=(profile("1x192x192", "1x192x192", "8x1280x1280"),),
        inputs=(TensorSpec("input", "float32", (-1, 3, -1, -1)),),
        outputs=(TensorSpec("dets", "float32", (-1, 100, 5)),),
        precision={"asked": "fp16", "how": "a table"},
        layers={"correlation": {"fp16": 78}},
        plugin=None,
        onnx_sha256="0" * 64,
        sha256=hashlib.sha256(BYTES).hexdigest(),
        size=len(BYTES),
        options={"version_compatible": False},
        seconds=1.5,
        notes=("a note",),
    )
    sidecar_path(path).write_text(json.dumps(made.to_dict()))
    return made


def test_a_record_survives_its_file(record):
    assert sidecar_path(record.artifact.path).name == "m.engine.json"
    assert read_record(record.artifact.path) == record
    with_plugin = replace(record, plugin={"name": "RTMODecode"}, targets=("8.6",), compute_capability="8.6")
    sidecar_path(record.artifact.path).write_text(json.dumps(with_plugin.to_dict()))
    assert read_record(record.artifact.path) == with_plugin


def test_an_engine_with_its_record_is_an_artifact(record):
    assert engine_artifact(record.artifact.path) == record.artifact
    assert not is_trusted(record.artifact)


def test_an_edited_engine_is_refused_unless_trusted(record):
    path = record.artifact.path
    path.write_bytes(BYTES + b"!")
    with pytest.raises(ArtifactError, match="not the engine that its record") as caught:
        engine_artifact(path)
    assert "executable code" in str(caught.value)
    assert "--trust" in caught.value.remedy
    trusted = engine_artifact(path, trust=True)
    assert is_trusted(trusted)
    assert (trusted.architecture, trusted.precision) == ("rtmo-n", "fp16")


def test_a_missing_record_is_refused_unless_trusted(record):
    path = record.artifact.path
    sidecar_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"m\.engine\.json is missing"):
        engine_artifact(path)
    guessed = engine_artifact(path, trust=True)
    assert is_trusted(guessed)
    assert (guessed.architecture, guessed.decode.mode, guessed.kind) == ("unknown", DecodeMode.FIXED, Kind.ENGINE)


def test_a_record_cannot_vouch_for_itself(record):
    path = record.artifact.path
    liar = replace(record, artifact=replace(record.artifact, verified={"trusted": True}))
    sidecar_path(path).write_text(json.dumps(liar.to_dict()))
    assert not is_trusted(engine_artifact(path))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda text: text[: len(text) // 2],
        lambda _: "[]",
        lambda _: "null",
        lambda _: "{}",
        lambda text: text.replace('"kind": "engine"', '"kind": "onnx"'),
        lambda text: text.replace('"1x192x192"', '"192x192"'),
        lambda text: text.replace('"height": 192', '"height": -1'),
        lambda text: text.replace("m.onnx", "../../etc/m.onnx"),
        lambda text: text.replace('"shape": [-1, 100, 5]', '"shape": ["a"]'),
        lambda text: text.replace('"plugin": null', '"plugin": 3'),
    ],
)
def test_a_damaged_record_is_refused_even_if_trusted(record, damage, trust):
    path = record.artifact.path
    sidecar = sidecar_path(path)
    text = sidecar.read_text()
    assert damage(text) != text
    sidecar.write_text(damage(text))
    with pytest.raises(ArtifactError, match="damaged"):
        engine_artifact(path, trust=trust)


def test_a_newer_record_asks_for_an_upgrade(record):
    sidecar = sidecar_path(record.artifact.path)
    sidecar.write_text(json.dumps({**record.to_dict(), "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema version 99"):
        read_record(record.artifact.path)


@pytest.mark.parametrize("trust", [False, True])
def test_no_such_engine(tmp_path, trust):
    with pytest.raises(ArtifactError, match="no such engine"):
        engine_artifact(tmp_path / "none.engine", trust=trust)
    with pytest.raises(ArtifactError, match="not a regular file"):
        engine_artifact(tmp_path, trust=trust)


def gpu(capability, name="a GPU"):
    return Gpu(0, name, capability, "12.8")


@pytest.mark.parametrize(
    ("changes", "version", "capability", "said"),
    [
        ({}, "1.7.1.116", "8.9", []),
        ({}, "1.7.1.116", "7.5", ["runs from compute capability 8.0 on; a GPU has 7.5"]),
        ({"targets": ("7.5", "8.6")}, "1.7.1.116", "7.5", []),
        ({"targets": ("7.5",)}, "1.7.1.116", "8.6", ["built for compute capability 7.5; a GPU has 8.6"]),
        ({}, "1.8.0", "8.9", ["built by tensorrt-rtx 1.7.1.116 and needs that version; installed is 1.8.0"]),
        ({}, "1.8.0", "7.5", ["needs that version", "runs from compute capability 8.0"]),
        ({"backend": "tensorrt", "compute_capability": "8.6"}, "1.7.1.116", "8.6", []),
        (
            {"backend": "tensorrt", "compute_capability": "8.6", "gpu": "RTX 3090"},
            "1.7.1.116",
            "8.9",
            ["built on RTX 3090 with compute capability 8.6; a GPU has 8.9"],
        ),
        (
            {"backend": "tensorrt", "compute_capability": "8.6", "options": {"hardware_compatible": True}},
            "1.7.1.116",
            "12.0",
            [],
        ),
        (
            {"backend": "tensorrt", "options": {"version_compatible": True, "hardware_compatible": True}},
            "1.9",
            "9.0",
            [],
        ),
        (
            {"backend": "tensorrt", "options": {"version_compatible": True, "hardware_compatible": True}},
            "2.0",
            "9.0",
            ["needs that major version"],
        ),
    ],
)
def test_what_differs_is_told_all_at_once(record, changes, version, capability, said):
    found = differences(replace(record, **changes), version=version, gpu=gpu(capability))
    assert len(found) == len(said)
    for text, part in zip(found, said, strict=True):
        assert part in text


def test_the_profile_tuned_for_the_nearest_size_is_taken():
    profiles = (
        profile("1x320x320", "1x640x640", "8x1280x1280"),
        profile("1x320x320", "1x320x320", "1x320x320"),
        profile("1x320x320", "4x416x416", "16x640x640"),
    )
    for text, index in {"1x320x320": 1, "8x640x640": 0, "16x640x640": 2, "1x416x416": 2, "1x1280x640": 0}.items():
        assert choose_profile(profiles, Shape.parse(text)) == index
    with pytest.raises(ArtifactError, match="does not run on an input of 17x640x640"):
        choose_profile(profiles, Shape.parse("17x640x640"))


@pytest.mark.parametrize(
    ("count", "least", "most", "runs"),
    [
        (1, 1, 8, [(0, 1, 1)]),
        (8, 1, 8, [(0, 8, 8)]),
        (9, 1, 8, [(0, 8, 8), (8, 9, 1)]),
        (5, 2, 2, [(0, 2, 2), (2, 4, 2), (4, 5, 2)]),
        (1, 4, 8, [(0, 1, 4)]),
        (17, 2, 8, [(0, 8, 8), (8, 16, 8), (16, 17, 2)]),
    ],
)
def test_a_batch_is_cut_into_what_the_engine_takes(count, least, most, runs):
    assert split_batch(count, least, most) == runs


def test_a_variants_facts_go_through_a_record(record):
    """A custom skeleton, letterbox, thresholds and origin: nothing is left out on the way."""
    skeleton = Skeleton(
        "two",
        ("l", "r"),
        edges=((0, 1),),
        flip_pairs=((0, 1),),
        sigmas=(0.03, 0.04),
        keypoint_colours=("#010203", "#040506"),
        edge_colours=("#070809",),
        source="dataset_meta",
    )
    artifact = replace(
        record.artifact,
        architecture="deepen=0.5 widen=0.33",
        skeleton=skeleton,
        input=InputContract(192, 256, 4, False, "top-left", 0, 64),
        decode=DecodeContract(DecodeMode.FIXED, 0.3, 0.4, 50, 200, 8, 1, junk_rows=True),
        variant="v",
        companion=Parent("c.onnx", "1" * 64),
        domain="synthetic",
        untrained=True,
    )
    told = json.loads(json.dumps(replace(record, artifact=artifact).to_dict()))
    again = EngineRecord.from_dict(artifact.path, told).artifact
    assert again.to_dict() == artifact.to_dict()
    assert Artifact.from_metadata(artifact.path, artifact.to_metadata()) == again == artifact
