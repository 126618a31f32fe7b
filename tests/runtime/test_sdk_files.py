"""MMDeploy's files beside a model: thresholds and grey level are followed, what a network here cannot do is refused."""

from __future__ import annotations

import copy
import json
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rtmo_deploy import RTMO
from rtmo_deploy.convert.sdk_info import dump_sdk_info
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.zoo.locate import locate_model


@pytest.fixture(scope="module")
def sdk(tmp_path_factory, onnx_n):
    """A model without this project's metadata, under MMDeploy's name, and the three files as MMDeploy lays them out."""
    folder = tmp_path_factory.mktemp("sdk")
    model = onnx.load(onnx_n)
    path = folder / "end2end.onnx"
    onnx.save(model, path)
    dump_sdk_info(read_artifact(path))
    del model.metadata_props[:]
    onnx.save(model, path)
    return folder


@pytest.fixture
def pipeline(sdk, tmp_path):
    """The folder, and a function that changes its pipeline.json."""
    for file in sdk.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((sdk / "pipeline.json").read_text(encoding="utf-8"))

    def change(step, **values):
        changed = copy.deepcopy(content)
        tasks = changed["pipeline"]["tasks"]
        places = {one["type"]: one for one in tasks[0]["transforms"]} | {"params": tasks[2]["params"]}
        places[step].update(values)
        (tmp_path / "pipeline.json").write_text(json.dumps(changed), encoding="utf-8")
        return tmp_path / "end2end.onnx"

    return change


def test_thresholds_and_grey_level_are_the_pipelines(pipeline):
    artifact = read_artifact(pipeline("params", score_thr=0.33, nms_thr=0.5))
    assert artifact.producer == "mmdeploy"
    assert (artifact.decode.score_thr, artifact.decode.nms_thr) == (0.33, 0.5)
    assert read_artifact(pipeline("Pad", pad_val={"img": [0, 0, 0]})).input.pad == 0
    assert read_artifact(pipeline("Resize", size=[352, 416])).input.width == 416


def test_files_of_another_model_are_not_followed(pipeline):
    path = pipeline("params", score_thr=0.33)
    other = path.rename(path.with_name("other.onnx"))
    assert read_artifact(other).decode.score_thr == 0.33  # the only model there
    path.write_bytes(other.read_bytes())
    assert read_artifact(other).decode.score_thr != 0.33


@pytest.mark.parametrize(
    ("step", "values"),
    [("Normalize", {"to_rgb": True}), ("Normalize", {"mean": [123.7, 116.3, 103.5]}), ("Normalize", {"std": [58] * 3})],
)
def test_other_colours_are_refused(pipeline, step, values):
    with pytest.raises(ArtifactError, match="wants RGB or normalised values"):
        read_artifact(pipeline(step, **values))


@pytest.mark.parametrize("value", [2, -1, "much", True, [0.1]])
def test_damaged_files_are_refused(pipeline, value):
    with pytest.raises(ArtifactError, match=r"not what MMDeploy writes.* copy it into a folder without this file"):
        read_artifact(pipeline("params", score_thr=value))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pipeline": {"tasks": 1}}', '{"pipeline": {"tasks": [[]]}}'])
@pytest.mark.parametrize("name", ["pipeline.json", "deploy.json"])
def test_any_other_content_is_refused(pipeline, name, content):
    path = pipeline("params")
    path.with_name(name).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError):
        read_artifact(path)


def test_an_archive_runs_as_its_model_does(pipeline, tmp_path, monkeypatch, pictures):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    path = pipeline("params", score_thr=0.2)
    with zipfile.ZipFile(tmp_path / "rtmo.zip", "w") as archive:
        for file in (path, *path.parent.glob("*.json")):
            archive.write(file, file.name)
    with RTMO(tmp_path / "rtmo.zip", device="cpu") as packed, RTMO(path, device="cpu") as plain:
        assert packed.artifact.path.name == "rtmo.onnx"
        assert packed.artifact.decode.score_thr == 0.2
        found, expected = packed(pictures[0], score_thr=0.3), plain(pictures[0], score_thr=0.3)
        np.testing.assert_array_equal(found.keypoints, expected.keypoints)


def test_another_network_in_an_archive_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    shape = [1, 3, 256, 192]
    image, simcc = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "simcc_x"))
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["simcc_x"])], "g", [image], [simcc])
    with zipfile.ZipFile(tmp_path / "rtmpose.zip", "w") as archive:
        archive.writestr("end2end.onnx", helper.make_model(graph).SerializeToString())
    with pytest.raises(ArtifactError, match="It is not an RTMO model"):
        read_artifact(locate_model(tmp_path / "rtmpose.zip"))
