"""Outputs to people in NumPy: against PyTorch, against brute force, and rows that are nobody."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.artifact import DecodeContract, DecodeMode
from rtmo_deploy.model import RTMO, HeadOutputs, NetworkSpec
from rtmo_deploy.model import head as torch_head
from rtmo_deploy.model.dcc import boxes_to_center_scale
from rtmo_deploy.model.head import box_iou, non_maximum_suppression
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.runtime.decode import decode_boxes, decode_raw, grid_priors, rows_to_poses, sigmoid
from rtmo_deploy.runtime.rows import greedy_nms, iou
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17

ONNX = DecodeContract(DecodeMode.ONNX)
JUNK = DecodeContract(DecodeMode.ONNX, junk_rows=True)
RAW = DecodeContract(DecodeMode.RAW)
TWO = Skeleton("two", ("a", "b"))

#: Corners on a coarse grid: equal boxes, boxes without area and overlaps of exactly a half come up all the time.
corner = st.integers(0, 6)
boxes_and_scores = st.lists(
    st.tuples(corner, corner, corner, corner, st.sampled_from([0.2, 0.4, 0.5, 0.9])), max_size=24
).map(
    lambda rows: (
        np.array([[x, y, x + w, y + h] for x, y, w, h, _ in rows], np.float32).reshape(-1, 4),
        np.array([row[4] for row in rows], np.float32),
    )
)


def survivors(boxes, scores, threshold):
    """Suppression from its definition: best first, each against everybody better who survived."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        for j in kept:
            low, high = np.maximum(boxes[i][:2], boxes[j][:2]), np.minimum(boxes[i][2:], boxes[j][2:])
            shared = float(np.prod(np.maximum(high - low, 0)))
            areas = [float(np.prod(boxes[k][2:] - boxes[k][:2])) for k in (i, j)]
            if shared / max(sum(areas) - shared, 1e-6) > threshold:
                break
        else:
            kept.append(i)
    return kept


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
def test_sigmoid(values):
    values = np.array(values, np.float32)
    assert np.allclose(sigmoid(values), torch.from_numpy(values).sigmoid(), atol=1e-6, rtol=1e-5)
    assert sigmoid(values).dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (384, 640), (640, 384), (416, 416)])
