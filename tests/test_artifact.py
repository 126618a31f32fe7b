"""What a file knows of itself survives being written into it."""

from __future__ import annotations

import ast
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent, Target
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import FORMATS, Kind
from rtmo_deploy.zoo import COCO_17, CROWDPOSE_14

PATH = Path("some.onnx")
FULL = Artifact(
    path=PATH,
    kind=Kind.ONNX,
    architecture="rtmo-s",
    skeleton=CROWDPOSE_14,
    input=InputContract(384, 640, batch=4, dynamic_hw=False, placement="top-left"),
    decode=DecodeContract(DecodeMode.FIXED, 0.2, 0.5, max_dets=50, pre_topk=200, nms_rounds=16),
    variant="rtmo-s-crowdpose",
    companion=Parent("some.dcc.onnx", "ab" * 32),
    parents=(Parent("a.pth", "cd" * 32), Parent("b.pth", "ef" * 32)),
    versions={"torch": "2.9"},
    verified={"parity": {"ok": True}},
)
BARE = Artifact(PATH, Kind.ONNX, "unknown", COCO_17, InputContract(640, 640), DecodeContract(DecodeMode.ONNX))

sides = st.integers(1, 40).map(lambda count: 32 * count)
thresholds = st.floats(0, 1)
counts = st.none() | st.integers(1, 5000)
artifacts = st.builds(
    Artifact,
    path=st.just(PATH),
    kind=st.sampled_from([Kind.CHECKPOINT, *FORMATS]),
    architecture=st.text(),
    skeleton=st.sampled_from([COCO_17, CROWDPOSE_14]),
    input=st.builds(
        InputContract,
        sides,
        sides,
        st.none() | st.integers(1, 40),
        st.booleans(),
        st.sampled_from(["center", "top-left"]),
        st.integers(0, 255),
    ),
    decode=st.builds(
        DecodeContract,
        st.sampled_from(DecodeMode),
        thresholds,
        thresholds,
        counts,
        counts,
        counts,
        st.integers(0, 50),
        st.booleans(),
    ),
    target=st.none() | st.sampled_from(Target),
    variant=st.none() | st.text(),
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
    verified=st.none() | st.dictionaries(st.text(), st.integers() | st.booleans(), max_size=3),
)


@pytest.mark.parametrize("artifact", [FULL, BARE], ids=["full", "bare"])
def test_survives_metadata(artifact):
    assert Artifact.from_metadata(PATH, artifact.to_metadata()) == artifact


@given(artifacts)
def test_any_artifact_survives_metadata(artifact):
    metadata = artifact.to_metadata()
    assert all(type(key) is str and type(value) is str for key, value in metadata.items())
    assert Artifact.from_metadata(PATH, metadata) == artifact


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16"])
def test_a_file_of_an_earlier_release_was_quantised_for_tensorrt(precision):
    metadata = replace(BARE, precision=precision).to_metadata()
    assert json.loads(metadata.pop("rtmo_deploy.target")) is None
    known = Artifact.from_metadata(PATH, metadata)
    assert known.target is (Target.TENSORRT if precision.startswith("int8") else None)
    for target in Target:
        metadata["rtmo_deploy.target"] = json.dumps(target)
        assert Artifact.from_metadata(PATH, metadata).target is target
    metadata["rtmo_deploy.target"] = '"coreml"'
    with pytest.raises(ArtifactError):
        Artifact.from_metadata(PATH, metadata)


def test_values_are_json_and_the_path_is_not_written():
    metadata = FULL.to_metadata()
    own = {key: json.loads(value) for key, value in metadata.items() if key.startswith("rtmo_deploy.")}
    assert own["rtmo_deploy.input"]["placement"] == "top-left"
    assert own["rtmo_deploy.schema_version"] == 1
    assert "rtmo_deploy.path" not in own
    assert str(PATH) not in "".join(metadata.values())
    assert set(FULL.to_dict()) == {key.removeprefix("rtmo_deploy.") for key in own}


