"""The One-Euro filter against a plain one, point by point."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_tracker import people

from rtmo_deploy.errors import UsageError
from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.track import Smoother
from rtmo_deploy.zoo.skeletons import COCO_17


class OneEuro:
    """The filter as published, for one point: x, y and a common speed, in units of ``size``."""

    def __init__(self, min_cutoff, beta, speed_cutoff):
        self.settings, self.last = (min_cutoff, beta, speed_cutoff), None

    def __call__(self, point, time_s, size):
        min_cutoff, beta, speed_cutoff = self.settings
        if self.last is None:
            self.last = (point, np.zeros(2), time_s)
            return point
        old, speed, then = self.last
        dt = time_s - then

        def alpha(cutoff):
            return 1 / (1 + 1 / (2 * math.pi * cutoff) / dt)

        speed = speed + alpha(speed_cutoff) * ((point - old) / dt - speed)
        new = old + alpha(min_cutoff + beta * math.hypot(*speed) / size) * (point - old)
        self.last = (new, speed, time_s)
        return new


def tracked(*places, ids=None, **how):
    poses = people(*places, **how)
    return replace(poses, track_ids=np.arange(1, len(poses) + 1) if ids is None else ids)


def test_against_the_plain_filter_at_a_variable_rate():
    rng = np.random.Generator(np.random.PCG64(1))
    smoother, plain = Smoother(min_cutoff=1.0, beta=2.0), {}
    time_s = 0.0
    for _ in range(30):
        poses = tracked(*rng.uniform(200, 400, (3, 2)), ids=rng.permutation(3) + 1)
        poses = replace(poses, keypoints=poses.keypoints + rng.normal(0, 2, poses.keypoints.shape))
        found = smoother.smooth(poses, time_s)
        sides = poses.boxes[:, 2:] - poses.boxes[:, :2]
        for row, who in enumerate(poses.track_ids.tolist()):
            size = math.sqrt(sides[row].prod())
            points = np.concatenate([poses.keypoints[row], poses.boxes[row].reshape(2, 2)]).astype(float)
            expected = [
                plain.setdefault((who, k), OneEuro(1.0, 2.0, 1.0))(point, time_s, size)
                for k, point in enumerate(points)
            ]
            np.testing.assert_allclose(found.keypoints[row], expected[:-2], atol=1e-3)
            np.testing.assert_allclose(found.boxes[row], np.ravel(expected[-2:]), atol=1e-3)
        time_s += rng.uniform(0.005, 0.2)


def test_jitter_becomes_less_than_half_and_the_lag_is_small():
    rng = np.random.Generator(np.random.PCG64(2))
    smoother = Smoother()
    noise = rng.normal(0, 2, (200, 17, 2))
    still = tracked((300, 300))
    rows = [smoother.smooth(replace(still, keypoints=still.keypoints + noise[t]), t / 30).keypoints for t in range(200)]
    assert np.std(np.array(rows)[30:, 0] - still.keypoints[0]) < 0.5 * 2
    smoother.reset()
    lags = []
    for t in range(90):  # somebody 200 px tall who walks at 1.4 heights in 1.7 s: 165 px/s
        poses = tracked((100 + 165 * t / 30, 300))
        lags.append((poses.keypoints - smoother.smooth(poses, t / 30).keypoints)[..., 0].mean())
    assert 0 < lags[-1] < 0.03 * 200


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_size_of_the_image_does_not_matter(scale):
    small, large = Smoother(), Smoother()
    for t in range(10):
        place = np.array((100 + t * t, 300.0))
        one = small.smooth(tracked(place), t / 30)
        two = large.smooth(tracked(place * scale, size=100 * scale), t / 30)
        np.testing.assert_allclose(one.keypoints * scale, two.keypoints, rtol=1e-4)


def test_a_hidden_keypoint_passes_and_starts_anew():
    smoother = Smoother()
    poses = tracked((300, 300))
    for t in range(10):
        smoother.smooth(poses, t / 30)
    away = poses.keypoints + 80
    hidden = replace(poses, keypoints=away, keypoint_scores=np.where(np.arange(17) == 3, 0.1, 0.9)[None])
    found = smoother.smooth(hidden, 10 / 30).keypoints
    assert (found[0, 3] == away[0, 3]).all()
    assert (np.abs(found - away)[0, [0, 4]] > 5).all()
    shown = smoother.smooth(replace(poses, keypoints=away - 40), 11 / 30).keypoints
    assert (shown[0, 3] == away[0, 3] - 40).all()


def test_nothing_is_carried_over_a_gap_nor_from_another_person():
    smoother = Smoother()
    smoother.smooth(tracked((300, 300), ids=[1]), 0.0)
    assert (smoother.smooth(tracked((310, 300), ids=[2]), 0.03).keypoints == people((310, 300)).keypoints).all()
    assert (smoother.smooth(tracked((320, 300), ids=[1]), 0.5).keypoints == people((320, 300)).keypoints).all()
    assert (smoother.smooth(tracked((330, 300), ids=[1]), 0.53).keypoints != people((330, 300)).keypoints).any()


def test_unknown_people_pass_as_they_are():
    smoother = Smoother()
    for t in range(3):
        poses = tracked((300 + 20 * t, 300), (600 - 20 * t, 300), ids=[-1, -1])
        assert (smoother.smooth(poses, t / 30).keypoints == poses.keypoints).all()


def test_refusals():
    smoother = Smoother()
    with pytest.raises(UsageError, match="Track them first"):
        smoother.smooth(people((100, 100)), 0.0)
    empty = replace(Poses.empty(COCO_17), track_ids=np.zeros(0, np.int64))
    assert len(smoother.smooth(empty, 0.0)) == 0
    with pytest.raises(UsageError, match="cannot follow"):
        smoother.smooth(empty, -1.0)
    with pytest.raises(UsageError, match="17 keypoints was given 3"):
        smoother.smooth(tracked((1, 1), skeleton=Skeleton.generic(3)), 1.0)
    bad = tracked((100, 100))
    bad.keypoints[0, 0, 0] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        smoother.smooth(bad, 1.0)
    with pytest.raises(UsageError, match="min_cutoff 0"):
        Smoother(min_cutoff=0)
