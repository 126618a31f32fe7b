"""Who is who, how alike, and the figures over many images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.data.sample import GroundTruth, People
from rtmo_deploy.measure.accuracy import Detections, judge
from rtmo_deploy.measure.bounds import BOUNDS, bounds_for
from rtmo_deploy.measure.comparison import (
    box_overlap,
    compare_image,
    match_people,
    sigmas_of,
    similarity,
    summarise,
)
from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.zoo import COCO_17

SIGMAS = COCO_17.sigmas


def people(count, *, seed=0, spread=100.0):
    """Somebody every ``spread`` pixels, best first."""
    rng = np.random.default_rng(seed)
    corner = spread * np.stack([np.arange(count), np.zeros(count)], axis=1) + rng.uniform(0, 5, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(40, 60, (count, 2))], axis=1)
    keypoints = corner[:, None] + rng.uniform(0, 50, (count, 17, 2))
    scores = np.sort(rng.uniform(0.3, 0.9, count))[::-1]
    return Poses(boxes, scores, keypoints, rng.uniform(0, 1, (count, 17)), COCO_17)


def changed(poses, **values):
    return Poses(
        **{
            name: values.get(name, getattr(poses, name))
            for name in ("boxes", "scores", "keypoints", "keypoint_scores", "skeleton")
        }
    )


def compared(one, two, name="x", score_thr=0.1):
    return compare_image(name, one, two, SIGMAS, score_thr)


def test_the_same_people():
    result = compared(people(4), people(4))
    assert result.counts == {"people_a": 4, "people_b": 4, "matched": 4, "missed": 0, "extra": 0}
    assert result.unmatched == ()
    assert result.pairs.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert (result.oks == 1).all()
    assert result.keypoint_px.max() == result.box_px.max() == result.keypoint_score.max() == 0
    assert result.badness() == (0, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 6), st.permutations(range(6)), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_everybody_is_found_again(seed, order, lost, added):
    """Whatever the order, those in both are matched, the others are missed or extra."""
    everybody = people(6, seed=seed)
    first = [i for i in range(6) if i not in added]
    second = [i for i in order if i not in lost]
    result = compared(everybody[first], everybody[second])
    both = set(first) & set(second)
    assert {(first[i], second[j]) for i, j in result.pairs} == {(i, i) for i in both}
    assert (result.counts["missed"], result.counts["extra"]) == (len(set(first) - both), len(set(second) - both))
    assert {(s.only_in, s.index) for s in result.unmatched} == {
        *(("a", first.index(i)) for i in set(first) - both),
        *(("b", second.index(i)) for i in set(second) - both),
    }
    assert (result.oks == 1).all()
    for stray in result.unmatched:
        side = everybody[first] if stray.only_in == "a" else everybody[second]
        assert stray.score == pytest.approx(float(side.scores[stray.index]))
        assert stray.margin == pytest.approx(stray.score - 0.1)


def test_the_nearest_of_two_is_taken():
    one = people(1)
    near = changed(one, keypoints=one.keypoints + 0.5)
    far = changed(one, keypoints=one.keypoints + 3, boxes=one.boxes + 3)
    both = Poses(
        *(np.concatenate([getattr(p, name) for p in (far, near)]) for name in ("boxes", "scores", "keypoints")),
        np.concatenate([far.keypoint_scores, near.keypoint_scores]),
        COCO_17,
    )
    result = compared(one, both)
    assert result.pairs.tolist() == [[0, 1]]
    assert result.counts["extra"] == 1


def test_wrong_keypoints_in_the_right_box_are_the_same_person():
    one = people(2)
    result = compared(one, changed(one, keypoints=one.keypoints + 500))
    assert result.counts["matched"] == 2
    assert result.oks.max() < 1e-3
    assert result.keypoint_px == pytest.approx(np.full((2, 17), 500 * np.sqrt(2)), rel=1e-4)


def test_somebody_elsewhere_is_somebody_else():
    one = people(1)
    result = compared(one, changed(one, keypoints=one.keypoints + 200, boxes=one.boxes + 200))
    assert (result.counts["matched"], result.counts["missed"], result.counts["extra"]) == (0, 1, 1)


def test_nobody():
    none = Poses.empty(COCO_17)
    for one, two, expected in ((none, none, (0, 0, 0)), (people(2), none, (0, 2, 0)), (none, people(3), (0, 0, 3))):
        result = compared(one, two)
        assert (result.counts["matched"], result.counts["missed"], result.counts["extra"]) == expected
        json.dumps(result.to_dict(), allow_nan=False)
        figures = summarise([result])
        assert figures.oks_mean is figures.keypoint_px_max is figures.score_ratio is None
        json.dumps(figures.to_dict(), allow_nan=False)


def test_what_is_not_a_number_is_infinitely_far():
    one = people(2)
    keypoints = one.keypoints.copy()
    keypoints[0, 3] = np.nan
    keypoints[1, 4, 0] = np.inf
    result = compared(one, changed(one, keypoints=keypoints))
    assert result.counts["matched"] == 2
    assert result.keypoint_px[0, 3] == result.keypoint_px[1, 4] == np.inf
    figures = summarise([result])
    assert figures.keypoint_px_max == np.inf
    assert figures.to_dict()["keypoint_px_max"] is None
    assert figures.keypoint_px_p50 == 0
    lost = changed(one, boxes=np.full_like(one.boxes, np.nan), keypoints=np.full_like(one.keypoints, np.nan))
    assert compared(one, lost).counts["missed"] == 2
    assert (similarity(one, lost, SIGMAS) == 0).all()
    assert (box_overlap(one.boxes, lost.boxes) == 0).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.05, 12), st.floats(15, 300))
def test_similarity_is_that_of_the_judge_of_accuracy(seed, noise, size):
    """One person, one detection: it is found at the thresholds 0.50, 0.55, ... that its similarity reaches."""
    rng = np.random.default_rng(seed)
    box = np.array([[10, 20, 10 + size, 20 + 1.5 * size]], np.float32)
    truth = (box[0, :2] + rng.uniform(0, 1, (1, 17, 2)) * (box[0, 2:] - box[0, :2])).astype(np.float32)
    found = (truth + rng.normal(0, noise, truth.shape)).astype(np.float32)
    one = Poses(box, np.ones(1), truth, np.ones((1, 17)), COCO_17)
    two = Poses(box, np.ones(1), found, np.ones((1, 17)), COCO_17)
    ((oks,),) = similarity(one, two, SIGMAS)
    area = 0.53 * np.prod(box[:, 2:] - box[:, :2], axis=1, dtype=np.float64)
    annotated = GroundTruth.from_people([People(box, truth, np.full((1, 17), 2), area)], 17)
    report = judge(annotated, Detections.from_poses([two], 17), COCO_17, protocol="coco", sigmas=SIGMAS)
    thresholds = 0.5 + 0.05 * np.arange(10)
    if np.abs(thresholds - oks).min() > 1e-5:
        assert report.metrics["AR"] == pytest.approx(np.mean(thresholds <= oks))


def test_similarity_by_hand():
    """All keypoints off by the distance at which the exponent is -1/2."""
    one = people(1)
    side = one.boxes[:, 2:] - one.boxes[:, :2]
    distance = 0.1 * np.sqrt(0.53 * side.prod())
    two = changed(one, keypoints=one.keypoints + np.array([distance, 0], np.float32))
    assert similarity(one, two, (0.05,) * 17) == pytest.approx(np.exp(-0.5), rel=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 1000))
def test_figures_are_those_of_all_keypoints_together(counts, seed):
    rng = np.random.default_rng(seed)
    results, distances, ratios = [], [], []
    for number, count in enumerate(counts):
        one = people(count, seed=seed)
        step = rng.normal(0, 0.5, (count, 17, 2)).astype(np.float32)
        two = changed(one, keypoints=one.keypoints + step, scores=one.scores * 0.9, boxes=one.boxes + 0.25)
        result = compared(one, two, name=str(number))
        assert result.counts["matched"] == count
        results.append(result)
        distances += np.linalg.norm(two.keypoints.astype(np.float64) - one.keypoints, axis=-1).ravel().tolist()
        ratios += [0.9] * count
    figures = summarise(results)
    assert (figures.images, figures.people_a, figures.matched) == (len(counts), sum(counts), sum(counts))
    if not distances:
        assert figures.keypoint_px_p99 is None
        return
    assert figures.keypoint_px_mean == pytest.approx(np.mean(distances))
    assert figures.keypoint_px_p50 == pytest.approx(np.median(distances))
    assert figures.keypoint_px_p99 == pytest.approx(np.percentile(distances, 99))
    assert figures.keypoint_px_max == pytest.approx(np.max(distances))
    assert figures.score_ratio == pytest.approx(0.9, rel=1e-5)
    assert figures.box_px_max == pytest.approx(0.25, abs=1e-4)
    assert figures.oks_min == min(float(r.oks.min()) for r in results if len(r.oks))


def test_a_skeleton_without_sigmas():
    assert sigmas_of(COCO_17) == COCO_17.sigmas
    assert sigmas_of(Skeleton.generic(5)) == (0.07,) * 5
    assert match_people(Poses.empty(COCO_17), people(1), SIGMAS) == []


def test_bounds_of_a_pair_are_the_looser_ones():
    assert bounds_for("fp32", "fp32") == BOUNDS["fp32"]
    mixed = bounds_for("fp32", "int8")
    assert bounds_for("int8", "fp32").to_dict() | {"why": ""} == mixed.to_dict() | {"why": ""}
    assert (mixed.keypoint_p99_px, mixed.oks_mean, mixed.layer_snr_db) == (
        BOUNDS["int8"].keypoint_p99_px,
        BOUNDS["int8"].oks_mean,
        BOUNDS["int8"].layer_snr_db,
    )
    assert mixed.keypoint_max_px is None
    assert bounds_for("fp32", "fp7").oks_mean == BOUNDS["int8"].oks_mean


def test_the_table_goes_from_tight_to_loose():
    rows = [BOUNDS[name] for name in ("fp32", "fp16", "bf16", "int8")]
    for field in BOUNDS["fp32"].to_dict().keys() - {"why"}:
        values = [getattr(row, field) for row in rows]
        values = [np.inf if value is None else value for value in values]  # no bound is the loosest
        if field in {"oks_mean", "layer_snr_db"}:
            values = [-value for value in values]
        assert values == sorted(values), field
        assert values[0] != values[-1], field
    assert all(row.why for row in rows)


def test_other_bounds():
    bounds = BOUNDS["fp16"].with_overrides(px=0.5, score=0.02)
    assert (bounds.keypoint_p99_px, bounds.keypoint_max_px, bounds.box_px, bounds.score) == (0.5, 0.5, 0.5, 0.02)
    assert BOUNDS["fp16"].with_overrides() == BOUNDS["fp16"]
