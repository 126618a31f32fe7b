"""The decode kernel, the very statements that a GPU runs, finds what plain NumPy finds: to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from plugin_host import (
    THREAD_ORDERS,
    assert_same,
    exact_corners,
    exact_exp,
    exact_sigmoid,
    numpy_people,
    run_host,
    select,
)

from rtmo_deploy.runtime.decode import decode_boxes, sigmoid
from rtmo_deploy.runtime.plugins.kernel import DecodeFields
from rtmo_deploy.runtime.rows import iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

#: The same scenes on every run: what they compare is arithmetic.
SCENES = settings(max_examples=200, derandomize=True, deadline=None)
NOBODY = -9.0
DEFAULT = DecodeFields(max_dets=20, score_thr=0.1, nms_thr=0.65)
KINDS = ("empty", "one", "few", "ties", "together", "crowd", "hostile")


def make_scene(kinds: list[str], cells: int, seed: int) -> tuple[Array, Array, Array]:
    """Logits ``(B, P)``, boxes ``(B, P, 4)`` and priors ``(P, 2)``: one image of each kind."""
    rng = np.random.default_rng(seed)
    priors = rng.uniform(0, 128, (cells, 2))
    logits = np.full((len(kinds), cells), NOBODY)
    boxes = np.concatenate(
        [rng.normal(0, 12, (len(kinds), cells, 2)), np.log(rng.uniform(4, 128, (len(kinds), cells, 2)))], axis=-1
    )
    for image, kind in enumerate(kinds):
        if kind == "empty":
            continue
        if kind == "one":
            logits[image, rng.integers(cells)] = rng.uniform(-2, 3)
            continue
        some = rng.random(cells) < {"few": 0.1, "ties": 0.5, "together": 0.7, "crowd": 1.0, "hostile": 0.6}[kind]
        steps = 2 if kind == "ties" else 1000
        logits[image, some] = (rng.integers(-steps, steps, cells) / steps * 3)[some]
        if kind in {"together", "crowd", "ties"}:
            spot, spread = rng.uniform(0, 128, 2), rng.uniform(0.1, 20)
            near = rng.random(cells) < (1.0 if kind == "together" else 0.5)
            boxes[image, near, :2] = (spot + rng.normal(0, spread, (cells, 2)) - priors)[near]
            boxes[image, near, 2:] = np.log(rng.uniform(40, 80, 2)) + rng.normal(0, 0.1, (near.sum(), 2))
        if kind == "hostile":
            odd = [np.nan, np.inf, -np.inf, 90.0, -110.0, 0.0, -0.0, 3e38]
            logits[image, rng.random(cells) < 0.2] = rng.choice(odd)
            boxes[image, rng.random(cells) < 0.2] = rng.choice(odd, 4)
    return logits.astype(np.float32), boxes.astype(np.float32), priors.astype(np.float32)


def compare(scene: tuple[Array, Array, Array], fields: DecodeFields) -> list[list[int]]:
    """The host build in every order of threads against NumPy; the kept cells."""
    with np.errstate(invalid="ignore", over="ignore"):
        expected = numpy_people(*scene, fields)
    for order in THREAD_ORDERS:
        assert_same(run_host(*scene, fields, order), expected)
    return [cells for cells, _, _ in expected]


FIELDS = st.builds(
    DecodeFields,
    max_dets=st.integers(1, 30),
    score_thr=st.sampled_from([0.0001, 0.1, 0.3, 0.5, 0.9, 1.0]) | st.floats(0.0002, 1),
    nms_thr=st.sampled_from([0.0, 0.3, 0.65, 1.0]) | st.floats(0, 1),
    pre_topk=st.just(0) | st.integers(1, 60),
)


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    cells=st.sampled_from([1, 5, 60, 320, 511, 512, 513, 700]),
    seed=st.integers(0, 2**32),
    fields=FIELDS,
)
@SCENES
def test_the_kernel_is_numpy(kinds: list[str], cells: int, seed: int, fields: DecodeFields) -> None:
    kept = compare(make_scene(kinds, cells, seed), fields)
    event(f"most people: {min(max(map(len, kept)), 10)}")


@pytest.mark.parametrize("scenes", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_scenes(scenes: int) -> None:
    rng = np.random.default_rng(0)
    people = 0
    for seed in range(scenes):
        kinds = [str(kind) for kind in rng.choice(KINDS, rng.integers(1, 3))]
        fields = DecodeFields(
            max_dets=int(rng.integers(1, 40)),
            score_thr=float(rng.choice([0.05, 0.1, 0.3])),
            nms_thr=float(rng.choice([0.3, 0.5, 0.65])),
            pre_topk=int(rng.choice([0, 10, 60])),
        )
        scene = make_scene(kinds, int(rng.choice([20, 60, 320])), seed)
        with np.errstate(invalid="ignore", over="ignore"):
            expected = numpy_people(*scene, fields)
        assert_same(run_host(*scene, fields, seed % 3), expected)
        people += sum(len(cells) for cells, _, _ in expected)
    assert people > 5 * scenes


def blank(batch: int = 1, cells: int = 80) -> tuple[Array, Array, Array]:
    """Nobody, boxes of 10x10 pixels, 100 pixels apart."""
    priors = np.stack([np.arange(cells) * 100.0, np.zeros(cells)], axis=1).astype(np.float32)
    boxes = np.zeros((batch, cells, 4), np.float32)
    boxes[..., 2:] = np.log(10.0)
    return np.full((batch, cells), NOBODY, np.float32), boxes, priors


@pytest.mark.parametrize("batch", [1, 3])
def test_nobody(batch: int) -> None:
    assert compare(blank(batch), DEFAULT) == [[]] * batch


def test_one_person() -> None:
    scene = blank()
    scene[0][0, 7] = 0.0
    assert compare(scene, DEFAULT) == [[7]]
    rows = run_host(*scene, DEFAULT)
    assert rows.scores[0, 0] == 0.5
    np.testing.assert_allclose(rows.boxes[0, 0], [695, -5, 705, 5], rtol=1e-6)


def test_equal_scores_go_to_the_lower_cell() -> None:
    scene = blank()
    scene[0][0, [60, 3, 41]] = 1.0
    scene[1][0, [3, 60], :2] = np.array([5000.0, 0.0]) - scene[2][[3, 60]]
    assert compare(scene, DEFAULT) == [[3, 41]]


def test_equal_scores_across_the_block() -> None:
    # Cells 5 and 517 are of one thread, 4 and 516 of another.
    scene = blank(cells=1100)
    scene[0][0, [5, 517, 4, 516, 1029]] = 1.0
    assert compare(scene, DEFAULT) == [[4, 5, 516, 517, 1029]]


def test_thousands_of_candidates_apart() -> None:
    scene = blank(cells=2000)
    scene[0][0] = np.random.default_rng(0).permutation(2000) / 1000
    for most in (100, 300):
        kept = compare(scene, DecodeFields(max_dets=most, score_thr=0.1, nms_thr=0.65))[0]
        assert kept == np.argsort(-scene[0][0], kind="stable")[:most].tolist()


def test_thousands_of_candidates_overlapping() -> None:
    logits, boxes, priors = make_scene(["together", "crowd"], 2000, 5)
    logits[:] = np.random.default_rng(1).uniform(-2, 3, logits.shape)
    kept = compare((logits, boxes, priors), DecodeFields(max_dets=100, score_thr=0.1, nms_thr=0.65))
    assert 1 <= len(kept[0]) <= 100


def test_all_on_one_spot() -> None:
    logits, boxes, priors = blank(cells=600)
    boxes[0, :, :2] = -priors
    logits[0] = np.linspace(-1, 1, 600)
    assert compare((logits, boxes, priors), DEFAULT) == [[599]]
    assert compare((logits, boxes, priors), DecodeFields(20, 0.1, 1.0))[0] == list(range(599, 579, -1))


def test_a_dead_candidate_takes_a_place_before_the_suppression() -> None:
    logits, boxes, priors = blank()
    logits[0, :4] = [3, 2, 1, 0.5]
    boxes[0, 1, :2] = [-100, 0]  # on the spot of 0, and so suppressed
    assert compare((logits, boxes, priors), DecodeFields(20, 0.1, 0.65, pre_topk=3)) == [[0, 2]]
    assert compare((logits, boxes, priors), DecodeFields(20, 0.1, 0.65, pre_topk=4)) == [[0, 2, 3]]
    assert compare((logits, boxes, priors), DecodeFields(1, 0.1, 0.65, pre_topk=4)) == [[0]]


def test_nan_scores_are_nobody() -> None:
    scene = blank(2)
    scene[0][0, :] = np.nan
    scene[0][1, [4, 9]] = [np.nan, 1]
    assert compare(scene, DEFAULT) == [[], [9]]


def test_nan_boxes_suppress_nobody() -> None:
    # As in the reference: an overlap that is NaN is not above the threshold.
    logits, boxes, priors = blank()
    logits[0, [1, 2, 3]] = [3, 2, 1]
    boxes[0, 1] = np.nan
    boxes[0, 3, :2] = [-100, 0]  # on the spot of 2
    assert compare((logits, boxes, priors), DEFAULT) == [[1, 2]]


def test_overlaps_fall_as_in_numpy_to_the_last_bit() -> None:
    # Thresholds that are somebody's overlap: a sum in another order, or without a rounding, falls the other way.
    for seed in range(25):
        logits, boxes, priors = make_scene(["together"], 60, seed)
        corners, best = exact_corners(boxes[0], priors), int(np.argmax(logits[0]))
        overlaps = iou(corners[best], corners[logits[0] > NOBODY])
        for overlap in overlaps[(overlaps > 0.05) & (overlaps < 0.95)][:8]:
            for threshold in (overlap, np.nextafter(overlap, np.float32(0))):
                compare((logits, boxes, priors), DecodeFields(60, 0.05, float(threshold)))


@pytest.mark.parametrize(("side", "kept"), [(2e-3, [1]), (5e-4, [1, 2])])
def test_unions_are_bounded_below(side: float, kept: list[int]) -> None:
    # Two boxes of 4e-6 square pixels on one spot overlap by all; of 2.5e-7 by a quarter, for the union counts as 1e-6.
    logits, boxes, priors = blank()
    logits[0, [1, 2]] = [2, 1]
    boxes[0, :, :2] = -priors
    boxes[0, :, 2:] = np.log(side)
    assert compare((logits, boxes, priors), DEFAULT) == [kept]


def test_infinite_boxes() -> None:
    logits, boxes, priors = blank()
    logits[0, :6] = [6, 5, 4, 3, 2, 1]
    boxes[0, 0] = [0, 0, 90, 90]  # of infinite size
    boxes[0, 1] = [0, 0, 90, 1]
    boxes[0, 2] = [-np.inf, 0, 90, 1]  # x2 alone is NaN
    boxes[0, 3] = [np.inf, 0, 90, 1]  # x1 alone is NaN
    boxes[0, 4] = [3e38, 3e38, 88, 88]
    boxes[0, 5] = [-500, 0, -200, 1]  # of no width
    assert compare((logits, boxes, priors), DEFAULT) == [[0, 1, 2, 3, 4, 5]]


def test_score_at_the_threshold_is_nobody() -> None:
    scene = blank()
    scene[0][0, [3, 7, 17]] = [0.0, 1e-5, -1e-5]
    assert compare(scene, DecodeFields(20, 0.5, 0.65)) == [[7]]


def test_images_do_not_mix() -> None:
    scene = make_scene(["crowd", "empty", "together", "one", "crowd"], 320, 3)
    whole = run_host(*scene, DEFAULT)
    for image in range(5):
        alone = run_host(scene[0][image : image + 1], scene[1][image : image + 1], scene[2], DEFAULT)
        assert alone.people(0)[0] == whole.people(image)[0]


def test_exponential_is_rounded_once() -> None:
    # Boxes of half width exp(x) / 2: the kernel's exp, over all of its range and past it.
    x = np.concatenate(
        [np.linspace(-120, 100, 200_000), [88.7228, 88.72284, 89, -103.9721, -103.98, -104, -104.1, np.inf, -np.inf]]
    ).astype(np.float32)
    cells = len(x)
    boxes = np.zeros((1, cells, 4), np.float32)
    boxes[0, :, 2] = x
    rows = run_host(
        np.full((1, cells), 5, np.float32), boxes, np.zeros((cells, 2), np.float32), DecodeFields(1, 0.1, 1)
    )
    np.testing.assert_array_equal(rows.work[0, 3], exact_exp(x) / 2)
    np.testing.assert_array_equal(rows.work[0, 1], -exact_exp(x) / 2)


def test_scores_and_boxes_are_the_plain_decoders() -> None:
    # Within rounding: NumPy's float32 exp is up to 3 last bits off.
    rng = np.random.default_rng(2)
    x = rng.uniform(-9, 12, (1, 50_000)).astype(np.float32)
    boxes = rng.normal(0, 3, (1, 50_000, 4)).astype(np.float32)
    priors = rng.uniform(0, 640, (50_000, 2)).astype(np.float32)
    work = run_host(x, boxes, priors, DecodeFields(1, 0.0001, 1)).work[0]
    scores = np.abs(work[0])
    passed = scores > 0
    np.testing.assert_array_equal(scores, np.where(exact_sigmoid(x[0]) > np.float32(0.0001), exact_sigmoid(x[0]), 0))
    np.testing.assert_allclose(scores[passed], sigmoid(x[0])[passed], rtol=1e-6)
    ones = np.concatenate([priors, np.ones((50_000, 1), np.float32)], axis=1)
    np.testing.assert_allclose(work[1:].T[passed], decode_boxes(boxes[0], ones)[passed], rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("score_thr", [0.0001, 2**-13, 2**-9, 0.0625, 0.1, 0.124999, 0.5, 0.75, 0.999, 1.0])
def test_the_early_rejection_rejects_nobody(score_thr: float) -> None:
    x = np.linspace(-12, 20, 100_001, dtype=np.float32)[None]
    cells = x.shape[1]
    fields = DecodeFields(1, score_thr, 1)
    work = run_host(x, np.zeros((1, cells, 4), np.float32), np.zeros((cells, 2), np.float32), fields).work[0]
    np.testing.assert_array_equal(work[0] != 0, exact_sigmoid(x[0]) > np.float32(score_thr))


def test_the_suppression_is_numpy_on_the_kernels_own_boxes() -> None:
    # Independent of how exp is computed: what the kernel decoded, given to the plain suppression.
    for seed in range(30):
        logits, boxes, priors = make_scene(["crowd", "together", "ties"], 500, seed)
        rows = run_host(logits, boxes, priors, DecodeFields(100, 0.1, 0.5))
        for image in range(3):
            scores, corners = np.abs(rows.work[image, 0]), rows.work[image, 1:].T
            assert rows.people(image)[0] == select(scores, corners, DecodeFields(100, 0.1, 0.5))


def test_the_comparison_can_fail() -> None:
    scene = make_scene(["together"], 320, 8)
    other = (scene[0], exact_corners(scene[1], scene[2]), scene[2])
    with pytest.raises(AssertionError):
        assert_same(run_host(*scene, DEFAULT), numpy_people(*other, DEFAULT))