def test_the_keys_of_other_tools():
    metadata = FULL.to_metadata()
    # These readers use ast.literal_eval, not JSON.
    assert ast.literal_eval(metadata["kpt_shape"]) == [14, 3]
    assert ast.literal_eval(metadata["imgsz"]) == [384, 640]
    assert ast.literal_eval(metadata["names"]) == {0: "person"}
    assert ast.literal_eval(metadata["kpt_names"]) == {0: list(CROWDPOSE_14.keypoints)}
    assert (metadata["task"], metadata["stride"], metadata["batch"]) == ("pose", "32", "4")
    assert BARE.to_metadata()["batch"] == "1"


def test_a_file_of_somebody_else():
    assert Artifact.from_metadata(PATH, {}) is None
    assert Artifact.from_metadata(PATH, {"task": "pose", "stride": "32", "rtmo_deploy.kind": '"onnx"'}) is None


def test_a_newer_schema():
    metadata = FULL.to_metadata() | {"rtmo_deploy.schema_version": "2"}
    with pytest.raises(ArtifactError, match=r"some\.onnx: .*schema version 2; this release knows up to 1\. Upgrade"):
        Artifact.from_metadata(PATH, metadata)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(FULL.to_dict())), json_values | st.just(...))
def test_damaged_metadata_is_an_error_or_an_artifact_and_never_anything_else(key, value):
    text = "{" if value is ... else json.dumps(value)
    metadata = FULL.to_metadata() | {f"rtmo_deploy.{key}": text}
    with contextlib.suppress(ArtifactError):
        json.dumps(Artifact.from_metadata(PATH, metadata).to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("input", name, value) for name in ("height", "width", "multiple", "batch") for value in (0, -32, "64", 1.5, True)]
    + [("input", "height", None), ("input", "multiple", None), ("input", "placement", "left")]
    + [("decode", name, value) for name in ("max_dets", "pre_topk") for value in (0, -1, "5", 2.5)]
    + [("decode", name, value) for name in ("score_thr", "nms_thr") for value in (-0.1, 1.1, "0.5", None, True)],
)
def test_values_that_nothing_could_be_done_with(part, name, value):
    metadata = FULL.to_metadata()
    fields = json.loads(metadata[f"rtmo_deploy.{part}"]) | {name: value}
    with pytest.raises(ArtifactError, match=rf"damaged \(ValueError: {name} is {value!r}\)"):
        Artifact.from_metadata(PATH, metadata | {f"rtmo_deploy.{part}": json.dumps(fields)})


@pytest.mark.parametrize("name", ["../x.onnx", "/etc/x.onnx", "a/b.onnx", "", "."])
def test_a_companion_lies_beside_the_file_and_nowhere_else(name):
    metadata = replace(FULL, companion=Parent(name, "ab")).to_metadata()
    with pytest.raises(ArtifactError, match="is no file name"):
        Artifact.from_metadata(PATH, metadata)


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("best é (2): 'x' <b>.pth", None),
        ("run:3\\best\nof\u3000all.pth", "run_3_best_of_all.pth"),
        ("a:b.pth", "a_b.pth"),
        ("x\udcff.pth", "x_.pth"),
        ("con.pth", "_con.pth"),
    ],
)
def test_a_parent_may_have_any_name(name, recorded):
    parent = Parent.of(name, "ab")
    assert parent == Parent(recorded or name, "ab")
    assert Artifact.from_metadata(PATH, replace(FULL, parents=(parent,)).to_metadata()).parents == (parent,)


@pytest.mark.parametrize("kind", ["jpeg", "torch", "unheard-of"])
def test_other_kinds_of_files_are_no_artifacts(kind):
    with pytest.raises(ArtifactError, match=f"damaged .*{kind}"):
        Artifact.from_metadata(PATH, FULL.to_metadata() | {"rtmo_deploy.kind": json.dumps(kind)})
