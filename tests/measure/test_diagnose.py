"""What would explain a disagreement: the usual mistakes are named, and nothing is made up where there is none."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.data.sample import People
from rtmo_deploy.measure.agreement.causes import best_move, explain_misses, find_causes, fit, fit_move, moved
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.letterbox import letterbox
from rtmo_deploy.zoo import COCO_17

SIGMAS = COCO_17.sigmas
seeds = st.integers(0, 2**32 - 1)


def people(count, seed=0, *, spread=500):
    """People of some 60 by 120 pixels, their joints anywhere in the box."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, spread, (count, 2))
    size = rng.uniform((40, 90), (80, 150), (count, 2))
    points = corner[:, None] + rng.uniform(0.05, 0.95, (count, 17, 2)) * size[:, None]
    boxes = np.concatenate([corner, corner + size], axis=1)
    return Poses(boxes, np.linspace(0.9, 0.5, count), points, np.full((count, 17), 0.9), COCO_17)


def album(seed=0, *, pictures=3):
    """People of some images."""
    return [people(3 + n % 2, seed + n) for n in range(pictures)]


def changed(one, points=None, boxes=None):
    return Poses(
        one.boxes if boxes is None else boxes,
        one.scores,
        one.keypoints if points is None else points,
        one.keypoint_scores,
        COCO_17,
    )


def reordered(one, order):
    return changed(one, one.keypoints[:, order])


def noisy(one, pixels, seed=0):
    rng = np.random.default_rng(seed)
    return changed(one, one.keypoints + rng.normal(0, pixels, one.keypoints.shape).astype(np.float32))


@given(seeds, st.sampled_from([0.0, 0.3]))
@settings(max_examples=20, deadline=None)
def test_left_and_right_swapped(seed, noise):
    one = album(seed)
    two = [noisy(reordered(poses, list(COCO_17.flip_indices())), noise) for poses in one]
    (cause,) = find_causes(one, two, SIGMAS)
    assert cause.startswith(
        "Keypoints fit in another order, as if left and right were swapped: the first model's left_eye is nearest to"
    )
    assert re.search(r"and 12 more \(median over \d+ people\)\.$", cause)


def test_one_pair_swapped():
    order = list(range(17))
    order[9], order[10] = 10, 9
    one = album()
    (cause,) = find_causes(one, [reordered(poses, order) for poses in one], SIGMAS)
    assert cause.startswith(
        "Keypoints fit in another order, as if left and right were swapped: the first model's left_wrist is nearest to "
        "where the second has right_wrist, right_wrist is nearest to where the second has left_wrist (median over "
    )


def test_another_order_is_not_called_left_and_right():
    order = list(range(17))
    order[0], order[11], order[16] = 11, 16, 0
    one = album()
    (cause,) = find_causes(one, [reordered(poses, order) for poses in one], SIGMAS)
    assert cause.startswith("Keypoints fit in another order: the first model's nose is nearest to where ")
    assert "left and right" not in cause


@given(seeds, st.tuples(st.floats(-300, 300), st.floats(-300, 300)), st.sampled_from([1.0, 1.5, 0.6]))
@settings(max_examples=20, deadline=None)
def test_a_letterbox_that_was_not_undone(seed, shift, scale):
    """However far it moves them: also if nobody is where the other list has somebody."""
    one = album(seed)
    two = [moved(poses, (scale, shift)) for poses in one]
    if np.hypot(*shift) < 1 and scale == 1:
        return
    (cause,) = find_causes(one, two, SIGMAS)
    told = "" if scale == 1 else f"scaled by {scale:.4f} and "
    assert cause.startswith(f"The second model's keypoints fit the first's {told}shifted by ")
    found = [float(part.rstrip(",")) for part in cause.split("shifted by ")[1].split(" px")[0].split()]
    assert found == pytest.approx(list(shift), abs=0.02 * max(1, abs(scale)))
    assert "letterbox" in cause


@given(seeds, st.floats(0.1, 30))
@settings(max_examples=20, deadline=None)
def test_noise_has_no_cause(seed, pixels):
    one = album(seed)
    assert find_causes(one, [noisy(poses, pixels, seed) for poses in one], SIGMAS) == []


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_strangers_have_no_cause(seed):
    assert find_causes(album(seed), album(seed + 1000), SIGMAS) == []


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_and_one_alone(count):
    one, nobody = [people(count)], [people(0)]
    assert find_causes(one, nobody, SIGMAS) == find_causes(nobody, one, SIGMAS) == []
    assert best_move(one, nobody, SIGMAS) is None
    away = [moved(one[0], (1.0, (900.0, 0.0)))]
    assert find_causes(one, away, SIGMAS) == []  # one person elsewhere is another person


def test_what_is_not_finite_does_no_harm():
    one = album()
    broken = [changed(poses, np.full_like(poses.keypoints, np.nan)) for poses in one]
    assert find_causes(one, broken, SIGMAS) == find_causes(broken, one, SIGMAS) == []


