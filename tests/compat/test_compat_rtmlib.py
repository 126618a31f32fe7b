"""rtmlib's interface: the same signatures and results as rtmlib 0.0.16, and what differs on purpose."""

from __future__ import annotations

import importlib
import inspect
import logging
import lzma
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from rtmo_deploy.compat import rtmlib as compat
from rtmo_deploy.compat.rtmlib.tools.object_detection.post_processings import multiclass_nms, nms
from rtmo_deploy.compat.rtmlib.tools.pose_estimation import rtmo as rtmo_module
from rtmo_deploy.compat.rtmlib.tools.pose_estimation.post_processings import convert_coco_to_openpose
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.poses import Poses
from rtmo_deploy.zoo import COCO_17

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: Parameters and defaults of rtmlib 0.0.16.
SIGNATURES = {
    "RTMO": "onnx_model, model_input_size=(640, 640), mean=None, std=None, nms_thr=0.45, score_thr=0.7, "
    "to_openpose=False, backend='onnxruntime', device='cpu'",
    "RTMO.__call__": "image, nms_thr=None, score_thr=None",
    "RTMO.preprocess": "img",
    "RTMO.inference": "img",
    "RTMO.postprocess": "outputs, ratio=1.0, nms_thr=None, score_thr=None",
    "Body": "det=None, det_input_size=(640, 640), pose=None, pose_input_size=(288, 384), mode='balanced', "
    "to_openpose=False, backend='onnxruntime', device='cpu'",
    "Body.__call__": "image",
    "Custom": "det_class=None, det=None, det_input_size=(640, 640), det_mode='human', det_categories=None, "
    "pose_class=None, pose=None, pose_input_size=(192, 256), mode=None, to_openpose=False, backend='onnxruntime', "
    "device='cpu'",
    "Custom.__call__": "image",
    "PoseTracker": "solution, det_frequency=1, tracking=True, tracking_thr=0.3, mode=None, to_openpose=False, "
    "backend='onnxruntime', device='cpu'",
    "PoseTracker.__call__": "image",
    "PoseTracker.reset": "",
    "draw_skeleton": "img, keypoints, scores, openpose_skeleton=False, kpt_thr=0.5, radius=2, line_width=2",
    "draw_bbox": "img, bboxes, color=(0, 255, 0)",
    "tools.object_detection.post_processings.nms": "boxes, scores, nms_thr",
    "tools.object_detection.post_processings.multiclass_nms": "boxes, scores, nms_thr, score_thr",
    "tools.pose_estimation.post_processings.convert_coco_to_openpose": "keypoints, scores",
}
SIZE = (256, 256)


def original() -> Any:
    return pytest.importorskip("rtmlib", reason="rtmlib is not installed")


def signature_of(package: Any, name: str) -> str:
    """Positional parameters with their defaults; those that only this package has are keyword-only."""
    first, _, rest = name.partition(".")
    if first == "tools":
        module, _, name = name.rpartition(".")
        found = getattr(importlib.import_module(f"{package.__name__}.{module}"), name)
    else:
        found = getattr(package, first)
        found = getattr(found, rest) if rest else found
    parameters = [one.replace(annotation=one.empty) for one in inspect.signature(found).parameters.values()]
    return ", ".join(str(one) for one in parameters if one.name != "self" and one.kind is not one.KEYWORD_ONLY)


def read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image, np.uint8)


@pytest.fixture(scope="module")
def images(pictures: list[Path]) -> list[NDArray[np.uint8]]:
    blank = np.full((90, 70, 3), 114, np.uint8)
    return [*map(read, [*pictures[:2], pictures[3]]), np.ascontiguousarray(read(pictures[4])[3:201, 7:450]), blank]


