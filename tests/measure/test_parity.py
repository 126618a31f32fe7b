"""Two lists of people against each other: who is matched, and what of the difference is reported."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure import Case, Figures, compare_people
from rtmo_deploy.measure.bounds import EXACT
from rtmo_deploy.measure.tensors import TensorError, compare_tensors
from rtmo_deploy.poses import Poses, Skeleton

THREE = Skeleton("three", ("a", "b", "c"))
seeds = st.integers(0, 2**32 - 1)


def crowd(count, seed=0):
    """People far enough apart that there is no doubt who is who; best first."""
    rng = np.random.default_rng(seed)
    corner = np.stack([np.arange(count) * 100.0, rng.uniform(0, 400, count)], axis=1)
    size = rng.uniform(30, 90, (count, 2))
    boxes = np.concatenate([corner, corner + size], axis=1)
    points = corner[:, None] + rng.uniform(0, 1, (count, 3, 2)) * size[:, None]
    scores = 0.9 - 0.05 * np.arange(count) + rng.uniform(0, 0.02, count)  # nobody as good as somebody else
    return Poses(boxes, scores, points, rng.uniform(0, 1, (count, 3)), THREE)


def moved(poses, *, box=0.0, point=0.0, score=0.0, visibility=0.0, who=0):
    """A copy in which one person differs by this much."""
    arrays = [np.array(getattr(poses, name)) for name in ("boxes", "scores", "keypoints", "keypoint_scores")]
    arrays[0][who, 2] += box
    arrays[1][who] += score
    arrays[2][who, 1] += np.array([point * 0.6, point * 0.8])
    arrays[3][who, 2] += visibility
    return Poses(*arrays, skeleton=poses.skeleton)


def equal(figures):
    """Who is in both, missed and extra, and whether the order is kept; nothing may be off."""
    figures_off = (figures.box_px_max, figures.keypoint_px_max, figures.score_max, figures.keypoint_score_max)
    assert not any(figures_off)
    return figures.matched, figures.missed, figures.extra, figures.in_order


@given(st.integers(0, 12), seeds)
def test_the_same_people(count, seed):
    people = crowd(count, seed)
    assert equal(compare_people([people], [people])) == (count, 0, 0, True)


@given(st.permutations(range(7)), seeds)
def test_a_permutation_matches_everybody_and_tells_of_the_order(order, seed):
    people = crowd(7, seed)
    found = compare_people([people], [people[list(order)]])
    assert equal(found) == (7, 0, 0, list(order) == sorted(order))


@given(st.sets(st.integers(0, 8)), st.sets(st.integers(0, 8)), seeds)
def test_missed_and_extra_people_are_counted(left, right, seed):
    people = crowd(9, seed)
    one, two = people[sorted(left)], people[sorted(right)]
    assert equal(compare_people([one], [two])) == (len(left & right), len(left - right), len(right - left), True)


@given(st.integers(0, 4), st.floats(0.01, 5), st.floats(0.01, 5), st.floats(0.001, 0.1), st.floats(0.001, 0.1), seeds)
def test_each_difference_is_reported_in_its_own_place(who, box, point, score, visibility, seed):
    people = crowd(5, seed)
    found = compare_people([people], [moved(people, box=box, point=point, score=score, visibility=visibility, who=who)])
    assert (found.matched, found.missed, found.extra, found.in_order) == (5, 0, 0, True)
    assert found.box_px_max == pytest.approx(box, abs=1e-3)
    assert found.keypoint_px_max == pytest.approx(point, abs=1e-3)
    assert found.score_max == pytest.approx(score, abs=1e-5)
    assert found.keypoint_score_max == pytest.approx(visibility, abs=1e-5)


@given(seeds, st.floats(0, 0.5))
def test_noise_does_not_change_who_is_who(seed, scale):
    people = crowd(6, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(6)
    noisy = Poses(
        people.boxes + rng.uniform(-scale, scale, (6, 4)),
        people.scores,
        people.keypoints + rng.uniform(-scale, scale, (6, 3, 2)),
        people.keypoint_scores,
        THREE,
    )
    found = compare_people([people], [noisy[order]])
    assert (found.matched, found.missed, found.extra) == (6, 0, 0)
    assert found.box_px_max <= scale + 1e-3
    assert found.keypoint_px_max <= scale * 2**0.5 + 1e-3


@pytest.mark.parametrize(("gap", "order"), [(0.0, True), (5e-6, True), (2e-5, False), (0.1, False)])
def test_the_order_of_equal_scores_means_nothing(gap, order):
    people = crowd(3)
    tied = Poses(people.boxes, [0.8, 0.5, 0.5 - gap], people.keypoints, people.keypoint_scores, THREE)
    assert equal(compare_people([tied], [tied[[0, 2, 1]]])) == (3, 0, 0, order)
    assert not compare_people([tied], [tied[[1, 0, 2]]]).in_order


def test_somebody_elsewhere_is_missed_and_extra():
    people = crowd(3)
    away = moved(people, who=1)
    boxes, keypoints = np.array(away.boxes), np.array(away.keypoints)
    boxes[1] += 1000
    keypoints[1] += 1000
    away = Poses(boxes, away.scores, keypoints, away.keypoint_scores, THREE)
    found = compare_people([people], [away])
    assert (found.matched, found.missed, found.extra) == (2, 1, 1)


def test_two_people_in_one_place_are_told_apart_by_their_keypoints():
    one = crowd(1)
    pair = Poses(
        *(np.repeat(getattr(one, n), 2, axis=0) for n in ("boxes", "scores", "keypoints", "keypoint_scores")), THREE
    )
    pair = moved(pair, point=8.0, who=1)
    # Their scores are equal, so that their order means nothing.
    assert equal(compare_people([pair], [pair[[1, 0]]])) == (2, 0, 0, True)


@pytest.mark.parametrize("field", ["boxes", "scores", "keypoints", "keypoint_scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_value_that_is_no_number_never_passes(field, value, side):
    people = crowd(4)
    broken = Poses(*(np.array(getattr(people, n)) for n in ("boxes", "scores", "keypoints", "keypoint_scores")), THREE)
    getattr(broken, field)[2, ...].flat[0:1] = value
    if field == "scores":
        getattr(broken, field)[2] = value
    pair = (people, broken) if side else (broken, people)
    found = compare_people([pair[0]], [pair[1]])
    assert Case(1, 64, 64, found).failures(EXACT)


def test_pictures_are_added_up_and_must_be_as_many():
    people = crowd(4)
    found = compare_people([people, people[:2], people[:0]], [people, moved(people, box=2.0), people[:1]])
    assert (found.matched, found.missed, found.extra) == (6, 0, 3)
    assert found.box_px_max == pytest.approx(2.0, abs=1e-3)
    with pytest.raises(UsageError, match="1 images, and of 0"):
        compare_people([people], [])


class TestCase:
    GOOD = Figures(
        people_a=5, matched=5, box_px_max=0.05, keypoint_px_max=0.05, score_max=1e-4, keypoint_score_max=1e-4
    )

    def test_at_the_bounds_it_passes(self):
        tensors = {"cls_scores": TensorError(1, 0, 1e-3, 0.5), "pose_vecs": TensorError(1, 0, 0.02, 20.0)}
        assert Case(1, 64, 64, self.GOOD, tensors).failures(EXACT) == []
        assert Case(1, 64, 64).failures(EXACT) == []

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"missed": 1}, "detections: 1 of 5 missed and 0 extra, bound 0"),
            ({"extra": 2}, "detections: 0 of 5 missed and 2 extra, bound 0"),
            ({"keypoint_px_max": 0.051}, "the worst keypoint is off by 0.051 px, bound 0.05 px"),
            ({"keypoint_px_max": float("inf")}, "the worst keypoint is off by inf px"),
            ({"keypoint_px_max": float("nan")}, "the worst keypoint is off by nan px"),
            ({"box_px_max": 0.051}, "the worst box is off by 0.051 px"),
            ({"score_max": 2e-4}, "the worst score is off by 0.0002"),
            ({"keypoint_score_max": 2e-4}, "the worst keypoint score is off by 0.0002"),
            ({"in_order": False}, "not in the same order (input 1x3x64x64)"),
        ],
    )
    def test_each_bound(self, change, words):
        (failure,) = Case(1, 64, 64, replace(self.GOOD, **change)).failures(EXACT)
        assert words in failure

    def test_tensors_are_named(self):
        value = np.full(4, 0.1, np.float32)
        tensors = compare_tensors(
            {"a": value, "b": np.float32([9.0]), "c": value, "d": value, "e": value},
            {"a": value + np.float32(2e-3), "b": np.float32([9.001]), "c": value * np.nan, "d": value[:2]},
        )
        failures = Case(1, 64, 64, None, tensors).failures(EXACT)
        assert [failure.split(" is off by ")[0] for failure in failures] == [f"output {name}" for name in "acde"]

    def test_the_references_own_noise_widens_the_bound_of_keypoints_only(self):
        people = replace(self.GOOD, keypoint_px_max=0.39)

        def failures(found, noise):
            return Case(1, 64, 64, found, rounding=Figures(keypoint_px_max=noise)).failures(EXACT)

        assert failures(people, 0.1) == []
        assert failures(replace(people, keypoint_px_max=0.41), 0.1)
        assert failures(people, 0.05)
        assert failures(replace(people, box_px_max=0.06), 0.1)

    def test_as_json(self):
        case = Case(2, 64, 96, self.GOOD, {"a": TensorError(1, 0, 0.1, 2.0)})
        assert json.loads(json.dumps(case.to_dict(), allow_nan=False))["input"] == [2, 3, 64, 96]
        assert case.to_dict()["tensors"] == {"a": {"error": 0.1, "magnitude": 2.0}}
        assert case.to_dict()["people"] == {
            "matched": 5,
            "missed": 0,
            "extra": 0,
            "order": True,
            "box_px": 0.05,
            "keypoint_px": 0.05,
            "score": 1e-4,
            "keypoint_score": 1e-4,
        }


def test_people_with_equal_scores_may_change_places():
    people = crowd(2)
    for gap, same in ((0.0, True), (5e-6, True), (1e-3, False)):
        scores = np.array([0.5, 0.5 - gap], np.float32)
        pair = Poses(people.boxes, scores, people.keypoints, people.keypoint_scores, people.skeleton)
        assert compare_people([pair], [pair[[1, 0]]]).in_order is same


def test_other_images_or_keypoints_are_refused():
    people = crowd(2)
    with pytest.raises(UsageError, match="poses of 1 images, and of 0"):
        compare_people([people], [])
    with pytest.raises(UsageError, match="keypoints cannot be compared"):
        compare_people([people], [Poses.empty(Skeleton.generic(9))])
