"""Ids that stay: whoever moves, hides, leaves or comes back, at any frame rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.errors import UsageError
from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.track import Tracker
from rtmo_deploy.zoo.skeletons import COCO_17

SHAPE = np.random.Generator(np.random.PCG64(5)).random((17, 2))


def people(*places, score=0.9, skeleton=COCO_17, size=100.0, hw=(720, 1280)):
    """Detections of one shape around the given middles."""
    middles = np.array(places, float).reshape(-1, 2)
    shape = np.resize(SHAPE, (len(skeleton), 2))
    points = middles[:, None] + (shape - 0.5) * (0.5 * size, 2 * size)
    half = np.array([0.25, 1.0]) * size
    boxes = np.concatenate([middles - half, middles + half], axis=1)
    count = len(middles)
    scores = np.full(count, score)
    return Poses(boxes, scores, points, np.full((count, len(skeleton)), 0.9), skeleton, image_hw=hw)


def ids_of(frames, tracker=None):
    """Ids in each frame; frames are (time, poses) or (time, poses, image)."""
    tracker = tracker or Tracker()
    return [tracker.update(poses, time_s, *image).track_ids.tolist() for time_s, poses, *image in frames]


def test_ids_start_at_one_in_the_first_frame_and_stay():
    frames = [(t / 30, people((100 + 5 * t, 300), (900 - 5 * t, 320))) for t in range(40)]
    assert ids_of(frames) == [[1, 2]] * 40


def test_the_rows_are_returned_as_they_are():
    poses = people((100, 300), (500, 300), score=0.8)
    tracked = Tracker().update(poses, 0.0)
    for name in ("boxes", "scores", "keypoints", "keypoint_scores"):
        assert getattr(tracked, name) is getattr(poses, name)
    assert tracked.image_hw == (720, 1280)


def test_a_newcomer_is_named_at_the_second_sight_and_a_single_sight_never():
    here = people((100, 300))
    both = people((100, 300), (800, 300))
    assert ids_of([(0.0, here), (0.1, both), (0.2, both)]) == [[1], [1, -1], [1, 2]]
    assert ids_of([(0.0, here), (0.1, both), (0.3, here), (0.4, both)]) == [[1], [1, -1], [1], [1, -1]]


@pytest.mark.parametrize("gap_s", [0.1, 0.5, 1.5])
def test_who_stays_half_outside_the_image_keeps_the_id_in_slow_videos(gap_s):
    edge = people((640, 700), (100, 300))  # without an image no colours are seen
    assert ids_of([(t * gap_s, edge) for t in range(5)]) == [[1, 2]] * 5


def test_weak_detections_go_on_and_do_not_start():
    weak = people((100, 300), score=0.2)
    assert ids_of([(0.0, weak), (0.1, weak)]) == [[-1], [-1]]
    assert ids_of([(0.0, people((100, 300))), (0.1, weak)]) == [[1], [1]]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_the_order_of_detections_changes_nothing(seed, count):
    rng = np.random.Generator(np.random.PCG64(seed))
    starts = np.stack((150 * (1 + np.arange(count)), rng.uniform(200, 500, count)), axis=1)
    speeds = rng.uniform(-4, 4, (count, 2))
    plain, mixed = Tracker(), Tracker()
    names = None
    for t in range(12):
        poses = people(*(starts + t * speeds))
        order = rng.permutation(count)
        expected = plain.update(poses, t / 30).track_ids[order]
        found = mixed.update(poses[order], t / 30).track_ids
        if names is None:
            names = dict(zip(expected.tolist(), found.tolist(), strict=True))
        assert found.tolist() == [names[one] for one in expected.tolist()]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_id_is_given_twice_in_a_frame_nor_to_a_second_person_after_reset(seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    tracker = Tracker()
    for t in range(25):
        count = int(rng.integers(0, 9))
        poses = people(*rng.uniform((0, 0), (1280, 720), (count, 2)), score=float(rng.uniform(0.2, 1)))
        ids = tracker.update(poses, t / 10).track_ids
        known = ids[ids >= 0]
        assert len(set(known.tolist())) == len(known)
        assert (ids != 0).all()
    tracker.reset()
    assert tracker.update(people((100, 300)), 0.0).track_ids.tolist() == [1]


@pytest.mark.parametrize("frames", [13, 30])
def test_whoever_hides_while_walking_gets_the_id_back(frames):
    def at(t):
        return people((100 + 4 * t, 300), (900, 320))

    hidden = [(t / 30, at(t)[[1]] if 30 <= t < 30 + frames else at(t)) for t in range(100)]
    assert ids_of(hidden)[-1] == [1, 2]


@pytest.mark.parametrize("stride", [1, 3, 6])
def test_frame_rate_and_stride_do_not_matter(stride):
    frames = [(t / 60, people((100 + 6 * t, 300), (1150 - 6 * t, 340))) for t in range(0, 180, stride)]
    assert ids_of(frames) == [[1, 2]] * len(frames)


def test_a_variable_frame_rate_is_right_where_frame_counts_would_not_be():
    # Seven frames at 60 Hz, then 0.4 s nothing: at 480 px/s both are 190 px on, nearer to where the other one was.
    times = [*np.arange(12) / 60, *(0.6 + np.arange(6) / 60)]
    frames = [(t, people((100 + 480 * t, 300), (330 + 480 * t, 300))) for t in times]
    assert ids_of(frames) == [[1, 2]] * len(frames)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_size_of_the_image_does_not_matter(scale):
    def frames(by):
        return [
            (t / 30, people((by * (100 + 5 * t), by * 300), (by * (700 - 5 * t), by * 330), size=100 * by, hw=None))
            for t in range(60)
        ]

    assert ids_of(frames(scale)) == ids_of(frames(1.0))


def clothed(places, colours, *, hw=(360, 640)):
    """An image with one coloured block a person."""
    image = np.full((*hw, 3), 120, np.uint8)
    for (x, y), colour in zip(places, colours, strict=True):
        image[max(0, y - 110) : y + 110, max(0, x - 30) : max(0, x + 30)] = colour
    return image


def leaves_and(enters, *, image):
    """One walks out at the right, half a second later somebody walks in there."""
    red, blue = (40, 40, 200), (200, 60, 40)
    frames = []
    for t in range(100):
        x = 500 + 6 * t if t < 30 else 1000 if t < 50 else 680 - 5 * (t - 50)
        colour = red if t < 30 or enters == "red" else blue
        one = people((x, 180), size=100, hw=(360, 640)) if x < 690 else Poses.empty(COCO_17)
        frames.append((t / 30, replace(one, image_hw=(360, 640)), *([clothed([(x, 180)], [colour])] if image else [])))
    ids = [i for found in ids_of(frames) for i in found if i > 0]
    return ids[0], ids[-1]


def test_whoever_comes_back_is_known_by_colours():
    assert leaves_and("red", image=True) == (1, 1)


def test_an_id_is_not_given_to_another_who_enters_where_somebody_left():
    assert leaves_and("blue", image=True) == (1, 2)
    assert leaves_and("red", image=False) == (1, 2)


def test_nobody_is_remembered_for_longer_than_asked():
    tracker = Tracker(memory_s=2.0)
    image = clothed([(100, 180)], [(40, 40, 200)])
    for t in range(10):
        tracker.update(people((100, 180), hw=(360, 640)), t / 30, image)
    for t in range(3):
        ids = tracker.update(people((100, 180), hw=(360, 640)), 3 + t / 30, image).track_ids.tolist()
    assert ids == [2]


@pytest.mark.parametrize("joints", [0, 1, 5, 21])
def test_any_number_of_keypoints(joints):
    skeleton = Skeleton.generic(joints)
    image = np.zeros((360, 640, 3), np.uint8)
    frames = [
        (t / 30, people((100 + 5 * t, 180), (500, 180), skeleton=skeleton, hw=(360, 640)), image) for t in range(9)
    ]
    assert ids_of(frames) == [[1, 2]] * 9


def test_empty_frames_and_far_points():
    empty = Poses.empty(COCO_17)
    image = np.zeros((48, 64, 3), np.uint8)
    assert ids_of([(0.0, empty, image), (0.1, empty, image)]) == [[], []]
    far = people((1e6, -1e6), (-1e7, 1e7))
    assert ids_of([(0.0, far, image), (0.1, far, image)]) == [[1, 2], [1, 2]]
    flat = replace(people((100, 100)), boxes=np.array([[100, 100, 100, 100]], np.float32))
    assert ids_of([(0.0, flat), (0.1, flat)]) == [[1], [1]]


@pytest.mark.parametrize("name", ["boxes", "scores", "keypoints", "keypoint_scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(name, value):
    poses = people((100, 300))
    array = getattr(poses, name).copy()
    array.flat[0] = value
    tracker = Tracker()
    with pytest.raises(UsageError, match="not finite"):
        tracker.update(replace(poses, **{name: array}), 0.0)
    assert tracker.update(poses, 0.0).track_ids.tolist() == [1]  # it is as it was


def test_frames_of_another_video_are_refused():
    tracker = Tracker()
    tracker.update(people((100, 300)), 1.0)
    with pytest.raises(UsageError, match=r"0\.5 s cannot follow one at 1\.0 s.*reset"):
        tracker.update(people((100, 300)), 0.5)
    with pytest.raises(UsageError, match="nan"):
        tracker.update(people((100, 300)), float("nan"))
    with pytest.raises(UsageError, match="17 keypoints was given 5"):
        tracker.update(people((100, 300), skeleton=Skeleton.generic(5)), 2.0)
    tracker.reset()
    assert tracker.update(people((100, 300)), 0.5).track_ids.tolist() == [1]


@pytest.mark.parametrize("image", [np.zeros((400, 400), np.uint8), np.zeros((400, 400, 3)), "frame.jpg"])
def test_images_of_another_kind_are_refused(image):
    with pytest.raises(UsageError, match="no uint8 array"):
        Tracker().update(people((100, 300)), 0.0, image)


@pytest.mark.parametrize("values", [{"score": 2}, {"hidden_s": 0}, {"hidden_s": 3, "memory_s": 2}, {"score": np.nan}])
def test_settings_that_make_no_sense(values):
    with pytest.raises(UsageError, match="A tracker cannot have"):
        Tracker(**values)