@pytest.fixture(scope="module")
def model(checkpoint_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with a row for rtmlib even where there is nobody."""
    path: Path = tmp_path_factory.mktemp("compat") / "onnx.onnx"
    export_onnx(load_checkpoint(checkpoint_n), path, ExportOptions(min_rows=1), verify=False)
    return path


@pytest.fixture(scope="module")
def static_model(checkpoint_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of one size, for two images at a time, with rows of zeros where there is nobody."""
    path: Path = tmp_path_factory.mktemp("compat") / "static.onnx"
    export_onnx(load_checkpoint(checkpoint_n), path, ExportOptions(decode="fixed", static=True, batch=2), verify=False)
    return path


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    assert signature_of(compat, name) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_rtmlibs(name: str) -> None:
    assert signature_of(original(), name) == SIGNATURES[name]


def test_every_name_of_rtmlib_can_be_imported() -> None:
    assert set(compat.__all__) == set(original().__all__)
    assert all(hasattr(compat, name) for name in compat.__all__)


@pytest.mark.parametrize("decode", ["onnx", "fixed"])
def test_same_results_as_rtmlib(
    decode: str, model: Path, checkpoint_n: Path, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = model
    if decode == "fixed":
        path = tmp_path / "fixed.onnx"
        export_onnx(load_checkpoint(checkpoint_n), path, ExportOptions(decode="fixed"), verify=False)
    theirs, ours = original().RTMO(str(path), SIZE), compat.RTMO(str(path), SIZE)
    thresholds = ({}, {"score_thr": 0.1}, {"nms_thr": 0.1, "score_thr": 0.2}, {"nms_thr": 1.0, "score_thr": 0.3})
    empty = 0
    for number, image in enumerate(images):
        for options in thresholds:
            theirs.to_openpose = ours.to_openpose = bool(number % 2)
            wanted = theirs(image, **options)
            ours.strict_compat = not wanted[0].any()
            found = ours(image, **options)
            for mine, other in zip(found, wanted, strict=True):
                assert mine.dtype == other.dtype == np.float32
                np.testing.assert_allclose(mine, other, rtol=0, atol=0.001)
            if ours.strict_compat:
                empty, ours.strict_compat = empty + 1, False
                found = ours(image, **options)
                assert [one.shape for one in found] == [(0, *one.shape[1:]) for one in wanted]
            assert len(ours.bboxes) == len(ours.poses) == len(found[0])
    assert 0 < empty < len(images) * len(thresholds)


def test_normalisation_and_rectangles_as_rtmlib(model: Path, images: list[NDArray[np.uint8]]) -> None:
    options = {"model_input_size": (192, 320), "mean": (103.5, 116.3, 123.7), "std": (0.9, 1.1, 1.0), "score_thr": 0.1}
    theirs, ours = original().RTMO(str(model), **options), compat.RTMO(str(model), **options)
    wanted, found = theirs(images[1]), ours(images[1])
    assert len(wanted[0]) == len(found[0]) > 1
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=0.001)
    for mine, other in zip(ours.preprocess(images[2]), theirs.preprocess(images[2]), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_mmdeploy_graphs_as_rtmlib(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "end2end.onnx"
    path.write_bytes(lzma.decompress((shared / "peers" / "mmdeploy-rtmo-t.onnx.xz").read_bytes()))
    theirs, ours = original().RTMO(str(path), (416, 416)), compat.RTMO(str(path), (416, 416))
    count = 0
    for photograph in sorted((shared / "data").glob("*/*.jpg"))[::3]:
        image = read(photograph)
        wanted, found = theirs(image, score_thr=0.1), ours(image, score_thr=0.1)
        count += len(found[0])
        if wanted[0].any():
            np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=0.01)
            np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-4)
        else:
            assert not len(found[0])
    assert count > 10


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_suppression_as_rtmlib(count: int) -> None:
    theirs = pytest.importorskip("rtmlib.tools.object_detection.post_processings")
    rng = np.random.default_rng(count)
    for _ in range(20):
        corners = rng.uniform(0, 60, (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(0, 40, (count, 2))]).astype(np.float32)
        scores = rng.integers(0, 10, (count, 3)).astype(np.float32) / 10  # with ties
        np.testing.assert_array_equal(nms(boxes, scores[:, 0], 0.3), theirs.nms(boxes, scores[:, 0], 0.3))
        found, wanted = multiclass_nms(boxes, scores, 0.3, 0.4), theirs.multiclass_nms(boxes, scores, 0.3, 0.4)
        for mine, other in zip(found, wanted, strict=True):
            assert (mine is None) == (other is None)
            if other is not None:
                np.testing.assert_array_equal(mine, other)


def test_suppression_by_hand() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [0, 5, 9, 14], [50, 50, 59, 59]], np.float32)
    scores = np.array([0.8, 0.9, 0.85, 0.1])
    # With sides of 10 pixels the third overlaps the second by 50 of 150.
    assert [int(index) for index in nms(boxes, scores, 0.34)] == [1, 2, 3]
    assert [int(index) for index in nms(boxes, scores, 0.33)] == [1, 3]