@given(seeds, st.floats(0.3, 3), st.floats(-99, 99), st.floats(-99, 99))
@settings(max_examples=20, deadline=None)
def test_a_move_is_found(seed, scale, dx, dy):
    a = people(3, seed).keypoints.astype(np.float64)
    b = scale * a + (dx, dy)
    found = fit_move(a, b)
    if np.allclose(a, b):
        return
    assert found is not None
    assert (
        np.median(np.linalg.norm(found[0] * a + found[1] - b, axis=-1))
        <= 0.25 * np.median(np.linalg.norm(a - b, axis=-1)) + 1e-9
    )


class TestInputs:
    """A second model that agrees once its input is prepared otherwise; its keypoints are ``off`` pixels away if not."""

    IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 3, 8, 8)).astype(np.float32)

    def causes(self, right, off):
        one = album()
        return find_causes(
            one,
            [noisy(poses, off) for poses in one],
            SIGMAS,
            rerun=lambda change: one if right(change(self.IMAGES)) else [noisy(poses, off, 1) for poses in one],
            on=[0, 1, 2],
        )

    @pytest.mark.parametrize("off", [0.3, 3.0, 100.0])
    def test_a_network_for_rgb(self, off):
        (cause,) = self.causes(lambda images: np.array_equal(images, self.IMAGES[:, ::-1]), off)
        assert "it is given its channels reversed (RGB)" in cause

    def test_a_network_for_fractions(self):
        (cause,) = self.causes(lambda images: images.max() <= 1 and np.allclose(images * 255, self.IMAGES), 3.0)
        assert "values from 0 to 1" in cause

    def test_another_one(self):
        assert self.causes(lambda _: False, 3.0) == []


FRAMES = [letterbox(np.zeros((*size, 3), np.uint8), (256, 256))[1] for size in ((480, 640), (640, 360), (300, 300))]
MISTAKES = {
    "the letterbox's padding was not taken away": lambda p, t: p + np.array(t.offset) / t.scale,
    "a padding was taken away that the image does not have": lambda p, t: p - np.array(t.offset) / t.scale,
    "the letterbox's scale was not undone": lambda p, t: p * t.scale,
    "their coordinates were those of the network's input": lambda p, t: t.to_input(p),
    "left and right of their keypoints were swapped": lambda p, _: p[:, COCO_17.flip_indices()],
}


def annotated(poses, *, hidden=0.2, seed=0):
    seen = np.random.default_rng(seed).uniform(size=poses.keypoint_scores.shape) > hidden
    areas = (poses.boxes[:, 2:] - poses.boxes[:, :2]).prod(axis=1) * 0.53
    return People(poses.boxes, np.where(seen[..., None], poses.keypoints, 0), 2.0 * seen, areas)


class TestAnnotated:
    @pytest.mark.parametrize("words", MISTAKES)
    @pytest.mark.parametrize("noise", [0.0, 4.0])
    def test_a_mistake_is_named(self, words, noise):
        people_found = album()
        truth = [annotated(poses, seed=n) for n, poses in enumerate(people_found)]
        wrong = [
            MISTAKES[words](noisy(poses, noise).keypoints.astype(float), frame)
            for poses, frame in zip(people_found, FRAMES, strict=True)
        ]
        (cause,) = explain_misses(truth, wrong, COCO_17, SIGMAS, frames=FRAMES)
        assert words in cause, cause

    @given(seeds, st.floats(0, 60))
    @settings(max_examples=20, deadline=None)
    def test_a_model_that_is_merely_bad_has_no_cause(self, seed, pixels):
        people_found = album(seed)
        truth = [annotated(poses, seed=seed) for poses in people_found]
        found = [noisy(poses, pixels, seed).keypoints for poses in people_found]
        assert explain_misses(truth, found, COCO_17, SIGMAS, frames=FRAMES, reversed_channels=lambda: found) == []

    def test_one_pair_swapped(self):
        order = list(range(17))
        order[15], order[16] = 16, 15
        people_found = album()
        truth = [annotated(poses, hidden=0.0) for poses in people_found]
        found = [reordered(poses, order).keypoints for poses in people_found]
        (cause,) = explain_misses(truth, found, COCO_17, SIGMAS, frames=FRAMES)
        assert cause.startswith(
            "Keypoints fit in another order, as if left and right were swapped: the annotated left_ankle is nearest to "
            "where the model has right_ankle, right_ankle is nearest to where the model has left_ankle (median over "
        )

    def test_reversed_channels(self):
        good = album()
        truth = [annotated(poses) for poses in good]
        worse = [noisy(poses, 6.0).keypoints for poses in good]
        better = [poses.keypoints for poses in good[:2]]
        (cause,) = explain_misses(truth, worse, COCO_17, SIGMAS, frames=FRAMES, reversed_channels=lambda: better)
        assert cause.startswith("People fit the annotations better with red and blue exchanged in 2 images (mean")

    def test_nobody(self):
        none = [people(0).keypoints] * 3
        truth = [annotated(people(0))] * 3
        assert explain_misses(truth, none, COCO_17, SIGMAS, frames=FRAMES) == []
        somebody = [annotated(poses) for poses in album()]
        assert explain_misses(somebody, none, COCO_17, SIGMAS, frames=FRAMES, reversed_channels=list) == []

    def test_a_perfect_fit(self):
        good = album()
        assert fit([annotated(p) for p in good], [p.keypoints for p in good], SIGMAS) == pytest.approx(1.0)
