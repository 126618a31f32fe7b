"""Two lists of people against each other: who is matched, and what of the difference is reported."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmo_deploy.measure import Bounds, CaseResult, PeopleErrors, compare_people
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


@given(st.integers(0, 12), seeds)
def test_the_same_people(count, seed):
    people = crowd(count, seed)
    assert compare_people([people], [people]) == PeopleErrors(matched=count)


@given(st.permutations(range(7)), seeds)
def test_a_permutation_matches_everybody_and_tells_of_the_order(order, seed):
    people = crowd(7, seed)
    found = compare_people([people], [people[list(order)]])
    assert found == PeopleErrors(matched=7, order=list(order) == sorted(order))


@given(st.sets(st.integers(0, 8)), st.sets(st.integers(0, 8)), seeds)
def test_missed_and_extra_people_are_counted(left, right, seed):
    people = crowd(9, seed)
    one, two = people[sorted(left)], people[sorted(right)]
    assert compare_people([one], [two]) == PeopleErrors(
        matched=len(left & right), missed=len(left - right), extra=len(right - left)
    )


@given(st.integers(0, 4), st.floats(0.01, 5), st.floats(0.01, 5), st.floats(0.001, 0.1), st.floats(0.001, 0.1), seeds)
def test_each_difference_is_reported_in_its_own_place(who, box, point, score, visibility, seed):
    people = crowd(5, seed)
    found = compare_people([people], [moved(people, box=box, point=point, score=score, visibility=visibility, who=who)])
    assert (found.matched, found.missed, found.extra, found.order) == (5, 0, 0, True)
    assert found.box_px == pytest.approx(box, abs=1e-3)
    assert found.keypoint_px == pytest.approx(point, abs=1e-3)
    assert found.score == pytest.approx(score, abs=1e-5)
    assert found.keypoint_score == pytest.approx(visibility, abs=1e-5)


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
    assert found.box_px <= scale + 1e-3
    assert found.keypoint_px <= scale * 2**0.5 + 1e-3


@pytest.mark.parametrize(("gap", "order"), [(0.0, True), (5e-6, True), (2e-5, False), (0.1, False)])
def test_the_order_of_equal_scores_means_nothing(gap, order):
    people = crowd(3)
    tied = Poses(people.boxes, [0.8, 0.5, 0.5 - gap], people.keypoints, people.keypoint_scores, THREE)
    assert compare_people([tied], [tied[[0, 2, 1]]]) == PeopleErrors(matched=3, order=order)
    assert not compare_people([tied], [tied[[1, 0, 2]]]).order


def test_somebody_elsewhere_is_missed_and_extra():
    people = crowd(3)
    away = moved(people, who=1)
    boxes = np.array(away.boxes)
    boxes[1] += 1000
    away = Poses(boxes, away.scores, away.keypoints + 0, away.keypoint_scores, THREE)
    found = compare_people([people], [away])
    assert (found.matched, found.missed, found.extra) == (2, 1, 1)


def test_two_people_in_one_place_are_told_apart_by_their_keypoints():
    one = crowd(1)
    pair = Poses(
        *(np.repeat(getattr(one, n), 2, axis=0) for n in ("boxes", "scores", "keypoints", "keypoint_scores")), THREE
    )
    pair = moved(pair, point=8.0, who=1)
    # Their scores are equal, so that their order means nothing.
    assert compare_people([pair], [pair[[1, 0]]]) == PeopleErrors(matched=2)


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
    assert CaseResult(1, 64, 64, found).failures(Bounds())


def test_pictures_are_added_up_and_must_be_as_many():
    people = crowd(4)
    found = compare_people([people, people[:2], people[:0]], [people, moved(people, box=2.0), people[:1]])
    assert (found.matched, found.missed, found.extra) == (6, 0, 3)
    assert found.box_px == pytest.approx(2.0, abs=1e-3)
    with pytest.raises(ValueError, match="shorter"):
        compare_people([people], [])


class TestCase:
    GOOD = PeopleErrors(matched=5, box_px=0.05, keypoint_px=0.05, score=1e-4, keypoint_score=1e-4)

    def test_at_the_bounds_it_passes(self):
        assert (
            CaseResult(1, 64, 64, self.GOOD, {"cls_scores": (1e-3, 0.5), "pose_vecs": (0.02, 20.0)}).failures(Bounds())
            == []
        )
        assert CaseResult(1, 64, 64).failures(Bounds()) == []

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"missed": 1}, "1 people missed and 0 extra"),
            ({"extra": 2}, "0 people missed and 2 extra"),
            ({"keypoint_px": 0.051}, "keypoints: 0.051 px off, bound 0.05 px"),
            ({"keypoint_px": float("inf")}, "keypoints: inf px off"),
            ({"keypoint_px": float("nan")}, "keypoints: nan px off"),
            ({"box_px": 0.051}, "dets: boxes 0.051 px off"),
            ({"score": 2e-4}, "scores 0.0002 off"),
            ({"keypoint_score": 2e-4}, "scores 0.0002 off"),
            ({"order": False}, "not in the same order"),
        ],
    )
    def test_each_bound(self, change, words):
        from dataclasses import replace

        (failure,) = CaseResult(1, 64, 64, replace(self.GOOD, **change)).failures(Bounds())
        assert words in failure

    def test_tensors_are_named(self):
        failures = CaseResult(
            1, 64, 64, None, {"a": (2e-3, 0.1), "b": (1e-3, 9.0), "c": (float("inf"), 1.0), "d": (float("nan"), 1.0)}
        ).failures(Bounds())
        assert [failure.split(":")[0] for failure in failures] == ["a", "c", "d"]

    def test_the_references_own_noise_widens_the_bound_of_keypoints_only(self):
        from dataclasses import replace

        people = replace(self.GOOD, keypoint_px=0.39)
        assert CaseResult(1, 64, 64, people, noise_px=0.1).failures(Bounds()) == []
        assert CaseResult(1, 64, 64, replace(people, keypoint_px=0.41), noise_px=0.1).failures(Bounds())
        assert CaseResult(1, 64, 64, people, noise_px=0.05).failures(Bounds())
        assert CaseResult(1, 64, 64, replace(people, box_px=0.06), noise_px=0.1).failures(Bounds())

    def test_as_json(self):
        case = CaseResult(2, 64, 96, self.GOOD, {"a": (0.1, 2.0)})
        assert json.loads(json.dumps(case.to_dict(), allow_nan=False))["input"] == [2, 3, 64, 96]
        assert case.to_dict()["tensors"] == {"a": {"error": 0.1, "magnitude": 2.0}}


def test_people_with_equal_scores_may_change_places():
    people = crowd(2)
    for gap, same in ((0.0, True), (5e-6, True), (1e-3, False)):
        scores = np.array([0.5, 0.5 - gap], np.float32)
        pair = Poses(people.boxes, scores, people.keypoints, people.keypoint_scores, people.skeleton)
        assert compare_people([pair], [pair[[1, 0]]]).order is same