def test_openpose_by_hand() -> None:
    keypoints = np.arange(34, dtype=np.float32).reshape(1, 17, 2)
    scores = np.linspace(0, 1, 17, dtype=np.float32)[None]
    points, found = convert_coco_to_openpose(keypoints, scores)
    assert points.shape == (1, 18, 2)
    assert points.dtype == found.dtype == np.float32
    assert points[0, 1].tolist() == [11, 12]  # between the shoulders
    assert found[0, 1] == scores[0, 5]
    order = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    np.testing.assert_array_equal(np.delete(points[0], 1, axis=0), keypoints[0, order])


def test_raw_graphs_and_fixed_batches_run_too(
    checkpoint_n: Path, static_model: Path, tmp_path: Path, images: list[NDArray[np.uint8]]
) -> None:
    wanted = compat.RTMO(checkpoint_n, SIZE, score_thr=0.2)(images[1])
    assert len(wanted[0]) > 1
    export_onnx(load_checkpoint(checkpoint_n), tmp_path / "raw.onnx", ExportOptions(decode="raw"), verify=False)
    for path in (tmp_path / "raw.onnx", static_model):
        found = compat.RTMO(path, SIZE, score_thr=0.2)(images[1])
        np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=0.02)


def test_a_model_of_one_size_says_which(static_model: Path) -> None:
    with pytest.raises(UsageError, match=r"model_input_size=\(256, 256\)"):
        compat.RTMO(str(static_model))
    with pytest.raises(UsageError, match="multiples of 32"):
        compat.RTMO(str(static_model), (250, 256))


def test_backends(
    model: Path, checkpoint_n: Path, images: list[NDArray[np.uint8]], caplog: pytest.LogCaptureFixture
) -> None:
    for backend in ("opencv", "tensorrt", "torch", "ncnn"):
        with pytest.raises(UsageError):
            compat.RTMO(str(model), SIZE, backend=backend)
    for device in ("mps", "rocm", "gpu", "npu", "cuda:x"):
        with pytest.raises(UsageError, match="no device"):
            compat.RTMO(str(model), SIZE, device=device)
    with caplog.at_level(logging.WARNING):
        ours = compat.RTMO(str(checkpoint_n), SIZE)
    assert "it runs in torch" in caplog.text
    assert (ours.backend, ours.device) == ("torch", "cpu")
    for nothing, what in ((None, r"this is NoneType\..*cv2\.imread gives None"), ("a.jpg", "this is str")):
        with pytest.raises(UsageError, match=what):
            ours(nothing)
    with pytest.raises(UsageError, match="uint8"):
        ours(images[0].astype(np.float32))
    with pytest.raises(UsageError, match="uint8"):
        ours(images[0][..., 0])
    with pytest.raises(ArtifactError):
        compat.RTMO("there-is-no-such.onnx")


