"""What poses can be turned into: drawings, cut-outs, tables, other packages' forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import InputDataError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.runtime import draw_poses
from rtmo_deploy.zoo import COCO_17

TWO = Skeleton("two", ("a", "a"), edges=((0, 1),))
IMAGE = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def some(count=3, skeleton=COCO_17, **more):
    rng = np.random.default_rng(count)
    corners = rng.uniform(5, 30, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 20, (count, 2))], axis=1)
    points = rng.uniform(5, 50, (count, len(skeleton), 2))
    return Poses(
        boxes, np.linspace(0.9, 0.4, count), points, rng.uniform(0, 1, (count, len(skeleton))), skeleton,
        image_hw=(60, 90), **more,
    )  # fmt: skip


class TestImages:
    def test_plot(self, tmp_path):
        poses = some(source=IMAGE)
        drawn = poses.plot()
        assert np.array_equal(drawn, draw_poses(IMAGE, poses[:2]))  # the third is not above 0.5
        assert np.array_equal(poses.plot(score_thr=0, boxes=False), draw_poses(IMAGE, poses, boxes=False))
        assert np.array_equal(
            poses.plot(kpt_thr=2, labels=False), draw_poses(IMAGE, poses[:2], keypoint_thr=2, labels=False)
        )
        poses.save(tmp_path / "new" / "d.png")
        poses.save(str(tmp_path / "e.png"), score_thr=0)
        assert np.array_equal(read_image(tmp_path / "new" / "d.png"), drawn)
        assert np.array_equal(cv2.imdecode(np.frombuffer(poses._repr_png_(), np.uint8), 1), drawn)
        with pytest.raises(UsageError, match="suffix"):
            poses.save(tmp_path / "d.txt")

    def test_the_image_is_read_again(self, tmp_path):
        path = tmp_path / "a.png"
        cv2.imwrite(str(path), IMAGE)
        for source in (path, str(path), path.read_bytes()):
            assert np.array_equal(some(source=source).plot(), some().plot(IMAGE))
        cv2.imwrite(str(path), IMAGE[:9])
        with pytest.raises(UsageError, match=r"90x9 pixels.*90x60"):
            some(source=path).plot()
        path.unlink()
        with pytest.raises(InputDataError, match="cannot be opened"):
            some(source=path).plot()

    @pytest.mark.parametrize("value", [None, "0.5", float("nan")])
    def test_thresholds_are_numbers(self, value):
        poses = some(source=IMAGE)
        for draw in (lambda: poses.plot(score_thr=value), lambda: poses.plot(kpt_thr=value)):
            with pytest.raises(UsageError, match="_thr is"):
                draw()
        with pytest.raises(UsageError, match="margin is"):
            poses.crop(margin=value)

    def test_without_an_image(self):
        poses = some()
        assert poses._repr_png_() is None
        for method in (poses.plot, poses.show, poses.crop, lambda: poses.save("a.png")):
            with pytest.raises(UsageError, match="Give it: image="):
                method()

    def test_crop(self):
        poses = some(source=IMAGE)
        for piece, (x1, y1, x2, y2) in zip(poses.crop(margin=0), np.rint(poses.boxes).astype(int), strict=True):
            assert np.array_equal(piece, IMAGE[y1:y2, x1:x2])
            assert not np.shares_memory(piece, IMAGE)
        assert all(
            large.size > small.size for large, small in zip(poses.crop(margin=0.2), poses.crop(margin=0), strict=True)
        )
        assert all(piece.shape == IMAGE.shape for piece in poses.crop(margin=50))
        outside = replace(poses[0], boxes=np.array([[-50, -50, -20, -20]]))
        assert [piece.size for piece in outside.crop()] == [0]
        assert Poses.empty(COCO_17).crop(image=IMAGE) == []

    def test_show(self, monkeypatch):
        shown = []
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr("PIL.Image.Image.show", lambda image: shown.append(np.asarray(image)))
        some(source=IMAGE).show(score_thr=0.6)
        assert np.array_equal(shown[0][..., ::-1], some().plot(IMAGE, score_thr=0.6))
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("sys.platform", "linux")
        with pytest.raises(SetupError, match="no display"):
            some(source=IMAGE).show()


class TestForms:
    def test_shares(self):
        poses = some()
        assert np.allclose(poses.xyn * [90, 60], poses.keypoints)
        assert np.allclose(poses.xyxyn * [90, 60, 90, 60], poses.boxes)
        assert poses.xyn.dtype == poses.xyxyn.dtype == np.float32
        with pytest.raises(UsageError, match="size is not known"):
            _ = replace(poses, image_hw=None).xyn

    def test_json_and_coco(self):
        poses = some()
        assert json.loads(poses.to_json()) == json.loads(json.dumps(poses.to_dict()))
        entries = json.loads(json.dumps(poses.to_coco(np.int64(7), category_id=3)))
        assert {(entry["image_id"], entry["category_id"]) for entry in entries} == {(7, 3)}
        for entry, person in zip(entries, poses, strict=True):
            points = np.reshape(entry["keypoints"], (17, 3))
            assert np.allclose(points, np.dstack([person.keypoints, person.keypoint_scores])[0])
            x, y, width, height = entry["bbox"]
            assert np.allclose([x, y, x + width, y + height], person.boxes[0])
        assert Poses.empty(COCO_17).to_coco(1) == []

    @pytest.mark.parametrize("backend", ["polars", "pandas"])
    @pytest.mark.parametrize("count", [0, 3])
    def test_data_frames(self, backend, count):
        package = pytest.importorskip(backend)
        poses = some(count, source="a.png", track_ids=np.arange(count) - 1)
        frame = poses.to_dataframe(backend)
        assert isinstance(frame, package.DataFrame)
        assert frame.shape == (count, 8 + 3 * 17)
        assert list(frame.columns[:9]) == ["image", "person", "track_id", "score", "x1", "y1", "x2", "y2", "nose_x"]
        assert str(frame["track_id"].dtype) == "Int64"
        if count:
            assert list(frame["image"]) == ["a.png"] * 3
            assert (frame["track_id"].is_null() if backend == "polars" else frame["track_id"].isna()).to_list() == [
                True,
                False,
                False,
            ]
            assert np.array_equal(frame["right_ankle_score"].to_numpy(), poses.keypoint_scores[:, 16])
            assert np.array_equal(frame["y2"].to_numpy(), poses.boxes[:, 3])
        twice = some(1, TWO, source=b"").to_dataframe(backend)
        assert {"a_0_x", "a_1_score"} <= set(twice.columns)
        assert twice["image"].to_list() == [None]

    def test_data_frames_that_cannot_be(self, monkeypatch):
        with pytest.raises(UsageError, match="polars"):
            some().to_dataframe("spark")
        for backend, extra in (("polars", "table"), ("pandas", "pandas")):
            monkeypatch.setitem(sys.modules, backend, None)
            with pytest.raises(MissingDependencyError, match=rf"pip install 'rtmo-deploy\[{extra}\]'"):
                some().to_dataframe(backend)


class TestSupervision:
    @settings(deadline=None)  # the first one imports supervision
    @given(st.integers(0, 5), st.booleans(), st.sampled_from([COCO_17, TWO]))
    def test_there_and_back(self, count, tracked, skeleton):
        poses = some(count, skeleton, track_ids=np.arange(count) - 1 if tracked else None)
        key_points = poses.to_supervision()
        back = Poses.from_supervision(key_points, skeleton)
        for name in ("boxes", "scores", "keypoints", "keypoint_scores"):
            assert np.array_equal(getattr(back, name), getattr(poses, name))
        assert (back.track_ids is None) == (poses.track_ids is None)
        assert not tracked or np.array_equal(back.track_ids, poses.track_ids)
        assert back.image_hw == (poses.image_hw if count else None)

    def test_it_is_what_supervision_makes_of_it(self):
        sv = pytest.importorskip("supervision")
        poses = some(track_ids=[4, -1, 5])
        key_points = poses.to_supervision()
        assert np.array_equal(key_points[1:].keypoint_confidence, poses.keypoint_scores[1:])
        assert np.array_equal(key_points[key_points.detection_confidence > 0.5].data["xyxy"], poses.boxes[:2])
        scene = sv.VertexAnnotator(radius=2).annotate(IMAGE.copy(), key_points)
        assert (scene != IMAGE).any()
        detections = poses.to_detections()
        assert np.array_equal(detections.xyxy, poses.boxes)
        assert detections.tracker_id.tolist() == [4, -1, 5]
        assert (sv.BoxAnnotator().annotate(IMAGE.copy(), detections) != IMAGE).any()
        assert len(some(0).to_detections()) == len(some(0).to_supervision()) == 0

    def test_boxes_have_no_keypoints(self):
        with pytest.raises(UsageError, match="Detections has no keypoints"):
            Poses.from_supervision(some().to_detections(), COCO_17)

    def test_key_points_of_another_model(self):
        sv = pytest.importorskip("supervision")
        poses = Poses.from_supervision(sv.KeyPoints(xy=np.array([[[1, 5], [3, 2]]], np.float32)), TWO)
        assert poses.boxes.tolist() == [[1, 2, 3, 5]]
        assert poses.scores.tolist() == [1]
        assert poses.keypoint_scores.tolist() == [[1, 1]]
        assert len(Poses.from_supervision(sv.KeyPoints.empty(), COCO_17)) == 0
        with pytest.raises(UsageError, match="2 keypoints, and the skeleton coco-17 has 17"):
            Poses.from_supervision(sv.KeyPoints(xy=np.zeros((1, 2, 2), np.float32)), COCO_17)


def test_poses_alone_load_nothing_of_this():
    code = "import sys, rtmo_deploy.poses; sys.exit(bool({'cv2', 'PIL', 'requests', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0
