"""Synthetic videos: whose identity, place and visibility is told is what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from rtmo_deploy.data.synthetic.video import SCENES, SyntheticVideo
from rtmo_deploy.errors import UsageError


@pytest.fixture(scope="module")
def videos():
    return {scene: list(SyntheticVideo(scene, seed=4)) for scene in SCENES}


def share_of_rows(frames, who):
    """In how many frames somebody is annotated."""
    return np.array([who in frame.track_ids for frame in frames])


def test_a_frame_is_whole(videos):
    for frames in videos.values():
        assert len(frames) == 180
        np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(180) / 30)
        for frame in frames[::20]:
            people = frame.sample.people
            assert frame.sample.image.shape == (360, 640, 3)
            assert len(people) == len(frame.track_ids) == len(frame.visible) == len(set(frame.track_ids.tolist()))
            assert (people.boxes >= 0).all()
            assert (people.boxes <= (640, 360, 640, 360)).all()
            assert ((frame.visible >= 0.2) & (frame.visible <= 1)).all()


def test_the_same_seed_gives_the_same_video_and_another_one_does_not():
    def images(seed):
        return [frame.sample.image for frame in SyntheticVideo("crowd", seed=seed, seconds=0.2, size=(96, 160))]

    assert all((one == two).all() for one, two in zip(images(1), images(1), strict=True))
    assert not all((one == two).all() for one, two in zip(images(1), images(2), strict=True))


def test_people_walk(videos):
    frames = videos["cross"]
    ankles = np.array(
        [
            frame.sample.people.keypoints[frame.track_ids == 1][0, [15, 16], 0]
            for frame in frames
            if 1 in frame.track_ids and (frame.sample.people.visible[frame.track_ids == 1][0, [15, 16]] > 0).all()
        ]
    )
    apart = ankles[:, 0] - ankles[:, 1]
    assert np.ptp(apart) > 20  # a step
    assert np.count_nonzero(np.diff(np.sign(apart))) >= 4


def test_those_who_cross_pass_each_other(videos):
    ends = [dict(zip(f.track_ids.tolist(), f.sample.people.boxes[:, 0], strict=True)) for f in videos["cross"]]
    first, last = ends[5], ends[-5]
    assert first[1] > first[2]
    assert last[1] < last[2]


def test_those_who_meet_turn_back(videos):
    places = [dict(zip(f.track_ids.tolist(), f.sample.people.boxes[:, 0], strict=True)) for f in videos["meet"]]
    gaps = [at[2] - at[1] for at in (places[0], places[90], places[-1])]
    assert gaps[1] < 0.3 * gaps[0]
    assert gaps[2] > 0.8 * gaps[0]


@pytest.mark.parametrize("seed", range(4))
def test_those_who_hide_are_away_for_13_frames_and_come_back(seed):
    frames = list(SyntheticVideo("hide", seed=seed))
    for who in (1, 2, 3):
        there = np.flatnonzero(share_of_rows(frames, who))
        gaps = np.diff(there)
        assert gaps.max() > 13
        assert there[-1] > there[gaps.argmax()] + 10


def test_those_who_leave_come_back_with_the_same_id(videos):
    for who in (2, 4):
        there = np.flatnonzero(share_of_rows(videos["leave"], who))
        assert np.diff(there).max() > 40
    assert np.flatnonzero(share_of_rows(videos["leave"], 3))[0] > 50  # another one enters meanwhile


def test_a_crowd_is_of_the_size_that_is_asked_for():
    sizes = {seed: len(next(iter(SyntheticVideo("crowd", seed=seed, seconds=0.1))).track_ids) for seed in range(8)}
    assert max(sizes.values()) <= 10
    assert len(set(sizes.values())) > 2
    assert len(next(iter(SyntheticVideo("crowd", seed=1, people=1, seconds=0.1))).track_ids) == 1


def test_a_variable_rate_leaves_out_frames_and_keeps_times():
    full, some = SyntheticVideo("meet", seed=2), SyntheticVideo("meet", seed=2, variable=True)
    assert 90 < len(some) < 150
    assert some.times[0] == 0
    assert len(set(np.round(np.diff(some.times) * 30))) > 1
    assert set(np.round(np.diff(some.times) * 30)) <= set(range(1, 12))
    assert len(full) == 180


@pytest.mark.parametrize(
    "values",
    [{"scene": "dance"}, {"fps": 0}, {"seconds": float("nan")}, {"size": (63, 64)}, {"size": (65, 66)}, {"people": 11}],
)
def test_refusals(values):
    with pytest.raises(UsageError, match="Scenes are cross, meet"):
        SyntheticVideo(**{"scene": "crowd", **values})