def test_openvino_as_rtmlib(
    model: Path, images: list[NDArray[np.uint8]], openvino_compiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rtmlib leaves the precision to OpenVINO, which takes bfloat16 where the CPU has it; here it is float32."""
    import openvino

    class InFloat32(openvino.Core):  # type: ignore[misc]
        def compile_model(self, *, config: dict[str, str], **options: Any) -> Any:
            return super().compile_model(config=config | {"INFERENCE_PRECISION_HINT": "f32"}, **options)

    with monkeypatch.context() as patch:
        patch.setattr(openvino, "Core", InFloat32)
        theirs = original().RTMO(str(model), SIZE, score_thr=0.2, backend="openvino")
    ours = compat.RTMO(str(model), SIZE, score_thr=0.2, backend="openvino", device="CPU")
    wanted, found = theirs(images[3]), ours(images[3])
    assert found[0].shape == wanted[0].shape
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=0.01)


def test_openpose_needs_cocos_keypoints(tmp_path: Path) -> None:
    from golden import golden_model

    from rtmo_deploy.model import NetworkSpec, save_checkpoint
    from rtmo_deploy.zoo import ARCHITECTURES, CROWDPOSE_14

    network = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 14), bias=(-2, -1))
    save_checkpoint(tmp_path / "crowd.pth", network, skeleton=CROWDPOSE_14, input_hw=SIZE)
    with pytest.raises(UsageError, match="14 keypoints"):
        compat.RTMO(tmp_path / "crowd.pth", SIZE, to_openpose=True)
    keypoints, scores = compat.RTMO(tmp_path / "crowd.pth", SIZE)(np.zeros((64, 64, 3), np.uint8))
    assert keypoints.shape[1:] == (14, 2)
    assert scores.shape[1:] == (14,)


# Solutions


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, model: Path) -> list[str]:
    """Addresses that were asked for; what comes is a small model."""
    asked: list[str] = []

    def fetch(url: str) -> Path:
        asked.append(url)
        return model

    monkeypatch.setattr(rtmo_module, "locate_model", fetch)
    return asked


def test_body_takes_the_model_of_its_mode(fetched: list[str], images: list[NDArray[np.uint8]]) -> None:
    sizes = {"performance": "rtmo-l", "balanced": "rtmo-m", "lightweight": "rtmo-s"}
    for mode, name in sizes.items():
        body = compat.Body(pose="rtmo", mode=mode)
        assert f"/onnx_sdk/{name}_" in fetched[-1]
        assert "body7-640x640" in fetched[-1]
        assert fetched[-1].endswith(".zip")
        assert body.pose_model.model_input_size == (640, 640)
    compat.Body()
    assert "rtmo-m" in fetched[-1]
    keypoints, scores = compat.Body(pose="rtmo-s.onnx", to_openpose=True)(images[0])
    assert keypoints.shape[1:] == (18, 2)
    assert scores.shape[1:] == (18,)


def test_body_takes_rtmlibs_addresses() -> None:
    assert original().Body.RTMO_MODE == compat.Body.RTMO_MODE


def test_body_says_what_it_runs_instead(
    fetched: list[str], caplog: pytest.LogCaptureFixture, model: Path, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        compat.Body(pose="rtmo")
        assert not caplog.records
        compat.Body()
        assert "not YOLOX and RTMPose" in caplog.text
        own = tmp_path / "my-rtmo.onnx"
        own.write_bytes(b"")
        compat.Body(pose=str(own))
        assert f"not {own}" in caplog.text


def test_what_is_not_rtmo_is_refused() -> None:
    others = ("Wholebody", "Wholebody3d", "Hand", "BodyWithFeet", "Animal", "YOLOX", "RTMDet", "RTMPose", "ViTPose")
    for name in others:
        with pytest.raises(UsageError, match=f"(?s){name}.*pip install --no-deps rtmlib"):
            getattr(compat, name)("model.onnx", mode="balanced")
    with pytest.raises(UsageError, match="pip install --no-deps rtmlib"):
        compat.Body(pose="rtmpose-m.onnx")
    with pytest.raises(UsageError, match="pip install --no-deps rtmlib"):
        compat.Body(det="yolox.onnx", pose="rtmo")
    with pytest.raises(UsageError, match="mode"):
        compat.Body(mode="fast")
    with pytest.raises(UsageError, match="YOLOX"):
        compat.Custom(det_class="YOLOX", pose_class="RTMO", pose="m.onnx")
    with pytest.raises(UsageError, match="RTMPose"):
        compat.Custom(pose_class="RTMPose", pose="m.onnx")
    with pytest.raises(UsageError, match="no model"):
        compat.Custom(pose_class="RTMO")
    with pytest.raises(UsageError, match="PoseTracker"):
        compat.PoseTracker(lambda **_: object())


def test_the_calls_of_pose2sim(onnx_n: Path, images: list[NDArray[np.uint8]]) -> None:
    """A dictionary as mode: sizes are lists, and what it lacks is None."""
    mode = {"pose_class": "RTMO", "pose_model": str(onnx_n), "pose_input_size": [256, 256]}
    solution = partial(
        compat.Custom,
        det_class=mode.get("det_class"),
        det=mode.get("det_model"),
        det_input_size=mode.get("det_input_size"),
        pose_class=mode["pose_class"],
        pose=mode["pose_model"],
        pose_input_size=mode["pose_input_size"],
    )
    tracker = compat.PoseTracker(
        solution,
        det_frequency=4,
        mode=mode,
        backend="onnxruntime",
        device="cpu",
        tracking=False,
        to_openpose=False,
    )
    assert tracker.det_model is None
    direct = compat.RTMO(str(onnx_n), SIZE)
    for image in images:
        keypoints, scores = tracker(image)
        for found, wanted in zip((keypoints, scores), direct(image), strict=True):
            np.testing.assert_array_equal(found, wanted)
        # What is done with them next, nobody included.
        likely = scores.mean(axis=1) > 0.2
        boxes = np.hstack([keypoints[likely].min(axis=1), keypoints[likely].max(axis=1)])
        assert len(nms(boxes, scores[likely].mean(axis=1), nms_thr=0.45)) <= len(tracker.bboxes)
    assert tracker.track_ids is None
    assert tracker.track_ids_last_frame == []


# Tracking


class Scripted(compat.RTMO):
    """Finds the people that stand at these places, best score first as given."""

    def __init__(self, *, to_openpose: bool = False, **_: Any) -> None:
        self.to_openpose, self.strict_compat = to_openpose, False
        self.places: list[tuple[float, float]] = []
        self.poses = Poses.empty(COCO_17)

    def __call__(self, *_: Any) -> Any:
        centres = np.array(self.places, np.float32).reshape(-1, 1, 2)
        offsets = np.random.default_rng(5).uniform(-1, 1, (17, 2)).astype(np.float32) * [20, 60]
        keypoints = (centres + offsets).astype(np.float32)
        boxes = np.hstack([keypoints.min(axis=1), keypoints.max(axis=1)])
        scores = np.full((len(centres), 17), 0.9, np.float32)
        self.poses = Poses(boxes, scores[:, 0], keypoints, scores, COCO_17)
        return convert_coco_to_openpose(keypoints, scores) if self.to_openpose else (keypoints, scores)


class Scene:
    """A solution whose model is scripted."""

    def __init__(self, **options: Any) -> None:
        self.pose_model = Scripted(**options)


@pytest.mark.parametrize("openpose", [False, True])
def test_ids_stay_when_somebody_leaves(openpose: bool) -> None:
    """rtmlib's ids become row numbers, and from then on all change in every frame."""
    tracker = compat.PoseTracker(Scene, to_openpose=openpose)
    image = np.zeros((400, 900, 3), np.uint8)
    where: dict[int, float] = {}
    for frame in range(40):
        here = [(150 + frame, 200), (450 + frame, 200), (750 - frame, 200)]
        present = here if frame < 15 else here[1:]
        tracker.pose_model.places = present[::-1] if frame % 2 else present
        keypoints, scores = tracker(image)
        ids = tracker.track_ids_last_frame
        assert len(keypoints) == len(scores) == len(present) == len(ids)
        assert sorted(ids) == ids
        for row, number in enumerate(ids):
            x = float(keypoints[row, 0, 0])
            assert abs(x - where.get(number, x)) < 5, f"frame {frame}: id {number} jumped"
            assert tracker.bboxes[row, 0] <= x <= tracker.bboxes[row, 2]
            where[number] = x
        assert set(ids) == ({1, 2, 3} if frame < 15 else set(ids))
    assert len(where) == 3
    tracker.reset()
    assert tracker.track_ids_last_frame == []
    assert tracker.track_ids is not None
    tracker.pose_model.places = [(300, 200)]
    tracker(image)
    assert tracker.track_ids_last_frame == [1]


def test_small_people_are_kept_and_nobody_is_empty() -> None:
    tracker = compat.PoseTracker(Scene)
    image = np.zeros((100, 100, 3), np.uint8)
    keypoints, scores = tracker(image)
    assert keypoints.shape == (0, 17, 2)
    assert scores.shape == (0, 17)
    assert tracker.bboxes.shape == (0, 4)
    tracker.pose_model.places = [(50, 50)]
    assert len(tracker(image, time_s=3.0)[0]) == 1


def test_tracking_real_results(onnx_n: Path, images: list[NDArray[np.uint8]]) -> None:
    solution = partial(compat.Custom, pose_class="RTMO", pose=str(onnx_n), pose_input_size=SIZE, strict_compat=True)
    tracker = compat.PoseTracker(solution)
    for _ in range(3):
        keypoints, scores = tracker(images[0])
        assert len(keypoints) == len(scores) == len(tracker.bboxes) == len(tracker.poses)
    nobody = tracker(images[-1])
    assert len(nobody[0]) == len(tracker.poses)


# Drawing


def people(count: int, joints: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(count + joints)
    points = rng.uniform(-30, 260, (count, joints, 2)).astype(np.float32)
    return points, rng.uniform(0, 1, (count, joints)).astype(np.float32)


@pytest.mark.parametrize(("joints", "openpose"), [(17, False), (18, True)])
@pytest.mark.parametrize("widths", [{}, {"radius": 5, "line_width": 1, "kpt_thr": 0.2}])
def test_drawing_as_rtmlib(joints: int, openpose: bool, widths: dict[str, Any]) -> None:
    draw = original().draw_skeleton
    rng = np.random.default_rng(1)
    for count in range(4):
        image = rng.integers(0, 255, (200, 240, 3), np.uint8)
        mine, theirs = image.copy(), image.copy()
        found = compat.draw_skeleton(mine, *people(count, joints), openpose, **widths)
        wanted = draw(theirs, *people(count, joints), openpose, **widths)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(mine, theirs)  # in place, or not
        np.testing.assert_array_equal(
            compat.draw_bbox(image.copy(), people(count, 2)[0].reshape(-1, 4)),
            original().draw_bbox(image.copy(), people(count, 2)[0].reshape(-1, 4)),
        )


def test_drawing_by_hand() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    points, scores = np.zeros((17, 2), np.float32), np.zeros(17, np.float32)
    points[5], points[7], scores[[5, 7]] = (20, 20), (60, 20), 0.5  # left shoulder and elbow
    points[0], scores[0] = (np.nan, 3), 1
    points[16], scores[16] = (1e30, 3), 1
    points[1], scores[1] = (50, 80), 0.49
    assert compat.draw_skeleton(image, points, scores) is image
    assert image[20, 40].tolist() == [0, 255, 0]
    assert not image[30:].any()
    assert compat.draw_skeleton(image, points[None][:0], scores[None][:0]) is image


def test_drawing_other_skeletons() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    points = np.array([[[100, 100], [20, 30]]], np.float32)
    assert compat.draw_skeleton(image, points, np.ones((1, 2)))[30, 20].any()
    assert compat.draw_skeleton(image, *people(1, 14)).any()
    with pytest.raises(UsageError, match="18 keypoints"):
        compat.draw_skeleton(image, *people(1, 17), openpose_skeleton=True)
