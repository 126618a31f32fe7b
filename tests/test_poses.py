"""The currency: skeletons and poses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.zoo import COCO_17, CROWDPOSE_14

TWO = Skeleton("two", ("left_a", "b"), edges=((0, 1),))


def some(count=3, skeleton=TWO):
    rng = np.random.default_rng(count)
    joints = len(skeleton)
    return Poses(
        rng.uniform(0, 50, (count, 4)),
        np.linspace(0.9, 0.2, count),
        rng.uniform(0, 50, (count, joints, 2)),
        rng.uniform(0, 1, (count, joints)),
        skeleton,
    )


class TestSkeleton:
    @pytest.mark.parametrize("skeleton", [COCO_17, CROWDPOSE_14, TWO, Skeleton.generic(5)], ids=lambda one: one.name)
    def test_survives_json(self, skeleton):
        assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton

    def test_sides(self):
        skeleton = Skeleton("s", ("nose", "left_eye", "right_eye", "right_ear", "upright"))
        assert [skeleton.side(i) for i in range(5)] == ["centre", "left", "right", "right", "centre"]
        sides = {(0, 1): "left", (1, 0): "left", (2, 3): "right", (1, 2): "centre", (0, 4): "centre"}
        assert {edge: skeleton.edge_side(edge) for edge in sides} == sides

    @pytest.mark.parametrize("skeleton", [COCO_17, CROWDPOSE_14], ids=lambda one: one.name)
    def test_mirroring_swaps_left_and_right_and_back(self, skeleton):
        order = skeleton.flip_indices()
        assert sorted(order) == list(range(len(skeleton)))
        for index, other in enumerate(order):
            assert order[other] == index
            swapped = {"left": "right", "right": "left", "centre": "centre"}[skeleton.side(index)]
            assert skeleton.side(other) == swapped

    def test_generic(self):
        skeleton = Skeleton.generic(3)
        assert (skeleton.name, skeleton.keypoints) == ("generic-3", ("keypoint_0", "keypoint_1", "keypoint_2"))
        assert skeleton.flip_indices() == (0, 1, 2)

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"edges": ((0, 2),)}, r"edge \(0, 2\) is outside 0\.\.1"),
            ({"edges": ((-1, 0),)}, "edge"),
            ({"flip_pairs": ((0, 5),)}, "flip pair"),
            ({"sigmas": (0.1,)}, "1 sigmas for 2 keypoints"),
        ],
    )
    def test_nonsense(self, fields, words):
        with pytest.raises(ValueError, match=words):
            Skeleton("x", ("a", "b"), **fields)

    def test_lists_are_as_good_as_tuples(self):
        lists = Skeleton("x", ["a", "b"], [[0, 1]], np.array([[0, 1]]), np.array([0.5, 0.25]))
        assert lists == Skeleton("x", ("a", "b"), ((0, 1),), ((0, 1),), (0.5, 0.25))
        assert len({lists, Skeleton.from_dict(lists.to_dict())}) == 1
        with pytest.raises(ValueError, match="x: edges is"):
            Skeleton("x", ("a", "b"), edges=((0, 1, 1),))

    @pytest.mark.parametrize(
        "data",
        [{}, {"name": "x"}, {"name": "x", "keypoints": 5}, {"name": "x", "keypoints": ["a"], "edges": [[0]]}],
    )
    def test_a_dictionary_of_something_else(self, data):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Skeleton.from_dict(data)


class TestPoses:
    def test_float32_whatever_comes_in(self):
        poses = Poses([[0, 0, 1, 1]], [1], [[[0, 0], [1, 1]]], [[1, 0]], TWO)
        assert {getattr(poses, n).dtype.name for n in ("boxes", "scores", "keypoints", "keypoint_scores")} == {
            "float32"
        }

    @pytest.mark.parametrize("field", ["boxes", "scores", "keypoints", "keypoint_scores"])
    def test_shapes_must_fit(self, field):
        arrays = {name: getattr(some(3), name) for name in ("boxes", "scores", "keypoints", "keypoint_scores")}
        arrays[field] = arrays[field][:2]
        with pytest.raises(ValueError, match="has shape"):
            Poses(**arrays, skeleton=TWO)
        with pytest.raises(ValueError, match=r"Poses\.keypoints has shape"):
            Poses(**{name: getattr(some(3), name) for name in arrays}, skeleton=COCO_17)

    def test_lists_of_nobody(self):
        assert Poses([], [], [], [], TWO).keypoints.shape == (0, 2, 2)

    @pytest.mark.parametrize(
        "more", [{"image_hw": (5,)}, {"image_hw": "5x5"}, {"track_ids": [1.5, 2, 3]}, {"track_ids": [1]}]
    )
    def test_other_numbers_are_refused(self, more):
        with pytest.raises(ValueError, match=f"Poses.{next(iter(more))}"):
            replace(some(3), **more)
        assert replace(some(3), image_hw=np.array([4, 5])).image_hw == (4, 5)

    def test_nobody(self):
        nobody = Poses.empty(COCO_17)
        assert len(nobody) == 0
        assert (nobody.boxes.shape, nobody.keypoints.shape) == ((0, 4), (0, 17, 2))
        assert nobody.to_dict() == []
        assert list(nobody) == []

    @given(st.integers(0, 6), st.data())
    def test_selecting(self, count, data):
        poses = some(count)
        index = data.draw(
            st.one_of(
                st.slices(count),
                st.lists(st.booleans(), min_size=count, max_size=count),
                st.lists(st.integers(-count, count - 1), max_size=5) if count else st.just([]),
            )
        )
        chosen = poses[index]
        numbers = np.arange(count)[index if isinstance(index, slice) else np.array(index, None if index else int)]
        assert np.array_equal(chosen.scores, poses.scores[numbers])
        assert np.array_equal(chosen.keypoints, poses.keypoints[numbers])
        assert chosen.skeleton is poses.skeleton

    def test_one_person(self):
        poses = some(3)
        assert poses[1].boxes.tolist() == poses.boxes[1:2].tolist()
        assert [one.scores.tolist() for one in poses] == [[score] for score in poses.scores.tolist()]
        with pytest.raises(IndexError):
            poses[3]

    def test_as_json(self):
        poses = some(2)
        people = json.loads(json.dumps(poses.to_dict(), allow_nan=False))
        assert [set(person) for person in people] == [{"box", "score", "keypoints"}] * 2
        assert np.allclose([person["box"] for person in people], poses.boxes)
        rows = np.array([person["keypoints"] for person in people], np.float32)
        assert np.array_equal(rows[..., :2], poses.keypoints)
        assert np.array_equal(rows[..., 2], poses.keypoint_scores)
