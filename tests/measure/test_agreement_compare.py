"""Two models on the same tensors: what is fed, what is reported, what passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.errors import ArtifactError, InputDataError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.agreement import BOUNDS, ImageSource, Side, bounds_for, compare_models
from rtmo_deploy.measure.tensors import TensorError
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.zoo import COCO_17

ARTIFACT = Artifact(
    path=Path("x.onnx"),
    kind=Kind.ONNX,
    architecture="toy",
    skeleton=COCO_17,
    input=InputContract(64, 96),
    decode=DecodeContract(DecodeMode.FIXED),
)


class Toy:
    """Puts out the people it was given for every image, and remembers what it was fed."""

    name = "toy"

    def __init__(self, artifact, dets, keypoints, change=lambda value: value):
        self.artifact, self.device = artifact, "cpu"
        self.dets, self.keypoints, self.change = dets, keypoints, change
        self.fed = []

    def __call__(self, images):
        self.fed.append(images.copy())
        count = len(images)
        return {
            "dets": np.repeat(self.change(self.dets)[None], count, axis=0),
            "keypoints": np.repeat(self.keypoints[None], count, axis=0),
        }


def rows(count=3, *, score=0.8):
    """People as a graph puts them out."""
    x = 30 * np.arange(count, dtype=np.float32)
    dets = np.stack([x, x * 0 + 5, x + 25, x * 0 + 55, np.full(count, score, np.float32)], axis=1)
    points = np.random.default_rng(0).uniform(0, 25, (count, 17, 3)).astype(np.float32)
    points[..., 0] += x[:, None]
    points[..., 2] /= 25
    return dets, points


def side(artifact=ARTIFACT, change=lambda value: value, **kwargs):
    backend = Toy(artifact, *rows(**kwargs), change)
    return Side(artifact, backend, None, f"{id(backend):064x}")


@pytest.fixture
def pictures():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (40 + 10 * n, 80, 3), dtype=np.uint8) for n in range(5)]
    return ImageSource(tuple("abcde"), "toys", True, lambda index: images[index])


def moved(pixels):
    return lambda dets: dets + np.array([pixels, 0, pixels, 0, 0], np.float32)


def test_equal_models_pass_with_no_error_at_all(pictures):
    one, two = side(), side()
    report = compare_models(one, two, pictures, batch=2)
    assert (report.verdict, report.failures(), report.notes, report.causes) == ("agree", [], (), ())
    p = report.people
    assert (p.images, p.people_a, p.people_b, p.matched, p.missed, p.extra) == (5, 15, 15, 15, 0, 0)
    assert (p.oks_min, p.keypoint_px_max, p.box_px_max, p.score_max, p.score_ratio) == (1, 0, 0, 0, 1)
    assert report.input_hw == (64, 96)
    assert [len(images) for images in one.backend.fed] == [2, 2, 1]
    for first, second in zip(one.backend.fed, two.backend.fed, strict=True):
        assert np.array_equal(first, second)
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.worst(2) == [0, 1]


def test_files_of_one_name_are_told_apart_by_their_folders(pictures):
    report = compare_models(
        side(replace(ARTIFACT, path=Path("work/m.onnx"))), side(replace(ARTIFACT, path=Path("m.onnx"))), pictures
    )
    assert report.names == ("work/m.onnx", "m.onnx")


def test_a_fixed_batch_is_filled_and_the_filling_thrown_away(pictures):
    one, two = side(), side(replace(ARTIFACT, input=replace(ARTIFACT.input, batch=3)))
    report = compare_models(one, two, pictures, batch=4)
    assert [len(images) for images in two.backend.fed] == [3, 3, 3]
    assert np.array_equal(two.backend.fed[1][0], one.backend.fed[0][3])
    assert np.array_equal(two.backend.fed[1][1], two.backend.fed[1][2])
    assert (report.verdict, report.people.matched) == ("agree", 15)


def test_a_box_too_far_fails_and_says_so(pictures):
    report = compare_models(side(), side(change=moved(0.2)), pictures)
    assert report.verdict == "differ"
    assert report.failures() == ["the worst box is off by 0.2 px, bound 0.05 px"]
    assert compare_models(side(), side(change=moved(0.2)), pictures, bounds=BOUNDS["fp16"]).failures() == []


def test_scores_too_far_fail(pictures):
    report = compare_models(side(), side(score=0.81), pictures)
    assert report.failures() == ["the worst score is off by 0.01, bound 0.0001"]
    assert report.people.score_ratio == pytest.approx(0.81 / 0.8)


def test_missed_people_are_named_with_their_pictures(pictures):
    report = compare_models(side(count=3), side(count=2), pictures)
    assert report.failures()[0] == "5 people missed and 0 extra on a, b, c and 2 more, bound 0"
    assert {(one.image, one.only_in) for image in report.images for one in image.unmatched} == {
        (name, "a") for name in "abcde"
    }
    report = compare_models(side(count=2), side(count=3), pictures)
    assert report.failures()[0].startswith("0 people missed and 5 extra")


def test_a_score_at_the_threshold_may_fall_either_way(pictures):
    """Float noise decides about these people, so they do not count, but only they."""
    just = ARTIFACT.decode.score_thr + 5e-5
    assert compare_models(side(count=3, score=just), side(count=2, score=just), pictures).verdict == "agree"
    above = ARTIFACT.decode.score_thr + 5e-4
    assert compare_models(side(count=3, score=above), side(count=2, score=above), pictures).verdict == "differ"


def test_some_may_be_missed_at_low_precision(pictures):
    eight = replace(ARTIFACT, precision="int8")
    assert compare_models(side(count=3), side(eight, count=2), pictures).failures()[0].endswith("bound 1")


def test_people_who_are_all_excused_are_no_agreement(pictures):
    """Rounding decides about those near the threshold; where there are no others, nothing was compared."""
    just = ARTIFACT.decode.score_thr + 5e-5
    report = compare_models(side(count=1, score=just), side(count=0), pictures)
    assert (report.verdict, report.nobody, report.failures()) == ("nobody found", False, [])
    assert report.told == "No people were compared: 5 missed, 0 extra on 5 images, nobody in both."
    every = replace(report.bounds, unmatched=1.0)
    assert compare_models(side(count=1), side(count=0), pictures, bounds=every).verdict == "nobody found"


def test_bounds_of_ones_own_are_told(pictures):
    usual = bounds_for("fp32", "fp32")
    assert compare_models(side(), side(), pictures, bounds=usual).notes == ()
    own = replace(usual, oks_mean=0.8, unmatched=0.1, keypoint_max_px=0.01, score=None)
    (note,) = compare_models(side(), side(), pictures, bounds=own).notes
    assert note == (
        "Bounds set for this comparison: mean OKS: 0.8 (usually 0.9999: looser); the worst keypoint: 0.01 px (usually "
        "0.05 px: tighter); the worst score: none (usually 0.0001: looser); share of people in one model only: 0.1 "
        "(usually 0: looser)."
    )


def test_nobody_found_is_not_agreement(pictures):
    report = compare_models(side(count=0), side(count=0), pictures)
    assert (report.verdict, report.nobody, report.failures()) == ("nobody found", True, [])
    assert (report.to_dict()["verdict"], report.to_dict()["ok"]) == ("nobody found", False)
    (note,) = report.notes
    assert "Neither model found anybody on 5 images: no people were compared." in note
    assert "--images" in note
    folder = replace(pictures, generated=False)
    (note,) = compare_models(side(count=0), side(count=0), folder).notes
    assert "--images" not in note
    assert "people in them" in note


def test_what_is_not_finite_fails_even_if_both_are(pictures):
    def broken(dets):
        return np.full_like(dets, np.nan)

    for one, two, who in ((side(), side(change=broken), "second"), (side(change=broken), side(), "first")):
        report = compare_models(one, two, pictures)
        assert report.failures()[0] == f"outputs of the {who} model are not finite on a, b, c and 2 more"
        json.dumps(report.to_dict(), allow_nan=False)
    report = compare_models(side(change=broken), side(change=broken), pictures)
    assert report.verdict == "differ"


def test_thresholds_that_differ_are_made_equal_and_told(pictures):
    strict = replace(ARTIFACT, decode=replace(ARTIFACT.decode, score_thr=0.85, nms_thr=0.5, max_dets=1))
    one, two = side(), side(strict)
    report = compare_models(one, two, pictures)
    assert report.people.people_a == 0
    assert [note.split("(")[0].strip() for note in report.notes[:2]] == [
        "Their score thresholds differ",
        "Their suppression thresholds differ",
    ]
    few = replace(ARTIFACT, decode=replace(ARTIFACT.decode, max_dets=1))
    assert compare_models(side(), side(few), pictures).people.people_a == 5


def test_placement_is_told(pictures):
    corner = replace(ARTIFACT, input=replace(ARTIFACT.input, placement="top-left"))
    one, two = side(), side(corner)
    (note,) = compare_models(one, two, pictures).notes
    assert "center" in note
    assert "top-left" in note
    assert np.array_equal(one.backend.fed[0], two.backend.fed[0])
    assert one.backend.fed[0][0, 0, 0, 0] == 114


def test_an_unknown_precision_is_told(pictures):
    report = compare_models(side(), side(replace(ARTIFACT, precision="fp7")), pictures)
    assert "no bounds for fp7" in report.notes[0]
    (note,) = compare_models(side(), side(replace(ARTIFACT, precision="fp7")), pictures, bounds=BOUNDS["fp16"]).notes
    assert note.startswith("Bounds set for this comparison: ")


def test_sizes(pictures):
    fixed = replace(ARTIFACT, input=replace(ARTIFACT.input, height=128, width=128, dynamic_hw=False))
    other = replace(fixed, path=Path("y.onnx"), input=replace(fixed.input, height=64))
    assert compare_models(side(), side(fixed), pictures).input_hw == (128, 128)
    assert compare_models(side(), side(), pictures, input_hw=(32, 64)).input_hw == (32, 64)
    for one, two, wanted in ((fixed, other, None), (ARTIFACT, fixed, (64, 64)), (ARTIFACT, ARTIFACT, (65, 64))):
        first, second = side(one), side(two)
        with pytest.raises(UsageError):
            compare_models(first, second, pictures, input_hw=wanted)
        assert first.backend.fed == second.backend.fed == []


def test_other_keypoints_are_refused(pictures):
    with pytest.raises(UsageError, match="17 keypoints"):
        compare_models(side(), side(replace(ARTIFACT, skeleton=Skeleton.generic(14))), pictures)
    names = replace(COCO_17, name="other", keypoints=tuple(f"k{i}" for i in range(17)))
    assert "other names" in compare_models(side(), side(replace(ARTIFACT, skeleton=names)), pictures).notes[0]


def test_swapped_keypoints_are_recognised(pictures):
    two = side()
    order = list(range(17))
    order[5], order[6] = 6, 5
    two.backend.keypoints = two.backend.keypoints[:, order]
    report = compare_models(side(), two, pictures)
    (cause,) = report.causes
    assert cause.startswith(
        "Keypoints fit in another order, as if left and right were swapped: the first model's left_shoulder is nearest "
    )
    assert cause.endswith("where the second has left_shoulder (median over 15 people).")


def test_a_shift_is_recognised(pictures):
    two = side()
    two.backend.keypoints = two.backend.keypoints + np.array([7.5, -7.5, 0], np.float32)
    report = compare_models(side(), two, pictures)
    assert report.causes[0].startswith("The second model's keypoints fit the first's shifted by +7.50, -7.50 px")


def test_reversed_channels_are_recognised(pictures):
    """A network that finds people in a blue image only, and one that was made for RGB."""

    class Picky(Toy):
        channel = 0

        def __call__(self, images):
            outputs = super().__call__(images)
            blue = images[:, self.channel].mean(axis=(1, 2)) > images[:, 2 - self.channel].mean(axis=(1, 2))
            outputs["dets"] = outputs["dets"] * blue[:, None, None]
            return outputs

    one, two = (Side(ARTIFACT, Picky(ARTIFACT, *rows()), None, name * 64) for name in "ab")
    two.backend.channel = 2
    blue = np.full((50, 50, 3), (200, 30, 30), np.uint8)
    found = compare_models(one, two, replace(pictures, read=lambda _: blue))
    assert found.people.people_b == 0
    assert found.causes == (
        "The second model finds 12 of 12 people again when it is given its channels reversed (RGB), else 0.",
    )


def test_no_cause_where_there_is_none(pictures):
    two = side()
    two.backend.keypoints = two.backend.keypoints + np.random.default_rng(3).normal(0, 2, (3, 17, 3)).astype(np.float32)
    report = compare_models(side(), two, pictures)
    assert report.verdict == "differ"
    assert report.causes == ()


def test_pictures_come_from_files(tmp_path):
    for name in ("b.png", "a.png"):
        assert cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), 7, np.uint8))
    found = ImageSource.in_folder(tmp_path)
    assert (found.names, found.generated) == (("a.png", "b.png"), False)
    assert found.read(1).shape == (20, 30, 3)
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(InputDataError, match=r"c\.png"):
        compare_models(side(), side(), ImageSource.in_folder(tmp_path))
    with pytest.raises(InputDataError):
        ImageSource.in_folder(tmp_path / "none")
    with pytest.raises(UsageError):
        ImageSource.synthetic(0)
    one, two = ImageSource.synthetic(2), ImageSource.synthetic(2)
    assert np.array_equal(one.read(1), two.read(1))


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 50])
def test_a_hostile_file(tmp_path, content):
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="x\\.onnx"):
        Side.open(path)


def test_no_batch_at_all(pictures):
    with pytest.raises(UsageError, match="batch of 0"):
        compare_models(side(), side(), pictures, batch=0)


def test_tensor_errors():
    a = np.array([3.0, -4.0], np.float32)
    assert TensorError.between(a, a).snr_db == np.inf
    assert TensorError.between(a, a).to_dict() == {"equal": True, "snr_db": None, "max_abs": 0.0, "magnitude": 4.0}
    error = TensorError.between(a, a + np.array([0.0, 0.5], np.float32))
    assert error.snr_db == pytest.approx(20)
    assert (error.max_abs, error.magnitude) == (0.5, 4)
    both = error + error
    assert (both.signal, both.noise, both.max_abs) == (50, 0.5, 0.5)
    odd = TensorError.between(a, np.array([np.nan, -4], np.float32))
    assert (odd.snr_db, odd.max_abs) == (-np.inf, np.inf)
    json.dumps(odd.to_dict(), allow_nan=False)
    same = np.array([np.inf, np.nan, 1], np.float32)
    assert TensorError.between(same, same).snr_db == np.inf
    assert TensorError.between(np.zeros(3), np.ones(3)).snr_db == -np.inf
    assert TensorError.between(np.zeros((0, 4)), np.zeros((0, 4))).snr_db == np.inf
