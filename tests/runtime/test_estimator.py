"""Images to poses, whatever runs underneath."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from golden import CLS_BIAS, golden_model

from rtmo_deploy.artifact import Artifact, DecodeMode
from rtmo_deploy.convert import (
    ExportOptions,
    export_onnx,
)
from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import ArtifactError, InputDataError, UsageError
from rtmo_deploy.measure import compare_people
from rtmo_deploy.model import NetworkSpec, load_checkpoint, save_checkpoint
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.runtime import PoseEstimator, read_artifact
from rtmo_deploy.runtime.decode import outputs_to_poses
from rtmo_deploy.runtime.letterbox import Placement, letterbox, to_tensor
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17

ROBOT = Skeleton(
    "robot-14",
    tuple(f"{side}_{part}" for side in ("left", "right") for part in ("a", "b", "c", "d", "e", "f", "g")),
    edges=((0, 1), (7, 8)),
    flip_pairs=((0, 7),),
    sigmas=(0.05,) * 14,
)


def assert_same(one, two, px=0.2, score=1e-5):
    # Made-up weights amplify float noise: up to 0.08 px between two orders of summation.
    errors = compare_people(one, two)
    assert (errors.missed, errors.extra, errors.in_order) == (0, 0, True), errors
    assert max(errors.box_px_max, errors.keypoint_px_max) < px, errors
    assert max(errors.score_max, errors.keypoint_score_max) < score, errors
    assert errors.matched > 0


@pytest.fixture(scope="module")
def torch_n(checkpoint_n):
    return PoseEstimator.open(checkpoint_n)


@pytest.fixture(scope="module")
def ort_n(onnx_n):
    return PoseEstimator.open(onnx_n)


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """A checkpoint with keypoints of its own, and its export: 192x256 only, two images at a time, top left."""
    folder = tmp_path_factory.mktemp("robot")
    model = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 14), bias=(-2, -1))
    save_checkpoint(folder / "robot.safetensors", model, skeleton=ROBOT, input_hw=(192, 256))
    options = ExportOptions(static=True, batch=2, letterbox="top-left", decode="onnx", max_dets=6)
    loaded = load_checkpoint(folder / "robot.safetensors")
    export_onnx(loaded, folder / "robot.onnx", options, verify=False)
    return folder


def test_files_paths_and_arrays_are_the_same(ort_n, pictures):
    for given in (pictures[1], str(pictures[1]), read_image(pictures[1])):
        assert_same([ort_n(given)], [ort_n(pictures[1])], px=1e-6, score=1e-7)


def test_torch_and_onnx_find_the_same_people(torch_n, ort_n, pictures):
    assert_same(torch_n.predict(pictures), ort_n.predict(pictures))
    assert torch_n.input_hw == ort_n.input_hw == (256, 256)


def test_pictures_of_several_sizes_at_once_are_as_one_by_one(torch_n, ort_n, pictures):
    for estimator in (torch_n, ort_n):
        assert_same(estimator.predict(pictures), [estimator(picture) for picture in pictures], px=0.1)
    assert ort_n.predict([]) == []


def test_coordinates_are_those_of_the_picture(ort_n, pictures):
    # An image twice as large, and a border around it: the people grow and move with it.
    image = read_image(pictures[0])
    (small,) = ort_n.predict([image])
    framed = cv2.copyMakeBorder(image, 0, 0, 128, 128, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    wide = PoseEstimator(ort_n.backend, input_hw=(256, 512))
    assert wide(framed).boxes.shape[1] == 4
    tall = PoseEstimator(ort_n.backend, input_hw=(512, 512))
    large = tall(cv2.resize(image, (512, 512), interpolation=cv2.INTER_NEAREST))
    assert large.boxes.max() > 300 > small.boxes.max()
    assert small.boxes.min() >= 0
    assert small.boxes.max() <= 256


@pytest.mark.parametrize("size", [(100, 256), (0, 32), (-32, 32), (256, 257)])
def test_sizes_that_cannot_be(torch_n, size):
    with pytest.raises(UsageError, match=r"multiples of 32"):
        PoseEstimator(torch_n.backend, input_hw=size)


def test_another_size(torch_n, ort_n, onnx_n, pictures):
    found = [PoseEstimator(estimator.backend, input_hw=(128, 192)).predict(pictures) for estimator in (torch_n, ort_n)]
    assert_same(*found)
    assert PoseEstimator.open(onnx_n, input_hw=(128, 192)).input_hw == (128, 192)
    assert len(found[0][0]) != len(torch_n(pictures[0])) or not np.allclose(
        found[0][0].boxes, torch_n(pictures[0]).boxes, atol=1
    )


def test_what_cannot_be_read_says_so(ort_n, pictures, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(InputDataError, match=r"bad\.jpg"):
        ort_n.predict([pictures[0], tmp_path / "bad.jpg"])
    with pytest.raises(UsageError, match="uint8"):
        ort_n(np.zeros((5, 5), np.uint16))


def test_output_that_is_no_number_is_an_error_and_not_a_pose(ort_n, pictures, monkeypatch):
    def broken(images):
        outputs = dict(type(ort_n.backend).__call__(ort_n.backend, images))
        outputs["keypoints"] = outputs["keypoints"].copy()
        outputs["keypoints"][0, 0, 3, 1] = np.nan
        return outputs

    backend = broken
    backend.artifact = ort_n.artifact
    with pytest.raises(ArtifactError, match="keypoints are not finite"):
        PoseEstimator(backend)(pictures[0])


class TestStaticBatch:
    def test_the_last_batch_is_filled_and_the_filling_taken_out(self, robot, pictures):
        estimator = PoseEstimator.open(robot / "robot.onnx")
        seen = []

        def spy(images):
            seen.append(images.shape)
            return type(estimator.backend).__call__(estimator.backend, images)

        spy.artifact = estimator.artifact
        found = PoseEstimator(spy).predict(pictures)
        assert seen == [(2, 3, 192, 256)] * 3
        assert len(found) == 5
        assert_same(found, [estimator(picture) for picture in pictures], px=0.1)
        assert all(1 <= len(poses) <= 6 for poses in found)

    def test_takes_no_other_size(self, robot):
        with pytest.raises(UsageError, match=r"takes images of 192x256 only.*--static"):
            PoseEstimator.open(robot / "robot.onnx", input_hw=(256, 256))
        assert PoseEstimator.open(robot / "robot.onnx", input_hw=(192, 256)).input_hw == (192, 256)

    def test_the_skeleton_travels_from_checkpoint_to_poses(self, robot, pictures):
        for name in ("robot.safetensors", "robot.onnx"):
            poses = PoseEstimator.open(robot / name)(pictures[0])
            assert poses.skeleton == ROBOT
            assert poses.keypoints.shape[1:] == (14, 2)
            assert read_artifact(robot / name).skeleton == ROBOT

    def test_the_recorded_placement_is_honoured(self, robot, pictures):
        estimator = PoseEstimator.open(robot / "robot.onnx")
        reference = PoseEstimator.open(robot / "robot.safetensors")  # a checkpoint is placed as in training
        assert estimator.artifact.input.placement == "top-left"
        assert reference.artifact.input.placement == "center"
        image = read_image(pictures[2])  # 300x180: ratio 0.64, padded at the right only
        scale = 192 / 300
        canvas = np.full((192, 256, 3), 114, np.uint8)
        canvas[:, : int(180 * scale)] = cv2.resize(image, (int(180 * scale), 192), interpolation=cv2.INTER_LINEAR)
        outputs = estimator.backend(to_tensor([canvas, canvas]))
        (expected, _) = outputs_to_poses(outputs, (192, 256), estimator.artifact)
        found = estimator(image)
        assert len(found) == len(expected) > 0
        assert np.allclose(found.keypoints, expected.keypoints / scale, atol=0.01)
        assert np.allclose(found.boxes, expected.boxes / scale, atol=0.01)
        canvas, _ = letterbox(image, (192, 256), Placement.CENTER)
        (mapped,) = outputs_to_poses(reference.backend(to_tensor([canvas])), (192, 256), reference.artifact)
        centred = reference(image)
        assert np.allclose(centred.keypoints, (mapped.keypoints - [(256 - 180 * scale) / 2, 0]) / scale, atol=0.01)


class TestOtherDecodes:
    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, checkpoint_n, tmp_path_factory):
        folder = tmp_path_factory.mktemp("decodes")
        loaded = load_checkpoint(checkpoint_n)
        for name, rows in (("fixed", 40), ("raw", None)):
            export_onnx(loaded, folder / f"{name}.onnx", ExportOptions(decode=name, max_dets=rows), verify=False)
        return folder

    @pytest.mark.parametrize("name", ["fixed", "raw"])
    def test_find_the_same_people(self, exported, torch_n, pictures, name):
        estimator = PoseEstimator.open(exported / f"{name}.onnx")
        assert estimator.artifact.decode.mode == name
        assert_same(torch_n.predict(pictures), estimator.predict(pictures))

    def test_a_raw_graph_needs_its_companion(self, exported, tmp_path):
        for name in ("raw.onnx", "raw.dcc.onnx"):
            (tmp_path / name).write_bytes((exported / name).read_bytes())
        PoseEstimator.open(tmp_path / "raw.onnx")
        with (tmp_path / "raw.dcc.onnx").open("ab") as stream:
            stream.write(b"\0")
        with pytest.raises(ArtifactError, match=r"raw\.dcc\.onnx beside it is not the file it was exported with"):
            PoseEstimator.open(tmp_path / "raw.onnx")
        (tmp_path / "raw.dcc.onnx").unlink()
        with pytest.raises(ArtifactError, match=r"needs raw\.dcc\.onnx beside it, which cannot be read"):
            PoseEstimator.open(tmp_path / "raw.onnx")

    def test_raw_outputs_without_a_classifier(self, torch_n):
        artifact: Artifact = replace(
            torch_n.artifact, decode=replace(torch_n.artifact.decode, mode=DecodeMode.RAW), companion=None
        )
        outputs = {"cls_scores": np.zeros((1, 5, 1), np.float32)}
        with pytest.raises(ArtifactError, match="raw graph"):
            outputs_to_poses(outputs, (32, 32), artifact)


class TestReference:
    """The reference's own people on four photographs, with the golden weights of rtmo-s."""

    @pytest.fixture(scope="class")
    @classmethod
    def estimators(cls, shared, tmp_path_factory):  # noqa: ARG003  # without the photographs there is nothing to make
        folder = tmp_path_factory.mktemp("reference")
        model = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-s"], 17), CLS_BIAS["rtmo-s"])
        save_checkpoint(folder / "s.pth", model, skeleton=COCO_17)
        export_onnx(load_checkpoint(folder / "s.pth"), folder / "s.onnx", verify=False)
        return {name: PoseEstimator.open(folder / name) for name in ("s.pth", "s.onnx")}

    @pytest.mark.parametrize("name", ["s.pth", "s.onnx"])
    def test_people_in_photographs(self, shared, estimators, name):
        golden = np.load(shared / "golden" / "preproc" / "preproc.npz")
        photographs = sorted((shared / "data" / "coco").glob("*.jpg"))
        assert len(photographs) == 4
        estimator = estimators[name]
        for photograph in photographs:
            canvas, transform = letterbox(read_image(photograph), estimator.input_hw)
            (found,) = outputs_to_poses(estimator.backend(to_tensor([canvas])), estimator.input_hw, estimator.artifact)
            expected = {
                key: golden[f"{photograph.stem}.pred.{key}"]
                for key in ("scores", "bboxes", "keypoints", "keypoint_scores")
            }
            assert len(found) == len(expected["scores"])
            assert np.abs(found.scores - expected["scores"]).max() < 1e-5  # the same people in the same order
            assert np.abs(found.boxes - expected["bboxes"]).max() < 0.03
            assert np.abs(found.keypoints - expected["keypoints"]).max() < 0.03
            assert np.abs(found.keypoint_scores - expected["keypoint_scores"]).max() < 1e-5
        whole = estimator(photographs[-1])
        assert np.allclose(transform.to_input(whole.keypoints), found.keypoints, atol=0.01)
