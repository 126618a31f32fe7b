"""Samples as the network is trained on them."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.data import People, Sample
from rtmo_deploy.errors import UsageError
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.train.augment import AffineOptions, Augmenter, AugmentOptions, WindowOptions
from rtmo_deploy.train.augment.mixing import MosaicPlan

FOUR = Skeleton("four", ("left_hand", "right_hand", "left_foot", "nose"), flip_pairs=((0, 1),))
SIGMA = 3.0
AREA = 100.0
PAD = 114


class Dots:
    """Images of the padding's grey with one person: a bright spot at each keypoint, the nose unlabelled.

    The person's size is known from the area, and everything left of it is in the mask.
    """

    skeleton = FOUR

    def __init__(self, seed: int, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes
        self.reads: list[int] = []
        self.samples = [self._paint(np.random.default_rng((seed, i)), *size) for i, size in enumerate(sizes)]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        self.reads.append(index)
        return self.samples[index]

    def _paint(self, rng: np.random.Generator, height: int, width: int) -> Sample:
        spots = np.array([[0.25, 0.25], [0.75, 0.3], [0.3, 0.75]]) * (width, height) + rng.uniform(-6, 6, (3, 2))
        y, x = np.mgrid[:height, :width]
        light = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * SIGMA**2)) for a, b in spots)
        image = np.repeat((PAD + 130 * np.minimum(light, 1)).astype(np.uint8)[..., None], 3, axis=2)
        image.flags.writeable = False  # the dataset's arrays are left alone
        box = np.concatenate([spots.min(axis=0) - 8, spots.max(axis=0) + 8])[None]
        ignore = np.zeros((height, width), np.bool_)
        ignore[:, : int(box[0, 0])] = True
        keypoints, visible = np.vstack([spots, [[0, 0]]])[None], np.array([[2, 1, 2, 0]])
        return Sample(image, People(box, keypoints, visible, [AREA]), 7, "dots", ignore)


def spot_near(image: np.ndarray, x: float, y: float, radius: int) -> tuple[float, float]:
    """The middle of the brightest spot around x, y."""
    left, top = round(x) - radius, round(y) - radius
    patch = image[top : top + 2 * radius + 1, left : left + 2 * radius + 1, 0].astype(float) - PAD
    bright = np.where(patch > patch.max() * 0.6, patch, 0)
    rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]]
    return left + (columns * bright).sum() / bright.sum(), top + (rows * bright).sum() / bright.sum()


def check_spots(sample: Sample, inner: np.ndarray | None = None, tolerance: float = 0.75, border: int = 12) -> int:
    """Every labelled keypoint well inside the image has its spot; how many there were.

    A spot is looked for where ``inner`` is True all around it: else the edge of its image, or of the canvas of a
    mosaic, may cut it.
    """
    height, width = sample.image.shape[:2]
    inner = np.ones((height, width), bool) if inner is None else inner
    found = 0
    for person in range(len(sample.people)):
        radius = min(9, 2 + int(2.5 * SIGMA * np.sqrt(sample.people.areas[person] / AREA)))
        for x, y in sample.people.keypoints[person][sample.people.visible[person] > 0]:
            left, top = max(0, round(x) - radius), max(0, round(y) - radius)
            whole = inner[top : round(y) + radius + 1, left : round(x) + radius + 1].all()
            if whole and border <= x < width - border and border <= y < height - border:
                assert np.hypot(*np.subtract(spot_near(sample.image, x, y, radius), (x, y))) < tolerance
                found += 1
    return found


sizes = st.lists(st.tuples(st.integers(90, 220), st.integers(90, 220)), min_size=1, max_size=4)
seeds = st.integers(0, 2**31)
plain = AugmentOptions((128, 192))
recipes = st.sampled_from(
    [
        plain,
        replace(plain, flip=1.0),
        replace(plain, affine=AffineOptions(), flip=0.5),
        replace(plain, affine=WindowOptions()),
        replace(plain, mosaic=1.0, flip=0.5),
        replace(plain, mosaic=1.0, affine=WindowOptions()),
        replace(AugmentOptions.coco((192, 128), mixup=False), ignore=True, hsv=(0, 0, 0)),
        replace(AugmentOptions.crowdpose((128, 128)), mixup=0.0, hsv=(0, 0, 0)),
        replace(AugmentOptions.crowdpose((128, 128)), mosaic=0.5, mixup=0.0, hsv=(0, 0, 0)),
    ]
)


@settings(deadline=None, max_examples=200)
@given(seeds, sizes, recipes)
def test_keypoints_follow_their_pixels(seed: int, sizes: list[tuple[int, int]], options: AugmentOptions) -> None:
    dots = Dots(seed, sizes)
    sample = Augmenter(dots, options)(0, np.random.default_rng(seed))
    assert sample.image.shape == (*options.input_hw, 3)
    assert sample.image.dtype == np.uint8
    assert sample.image.flags["C_CONTIGUOUS"]
    for one in dots.samples:  # white, with a rim of the padding's grey
        one.image.flags.writeable = True
        one.image[:] = PAD
        one.image[4:-4, 4:-4] = 255
    inner = Augmenter(dots, options)(0, np.random.default_rng(seed)).image[..., 0] > 250
    check_spots(sample, inner)


def test_most_keypoints_can_be_looked_for() -> None:
    """Otherwise the test above would say nothing."""
    options = replace(AugmentOptions.coco((192, 192), mixup=False), hsv=(0, 0, 0))
    samples = [Augmenter(Dots(i, [(150, 200)] * 3), options)(0, np.random.default_rng(i)) for i in range(30)]
    assert (
        sum(check_spots(sample) for sample in samples) > 0.6 * sum((s.people.visible > 0).sum() for s in samples) > 60
    )


@settings(deadline=None, max_examples=200)
@given(seeds, sizes, recipes)
def test_people_fit_the_frame(seed: int, sizes: list[tuple[int, int]], options: AugmentOptions) -> None:
    sample = Augmenter(Dots(seed, sizes), options)(0, np.random.default_rng(seed))
    people, (height, width) = sample.people, options.input_hw
    assert (people.boxes[:, 2:] - people.boxes[:, :2] > 1).all()
    labelled = people.visible > 0
    assert labelled.any(axis=1).all()
    assert not labelled[:, 3].any()  # the nose never was
    assert (people.keypoints[~labelled] == 0).all()
    assert set(np.unique(people.visible)) <= {0, 1, 2}
    limits = np.array([width, height])
    assert (people.boxes >= -1).all()  # -1: clipped at the right border, then mirrored
    assert (people.boxes <= np.tile(limits, 2)).all()
    inside = (people.keypoints >= people.boxes[:, None, :2] - 0.01) & (
        people.keypoints <= people.boxes[:, None, 2:] + 0.01
    )
    assert inside.all(axis=-1)[labelled].all()
    assert (people.areas > 0).all()


@settings(deadline=None, max_examples=50)
@given(seeds, sizes)
def test_letterboxed_numbers(seed: int, sizes: list[tuple[int, int]]) -> None:
    dots = Dots(seed, sizes)
    before = dots.samples[0].people
    after = Augmenter(dots, plain)(0, np.random.default_rng(0)).people
    scale = min(128 / sizes[0][0], 192 / sizes[0][1])
    offset = (np.array([192, 128]) - scale * np.array(sizes[0][::-1])) / 2
    np.testing.assert_allclose(after.areas, before.areas * scale**2, rtol=1e-5)
    np.testing.assert_allclose(after.keypoints[0, :3], before.keypoints[0, :3] * scale + offset, atol=1e-3)
    np.testing.assert_allclose(after.boxes, before.boxes * scale + np.tile(offset, 2), atol=1e-3)


@settings(deadline=None, max_examples=60)
@given(seeds, sizes, recipes)
def test_the_mask_follows(seed: int, sizes: list[tuple[int, int]], options: AugmentOptions) -> None:
    """The mask is what one gets when it is painted into the image."""
    dots = Dots(seed, sizes)
    options = replace(options, ignore=True)
    sample = Augmenter(dots, options)(0, np.random.default_rng(seed))
    assert sample.ignore is not None
    assert sample.ignore.shape == options.input_hw
    assert sample.ignore.dtype == np.bool_
    dots.samples = [
        replace(s, image=np.repeat(np.where(s.ignore, 255, PAD).astype(np.uint8)[..., None], 3, axis=2))
        for s in dots.samples
    ]
    painted = Augmenter(dots, options)(0, np.random.default_rng(seed)).image[..., 0]
    # Outside an image the mask's False meets the padding's grey: a border may be off by a pixel.
    assert (sample.ignore ^ (painted > (255 + PAD) / 2)).mean() <= 0.02
    core = cv2.erode(sample.ignore.astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
    assert (painted[core] > 240).all()


def test_the_mask_is_dropped_when_not_asked_for() -> None:
    dots = Dots(0, [(100, 100)])
    assert Augmenter(dots, replace(plain, ignore=False))(0, np.random.default_rng(0)).ignore is None
    dots.samples = [replace(sample, ignore=None) for sample in dots.samples]
    for options in (plain, replace(AugmentOptions.coco((128, 128)), ignore=True)):
        assert Augmenter(dots, options)(0, np.random.default_rng(0)).ignore is None


@settings(deadline=None, max_examples=40)
@given(seeds, sizes)
def test_the_generator_decides_everything(seed: int, sizes: list[tuple[int, int]]) -> None:
    augmenter = Augmenter(Dots(seed, sizes), AugmentOptions.coco((128, 128)))
    copy = pickle.loads(pickle.dumps(augmenter))
    first, second = augmenter(0, np.random.default_rng((1, 2, seed))), copy(0, np.random.default_rng((1, 2, seed)))
    np.testing.assert_array_equal(first.image, second.image)
    for name in ("boxes", "keypoints", "visible", "areas"):
        np.testing.assert_array_equal(getattr(first.people, name), getattr(second.people, name))
    third = augmenter(0, np.random.default_rng((1, 3, seed)))
    assert (first.image != third.image).any()
    assert (first.name, first.image_id) == ("dots", 7)


@settings(deadline=None, max_examples=40)
@given(seeds, sizes)
def test_unread_pictures_would_not_be_seen(seed: int, sizes: list[tuple[int, int]]) -> None:
    dots = Dots(seed, sizes)
    augmenter = Augmenter(dots, replace(AugmentOptions.coco((128, 128), mixup=False), ignore=True))
    sparing = augmenter(0, np.random.default_rng(seed))
    assert 1 <= len(dots.reads) <= 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MosaicPlan, "_seen", lambda *_: True)
        dots.reads.clear()
        everything = augmenter(0, np.random.default_rng(seed))
    assert len(dots.reads) == 4
    np.testing.assert_array_equal(sparing.image, everything.image)
    np.testing.assert_array_equal(sparing.people.keypoints, everything.people.keypoints)
    np.testing.assert_array_equal(sparing.people.boxes, everything.people.boxes)
    np.testing.assert_array_equal(sparing.ignore, everything.ignore)


def test_about_a_third_of_the_mosaics_pictures_need_no_reading() -> None:
    dots = Dots(0, [(100, 120)] * 4)
    augmenter = Augmenter(dots, AugmentOptions.coco((128, 128), mixup=False))
    for number in range(100):
        augmenter(0, np.random.default_rng(number))
    assert 200 < len(dots.reads) < 300


def test_a_sample_may_end_up_empty() -> None:
    dots = Dots(0, [(100, 100)])
    dots.samples = [replace(dots.samples[0], people=People.empty(4))]
    for options in (plain, AugmentOptions.coco((128, 128)), AugmentOptions.last_epochs((128, 128))):
        people = Augmenter(dots, options)(0, np.random.default_rng(0)).people
        assert len(people) == 0
        assert people.keypoints.shape == (0, 4, 2)


def test_people_without_keypoints_or_with_a_thin_box_are_left_out() -> None:
    dots = Dots(0, [(128, 192)])
    person = dots.samples[0].people
    blind = replace(person, visible=np.zeros_like(person.visible))
    thin = replace(person, boxes=person.boxes * [1, 1, 0, 1] + [0, 0, person.boxes[0, 0] + 1, 0])
    outside = replace(person, boxes=person.boxes + 300, keypoints=person.keypoints + 300)
    dots.samples = [replace(dots.samples[0], people=People.concatenate([blind, person, thin, outside]))]
    kept = Augmenter(dots, plain)(0, np.random.default_rng(0)).people
    np.testing.assert_array_equal(kept.areas, person.areas)
    np.testing.assert_allclose(kept.keypoints, person.keypoints, atol=1e-4)
    assert len(Augmenter(dots, replace(plain, min_keypoints=4))(0, np.random.default_rng(0)).people) == 0
    assert len(Augmenter(dots, replace(plain, min_box=150))(0, np.random.default_rng(0)).people) == 0


def test_the_published_recipes() -> None:
    """The numbers of configs/body_2d_keypoint/rtmo of MMPose 1.3.2."""
    coco = AugmentOptions.coco()
    assert coco == AugmentOptions(
        (640, 640),
        mosaic=1.0,
        mosaic_centre=(0.5, 1.5),
        affine=AffineOptions(shift=0.1, rotate=10, scale=(0.75, 1.0), shear=2),
        mixup=1.0,
        mixup_scale=(0.8, 1.6),
        hsv=(5, 30, 30),
        flip=0.5,
        ignore=False,
    )
    assert AugmentOptions.coco((416, 416), mixup=False) == replace(coco, input_hw=(416, 416), mixup=0.0)
    assert AugmentOptions.crowdpose() == replace(
        coco, affine=AffineOptions(shift=0.2, rotate=30, scale=(0.5, 1.5), shear=2), mixup_scale=(0.6, 1.6)
    )
    assert AugmentOptions.last_epochs() == AugmentOptions((640, 640), hsv=(5, 30, 30), flip=0.5)
    window = WindowOptions(shift=0.2, rotate=30, window=(0.75, 1.5))
    assert AugmentOptions.last_epochs(window=WindowOptions()).affine == window


def test_an_empty_dataset() -> None:
    with pytest.raises(UsageError, match="no image"):
        Augmenter(Dots(0, []), plain)


class RawCoco:
    """The annotations of a few photographs as the reference's dataset hands them to its pipeline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = json.loads((folder / "test_coco.json").read_text())
        self.skeleton = Skeleton.generic(17)

    def __len__(self) -> int:
        return len(self.data["images"])

    def __getitem__(self, index: int) -> Sample:
        info = self.data["images"][index]
        image = np.asarray(cv2.imread(str(self.folder / info["file_name"])), np.uint8)
        notes = [note for note in self.data["annotations"] if note["image_id"] == info["id"]]
        keypoints = np.array([note["keypoints"] for note in notes], np.float32).reshape(len(notes), 17, 3)
        boxes = np.array([note["bbox"] for note in notes], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clip(0, np.array([info["width"] - 1, info["height"] - 1] * 2))
        mask = np.zeros((image.shape[0] * 8, image.shape[1] * 8), np.uint8)
        for note in notes:
            if note["num_keypoints"] == 0:
                polygons = [np.array(part).reshape(-1, 2) * 8 for part in note["segmentation"]]
                cv2.fillPoly(mask, [polygon.round().astype(np.int32) for polygon in polygons], 1)
        mask = mask[4::8, 4::8]  # a pixel is in when its middle is
        people = People(boxes, keypoints[..., :2], keypoints[..., 2], [note["area"] for note in notes])
        return Sample(image, people, info["id"], info["file_name"], mask > 0)


def test_the_last_epochs_are_the_references(shared: Path) -> None:
    """Its dataset and stage-2 pipeline without colours and mirror, on real photographs and annotations."""
    expected = np.load(shared / "golden" / "preproc" / "train_stage2_targets.npz")
    dataset = RawCoco(shared / "data" / "coco")
    augmenter = Augmenter(dataset, replace(AugmentOptions.last_epochs(), hsv=(0, 0, 0), flip=0.0))
    masked = 0
    for index in range(len(dataset)):
        sample = augmenter(index, np.random.default_rng(index))
        people, key = sample.people, str(sample.image_id)
        np.testing.assert_allclose(people.boxes, expected[f"{key}.bboxes"], atol=1e-4)
        np.testing.assert_allclose(people.areas, expected[f"{key}.areas"], rtol=1e-5)
        np.testing.assert_array_equal(people.visible > 0, expected[f"{key}.keypoints_visible"] > 0)
        labelled = people.visible > 0
        np.testing.assert_allclose(
            people.keypoints[labelled], expected[f"{key}.keypoints"][labelled], atol=1e-4, rtol=1e-6
        )
        channels = sample.image.transpose(2, 0, 1).reshape(3, -1)
        np.testing.assert_array_equal(channels[:, ::401], expected[f"{key}.img_sample"])
        np.testing.assert_allclose(channels.mean(axis=1), expected[f"{key}.img_mean"], rtol=1e-5)
        assert sample.ignore is not None
        masked += int(sample.ignore.sum())
        # Which pixels of a polygon's outline belong to it is settled a little otherwise here.
        for axis, name, tolerance in ((1, "mask_rows", 1), (0, "mask_cols", 8)):
            reference, counted = expected[f"{key}.{name}"].astype(int), sample.ignore.sum(axis=axis)
            assert np.abs(counted - reference).max() <= tolerance
            np.testing.assert_array_equal(counted > 0, reference > 0)
    assert masked > 900