def test_cells_are_those_of_the_network(height, width):
    sizes = [(height // stride, width // stride) for stride in (16, 32)]
    expected = torch_head.grid_priors(sizes)
    assert np.array_equal(grid_priors(height, width), expected)
    assert grid_priors(height, width)[0].tolist() == [7.5, 7.5, 16]
    raw = torch.from_numpy(np.random.default_rng(0).normal(size=(2, len(expected), 4)).astype(np.float32))
    boxes = decode_boxes(raw.numpy(), expected.numpy())
    assert np.allclose(boxes, torch_head.decode_boxes(raw, expected), atol=1e-4, rtol=1e-6)


@given(boxes_and_scores, st.sampled_from([0.0, 0.25, 0.5, 0.65, 1.0]))
def test_suppression_is_pytorchs_and_brute_forces(drawn, threshold):
    boxes, scores = drawn
    kept = greedy_nms(boxes, scores, threshold).tolist()
    assert kept == non_maximum_suppression(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).tolist()
    assert kept == survivors(boxes, scores, threshold)


@given(boxes_and_scores)
def test_overlaps_are_pytorchs(drawn):
    boxes, _ = drawn
    expected = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    for box, row in zip(boxes, expected, strict=True):
        assert np.array_equal(iou(box, boxes), row)


def test_an_infinite_box_is_neither_a_warning_nor_a_reason_to_drop_others():
    boxes = decode_boxes(np.array([[0, 0, 100, 100], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32), grid_priors(32, 32)[:3])
    assert np.isinf(boxes[0]).all()
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    expected = non_maximum_suppression(torch.from_numpy(boxes), torch.from_numpy(scores), 0.65).tolist()
    assert greedy_nms(boxes, scores, 0.65).tolist() == expected == [0, 1, 2]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return RTMO(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17)).eval()


class TestRaw:
    """Head tensors of a raw graph against the network's own decoder."""

    @staticmethod
    def tensors(network, seed, height, width, batch=2):
        rng = np.random.default_rng(seed)

        def level(channels, scale, shift=0.0):
            return tuple(
                torch.from_numpy(rng.normal(shift, scale, (batch, channels, height // s, width // s)).astype("f4"))
                for s in (16, 32)
            )

        shift = float(rng.choice([-30, -3, -1]))  # nobody, some, a crowd
        channels = network.spec.pose_vec_channels
        return HeadOutputs(level(1, 2, shift), level(4, 0.7, 0.5), level(17, 2), level(channels, 1))

    @staticmethod
    def joined(outputs):
        names = ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs")
        return {
            name: torch.cat([t.flatten(2).transpose(1, 2) for t in getattr(outputs, name)], dim=1).numpy()
            for name in names
        }

    @staticmethod
    def coordinates(network):
        @torch.no_grad()
        def run(pose_vecs, boxes, priors):
            dtype = next(network.parameters()).dtype
            vectors, corners, centres = (torch.from_numpy(value).to(dtype) for value in (pose_vecs, boxes, priors))
            return network.head.dcc(vectors, boxes_to_center_scale(corners), centres).numpy()

        return run

    @settings(max_examples=8, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        sides=st.sampled_from([(32, 32), (64, 96), (128, 96)]),
        score_thr=st.sampled_from([0.1, 0.5]),
        nms_thr=st.sampled_from([0.3, 0.65]),
    )
    def test_is_what_the_network_decodes(self, network, seed, sides, score_thr, nms_thr):
        outputs = self.tensors(network, seed, *sides)
        with torch.no_grad():
            expected = network.head.decode(outputs, sides, score_thr=score_thr, nms_thr=nms_thr)
        contract = DecodeContract(DecodeMode.RAW, score_thr, nms_thr)
        found = decode_raw(self.joined(outputs), sides, contract, COCO_17, self.coordinates(network))
        for one, two in zip(expected, found, strict=True):
            assert len(one.scores) == len(two)
            assert np.allclose(one.scores, two.scores, atol=1e-6)
            assert np.allclose(one.boxes, two.boxes, atol=1e-3)
            assert np.allclose(one.keypoints, two.keypoints, atol=0.1)  # random weights: flat heatmaps, more noise
            assert np.allclose(one.keypoint_scores, two.keypoint_scores, atol=1e-6)
            assert (two.boxes >= 0).all()
            assert (two.boxes <= [sides[1], sides[0], sides[1], sides[0]]).all()

    def test_limits(self, network):
        outputs = self.joined(self.tensors(network, 5, 160, 160))
        outputs["cls_scores"] += 5
        # float64: a matrix product of 3 rows sums up in another order than one of all rows, on some CPUs.
        call = ((160, 160), self.coordinates(copy.deepcopy(network).double()))
        everybody = decode_raw(outputs, call[0], RAW, COCO_17, call[1])
        assert min(len(one) for one in everybody) > 8
        few = decode_raw(outputs, call[0], DecodeContract(DecodeMode.RAW, max_dets=3), COCO_17, call[1])
        for one, two in zip(everybody, few, strict=True):
            assert np.array_equal(one.scores[:3], two.scores)
            assert np.allclose(one.keypoints[:3], two.keypoints, atol=1e-3)
        topped = decode_raw(outputs, call[0], DecodeContract(DecodeMode.RAW, pre_topk=7), COCO_17, call[1])
        for i in range(2):
            # By score: different logits can have equal scores.
            rest = np.argsort(-sigmoid(outputs["cls_scores"][i, :, 0]), kind="stable")[7:]
            outputs["cls_scores"][i, rest] = -50
        expected = decode_raw(outputs, call[0], RAW, COCO_17, call[1])
        for one, two in zip(expected, topped, strict=True):
            assert 1 <= len(two) <= 7
            assert np.array_equal(one.boxes, two.boxes)


def rows(*people):
    """``dets`` and ``keypoints`` of one image; a person is (x1, y1, x2, y2, score), its keypoints tell who it is."""
    dets = np.array(people, np.float32).reshape(1, -1, 5)
    points = np.arange(dets.shape[1] * 6, dtype=np.float32).reshape(1, -1, 2, 3)
    return dets, points


def who(poses, points):
    return [next(i for i in range(points.shape[1]) if np.array_equal(points[0, i, :, :2], k)) for k in poses.keypoints]


class TestRows:
    def test_order_thresholds_and_clipping(self):
        dets, points = rows(
            (10, 10, 20, 20, 0.3), (-5, 4, 40, 99, 0.8), (0, 0, 0, 0, 0), (1, 1, 2, 2, 0.1), (30, 30, 40, 40, 0.3)
        )
        (poses,) = rows_to_poses(dets, points, (64, 32), ONNX, TWO)
        assert who(poses, points) == [1, 0, 4]  # best first, equal scores keep their order, 0.1 is not above 0.1
        assert poses.boxes[0].tolist() == [0, 4, 32, 64]
        assert np.array_equal(poses.keypoint_scores, points[0, [1, 0, 4], :, 2])
        assert poses.skeleton is TWO

    def test_nobody(self):
        for count in (0, 3):
            dets, points = np.zeros((2, count, 5), np.float32), np.zeros((2, count, 2, 3), np.float32)
            found = rows_to_poses(dets, points, (64, 64), ONNX, TWO)
            assert [len(poses) for poses in found] == [0, 0]
            assert found[0].keypoints.shape == (0, 2, 2)

    def test_a_score_that_is_no_number_is_nobody(self):
        dets, points = rows((0, 0, 9, 9, np.nan), (0, 0, 9, 9, 0.5))
        (poses,) = rows_to_poses(dets, points, (64, 64), ONNX, TWO)
        assert who(poses, points) == [1]

    def test_repeated_rows_are_dropped_only_where_they_are_junk(self):
        dets, points = rows((0, 0, 9, 9, 0.5), (20, 20, 40, 40, 0.4), (0, 0, 9, 9, 0.5))
        assert who(rows_to_poses(dets, points, (64, 64), JUNK, TWO)[0], points) == [0, 1]
        assert who(rows_to_poses(dets, points, (64, 64), ONNX, TWO)[0], points) == [0, 2, 1]

    def test_a_junk_row_of_somebody_who_was_suppressed_is_dropped(self):
        dets, points = rows((10, 10, 50, 50, 0.5), (0, 0, 20, 20, 0.4), (11, 11, 50, 50, 0.45))
        assert who(rows_to_poses(dets, points, (64, 64), JUNK, TWO)[0], points) == [0, 1]

    def test_junk_is_judged_by_unclipped_boxes(self):
        # Two people far outside the image whose boxes coincide once they are clipped.
        dets, points = rows((-100, 0, 20, 64, 0.5), (0, 0, 20, 64, 0.4))
        (poses,) = rows_to_poses(dets, points, (64, 64), JUNK, TWO)
        assert len(poses) == 2
        assert np.array_equal(poses.boxes[0], poses.boxes[1])

    @given(boxes_and_scores)
    def test_survivors_of_a_suppression_survive_another_one(self, drawn):
        boxes, scores = drawn
        kept = greedy_nms(boxes, scores, 0.65)
        dets = np.concatenate([boxes, scores[:, None]], axis=1)[kept][None]
        unique = np.unique(dets[0], axis=0)
        points = np.zeros((1, len(kept), 2, 3), np.float32)
        (poses,) = rows_to_poses(dets, points, (64, 64), JUNK, TWO)
        assert len(poses) == len(unique)
