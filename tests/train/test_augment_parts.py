"""The single steps: mirror, mixup, colours, the random affine, another size for a batch."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_augment import FOUR, Dots, check_spots

from rtmo_deploy.data import People
from rtmo_deploy.errors import UsageError
from rtmo_deploy.train.augment import AffineOptions, WindowOptions, random_size
from rtmo_deploy.train.augment.augmenter import draw_gains, shift_hsv
from rtmo_deploy.train.augment.geometry import clip_people, draw_jitter, mirror, warp_image
from rtmo_deploy.train.augment.mixing import MixupPlan, draw_mixup

seeds = st.integers(0, 2**31)
sides = st.integers(90, 220)


@settings(deadline=None)
@given(seeds, sides, sides)
def test_mirrored_twice_is_unchanged(seed: int, height: int, width: int) -> None:
    sample = Dots(seed, [(height, width)]).samples[0]
    again = mirror(mirror(sample, FOUR.flip_indices()), FOUR.flip_indices())
    np.testing.assert_array_equal(again.image, sample.image)
    np.testing.assert_array_equal(again.ignore, sample.ignore)
    np.testing.assert_array_equal(again.people.visible, sample.people.visible)
    np.testing.assert_allclose(again.people.keypoints, sample.people.keypoints, atol=1e-4)
    np.testing.assert_allclose(again.people.boxes, sample.people.boxes, atol=1e-4)


def test_a_mirror_swaps_left_and_right() -> None:
    sample = Dots(3, [(100, 120)]).samples[0]
    mirrored = mirror(sample, FOUR.flip_indices())
    before, after = sample.people, mirrored.people
    np.testing.assert_allclose(after.keypoints[0, 0], [119, 0] + before.keypoints[0, 1] * [-1, 1])
    np.testing.assert_allclose(after.keypoints[0, 1], [119, 0] + before.keypoints[0, 0] * [-1, 1])
    np.testing.assert_allclose(after.keypoints[0, 2], [119, 0] + before.keypoints[0, 2] * [-1, 1])
    assert after.visible.tolist() == [[1, 2, 2, 0]]
    np.testing.assert_allclose(after.boxes[0], [119, 0, 119, 0] + before.boxes[0, [2, 1, 0, 3]] * [-1, 1, -1, 1])
    np.testing.assert_array_equal(mirrored.image, sample.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.ignore, sample.ignore[:, ::-1])
    assert check_spots(mirrored) == 3


def test_clipping() -> None:
    keypoints = [[[0, 0], [192, 128], [192.1, 5], [5, -0.1]]]
    people = People([[-5, 3, 300, 90]], keypoints, np.full((1, 4), 2), [12.0])
    clipped = clip_people(people, (128, 192))
    assert clipped.boxes.tolist() == [[0, 3, 192, 90]]
    assert clipped.visible.tolist() == [[2, 2, 0, 0]]
    assert clipped.areas.tolist() == [12.0]


@settings(deadline=None, max_examples=100)
@given(seeds, st.tuples(sides, sides), st.sampled_from([(0.8, 1.6), (0.6, 1.6), (0.5, 0.6)]))
def test_mixup(seed: int, size: tuple[int, int], scale: tuple[float, float]) -> None:
    first, second = Dots(seed, [(128, 192), size]).samples
    plan = draw_mixup(2, (128, 192), scale, np.random.default_rng(seed))
    grey = np.full_like(first.image, 114)
    both = plan.blend(first, second, FOUR.flip_indices())
    people = People.concatenate([first.people, both.people[1:]])
    np.testing.assert_array_equal(both.people.boxes[0], first.people.boxes[0].clip(0, [192, 128, 192, 128]))
    fit = plan.enlargement * min(128 / size[0], 192 / size[1])
    np.testing.assert_allclose(people.areas, [100, 100 * fit**2], rtol=1e-5)
    assert both.people.visible[1, :2].tolist() in ([1, 2], [2, 1], [0, 1], [0, 2], [1, 0], [2, 0], [0, 0])
    # Each image alone over grey, so that the spots cannot meet.
    alone = plan.blend(type(first)(grey, first.people), second, FOUR.flip_indices())
    check_spots(type(first)(alone.image, alone.people[1:]))
    assert both.ignore is not None
    assert (both.ignore | ~first.ignore).all()


def test_mixup_rounds_down() -> None:
    sample = Dots(0, [(64, 64)]).samples[0]
    dark = type(sample)(np.full((64, 64, 3), 100, np.uint8), sample.people)
    bright = type(sample)(np.full((64, 64, 3), 101, np.uint8), sample.people)
    plan = MixupPlan(0, 1.0, mirrored=False, corner_xy=(0, 0))
    for first, second in ((dark, bright), (bright, dark), (dark, dark)):
        assert (plan.blend(first, second, FOUR.flip_indices()).image == 100).all()


def test_a_partner_without_people_is_not_blended_in() -> None:
    sample, other = Dots(0, [(64, 64), (64, 64)]).samples
    empty = type(other)(other.image, People.empty(4))
    assert MixupPlan(1, 1.0, mirrored=False, corner_xy=(0, 0)).blend(sample, empty, FOUR.flip_indices()) is sample


@settings(deadline=None, max_examples=300)
@given(seeds)
def test_what_mixup_draws(seed: int) -> None:
    plan = draw_mixup(5, (128, 192), (0.8, 1.6), np.random.default_rng(seed))
    assert 0 <= plan.index < 5
    assert 0.8 <= plan.enlargement <= 1.6
    assert 0 <= plan.corner_xy[0] <= max(0, int(192 * plan.enlargement) - 192)
    assert 0 <= plan.corner_xy[1] <= max(0, int(128 * plan.enlargement) - 128)


@settings(deadline=None, max_examples=30)
@given(seeds, st.tuples(st.integers(-30, 30), st.integers(-60, 60), st.integers(-60, 60)))
def test_colours(seed: int, gains: tuple[int, int, int]) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(int) + gains
    hsv[..., 0] %= 180
    expected = cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2BGR)
    np.testing.assert_array_equal(shift_hsv(image, gains), expected if any(gains) else image)


def test_colours_mean_what_they_say() -> None:
    image = np.full((1, 1, 3), (40, 80, 200), np.uint8)
    hue, saturation, value = colorsys.rgb_to_hsv(*shift_hsv(image, (20, -30, 25))[0, 0, ::-1] / 255)
    was = colorsys.rgb_to_hsv(200 / 255, 80 / 255, 40 / 255)
    assert hue * 180 == pytest.approx(was[0] * 180 + 20, abs=1.5)
    assert saturation * 255 == pytest.approx(was[1] * 255 - 30, abs=2)
    assert value * 255 == pytest.approx(was[2] * 255 + 25, abs=1)


def test_gains() -> None:
    rng = np.random.default_rng(0)
    gains = np.array([draw_gains((5, 30, 30), rng) for _ in range(2000)])
    assert (np.abs(gains).max(axis=0) <= [4, 29, 29]).all()  # cut off towards zero: the strength is not reached
    assert ((gains == 0).mean(axis=0) > 0.5).all()
    assert np.abs(gains.mean(axis=0) / [5, 30, 30]).max() < 0.05
    assert draw_gains((0, 0, 0), rng) == (0, 0, 0)


@settings(deadline=None, max_examples=300)
@given(seeds)
def test_the_affine_stays_in_its_limits(seed: int) -> None:
    options = AffineOptions(shift=0.1, rotate=10, scale=(0.75, 1.0), shear=0)
    matrix = draw_jitter(options, np.random.default_rng(seed)).matrix((100, 100), (128, 192))
    scale = np.sqrt(np.linalg.det(matrix))
    assert 0.75 <= scale <= 1.0
    assert abs(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))) <= 10
    np.testing.assert_allclose(matrix[:2, :2] @ matrix[:2, :2].T, np.eye(2) * scale**2, atol=1e-12)
    moved = (matrix @ [96, 64, 1])[:2] - [96, 64]
    assert (np.abs(moved) <= [19.2, 12.8]).all()


def test_the_affine_as_the_reference_multiplies_it() -> None:
    """Centre and shift, shear, rotation, enlargement, centre: one draw, by hand."""
    jitter = draw_jitter(AffineOptions(), np.random.default_rng(5))
    dx, dy, size, turn, shear_x, shear_y = np.random.default_rng(5).uniform(-1, 1, 6)
    angle, scale = np.radians(10 * turn), 0.75 + 0.25 * (size + 1) / 2
    there = np.array([[1, 0, 96 + 19.2 * dx], [0, 1, 64 + 12.8 * dy], [0, 0, 1]])
    shear = np.array([[1, np.tan(np.radians(2 * shear_x)), 0], [np.tan(np.radians(2 * shear_y)), 1, 0], [0, 0, 1]])
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    back = np.array([[1, 0, -96], [0, 1, -64], [0, 0, 1]])
    expected = there @ shear @ turned @ np.diag([scale, scale, 1]) @ back
    np.testing.assert_allclose(jitter.matrix((1, 1), (128, 192)), expected, atol=1e-9)


@settings(deadline=None, max_examples=300)
@given(seeds)
def test_the_window_stays_in_its_limits(seed: int) -> None:
    matrix = draw_jitter(WindowOptions(), np.random.default_rng(seed)).matrix((96, 128), (128, 128))
    scale = np.sqrt(np.linalg.det(matrix))
    assert 1 / 1.5 <= scale <= 1 / 0.75
    assert abs(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))) <= 30
    seen = (np.linalg.inv(matrix) @ [64, 64, 1])[:2] - 64  # what the window's middle looks at
    assert (np.abs(seen) <= [0.2 * 128 + 1e-9, 0.2 * 96 + 1e-9]).all()


def test_a_very_long_picture() -> None:
    """OpenCV refuses to warp a side of more than 32766 pixels."""
    image = np.zeros((20, 40_000, 3), np.uint8)
    image[:, 30_000:] = 255
    matrix = np.array([[0.01, 0, 0], [0, 1, 0], [0, 0, 1]])
    row = warp_image(image, matrix, (20, 400))[10, :, 0]
    assert (row[1:299] == 0).all()
    assert (row[302:399] == 255).all()


def test_random_sizes() -> None:
    drawn = [random_size((640, 640), 3, iteration) for iteration in range(400)]
    assert {height for height, _ in drawn} == set(range(480, 801, 32))
    assert all(height == width for height, width in drawn)
    assert drawn == [random_size((640, 640), 3, iteration) for iteration in range(400)]
    assert drawn != [random_size((640, 640), 4, iteration) for iteration in range(400)]
    wide = {random_size((384, 640), 0, iteration, span=(320, 448)) for iteration in range(100)}
    assert wide == {(320, 512), (352, 576), (384, 640), (416, 672), (448, 736)}
    with pytest.raises(UsageError, match="span"):
        random_size((640, 640), 0, 0, span=(0, 10))
