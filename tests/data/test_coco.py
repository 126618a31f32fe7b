"""Reading COCO's keypoint format: what is learned, what is ignored, and every way in which a file can be wrong."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import time

import cv2
import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, category, document, image, person, write
from faster_coco_eval.core import mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.data.coco import CocoKeypoints, check_coco, read_ground_truth
from rtmo_deploy.data.findings import KINDS
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.zoo import AIC_14, COCO_17, CROWDPOSE_14


def opened(folder, content=None, **options):
    return CocoKeypoints(write(folder, content or document()), folder / "pictures", **options)


def kinds(report):
    return {finding.kind: finding.ids for finding in report.findings}


def zeros(joints=17):
    return [0] * 3 * joints


def test_a_plain_file(tmp_path):
    data = opened(tmp_path)
    assert len(data) == 2
    assert data.skeleton == COCO_17
    assert data.report.ok
    assert data.report.findings == ()
    assert (data.report.images, data.report.annotations, data.report.people) == (2, 3, 3)
    sample = data[0]
    assert (sample.image_id, sample.name, sample.ignore) == (1, "1.png", None)
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.image[0, 0].tolist() == [1, 1, 1]
    assert len(sample.people) == 2
    expected = np.array(person(2, 1)["keypoints"], np.float32).reshape(17, 3)
    assert np.array_equal(sample.people.keypoints[1], expected[:, :2])
    assert np.array_equal(sample.people.visible[1], expected[:, 2])
    assert sample.people.boxes.tolist() == [[5, 5, 40, 40]] * 2
    assert sample.people.areas.tolist() == [700, 700]
    assert data[-1].image_id == 2
    for wrong in (2, -3):
        with pytest.raises(IndexError):
            data[wrong]
    assert data.images == [tmp_path / "pictures" / "1.png", tmp_path / "pictures" / "2.png"]


def test_people_belong_to_their_picture_whatever_the_order_of_the_file(tmp_path):
    people = [person(9, 2, area=90), person(4, 1, area=40), person(7, 2, area=70), person(5, 1, area=50)]
    data = opened(tmp_path, document([image(2), image(1), image(3)], people))
    assert [data.people(index).areas.tolist() for index in range(3)] == [[90, 70], [40, 50], []]
    assert [data[index].image_id for index in range(3)] == [2, 1, 3]
    annotated = opened(tmp_path, document([image(3), image(2), image(1)], people), only_annotated=True)
    assert [annotated[index].image_id for index in range(2)] == [2, 1]
    assert [annotated.people(index).areas.tolist() for index in range(2)] == [[90, 70], [40, 50]]
    assert annotated.ground_truth().image.tolist() == [0, 0, 1, 1]
    first = opened(tmp_path, document([image(3), image(2), image(1)], people), max_images=2)
    assert first.ground_truth().image_ids.tolist() == [3, 2]
    assert [len(first.people(index)) for index in range(2)] == [0, 2]
    with pytest.raises(UsageError):
        opened(tmp_path, max_images=0)


def test_it_can_be_pickled_and_holds_no_objects(tmp_path):
    people = [person(number, 1 + number % 2, iscrowd=number % 3 == 0) for number in range(1, 60)]
    data = opened(tmp_path, document(people=people))
    packed = pickle.dumps(data)
    assert len(packed) < 60 * (17 * 3 * 4 + 200) + 6000
    again = pickle.loads(packed)
    for index in range(2):
        for name in ("boxes", "keypoints", "visible", "areas"):
            assert np.array_equal(getattr(again[index].people, name), getattr(data[index].people, name))
        assert np.array_equal(again[index].ignore, data[index].ignore)


def test_as_the_reference_reads_it(shared):
    """Boxes, areas, keypoints and visibility before any augmentation, and where people are not learned."""
    data = CocoKeypoints(shared / "data" / "coco" / "test_coco.json", shared / "data" / "coco")
    golden = np.load(shared / "golden" / "preproc" / "train_stage2_targets.npz")
    meta = json.loads((shared / "golden" / "preproc" / "train_stage2_targets.json").read_text())
    compared = 0
    for index in range(len(data)):
        sample = data[index]
        raw = {name: golden[f"{sample.image_id}.raw.{name}"] for name in ("bbox", "area", "keypoints")}
        visible = golden[f"{sample.image_id}.raw.keypoints_visible"]
        kept = visible.sum(1) > 0
        assert len(sample.people) == kept.sum() == len(golden[f"{sample.image_id}.bboxes"])
        np.testing.assert_allclose(sample.people.boxes, raw["bbox"][kept], atol=1e-4)
        np.testing.assert_allclose(sample.people.areas, raw["area"][kept], rtol=1e-6)
        np.testing.assert_allclose(sample.people.keypoints, raw["keypoints"][kept], atol=1e-4)
        assert np.array_equal(np.minimum(sample.people.visible, 1), visible[kept])
        # There the mask is in the 640x640 canvas, after letterboxing.
        scale = 640 / max(sample.image.shape[:2])
        theirs = meta[str(sample.image_id)]["heatmap_mask"][2]
        mine = 0 if sample.ignore is None else sample.ignore.sum() * scale**2
        assert mine == pytest.approx(theirs, rel=0.1)  # a half pixel of letterbox
        compared += len(sample.people)
    assert compared == 12


@pytest.mark.parametrize(("name", "skeleton", "people"), [("crowdpose", "crowdpose-14", 4), ("ochuman", "coco-17", 5)])
def test_other_real_files(shared, name, skeleton, people):
    folder = shared / "data" / name
    data = CocoKeypoints(folder / f"test_{name}.json", folder)
    assert data.skeleton.name == skeleton
    assert sum(len(data[index].people) for index in range(len(data))) == people
    assert check_coco(folder / f"test_{name}.json", folder, read_images=True).ok
    if name == "crowdpose":  # no areas there
        boxes = data.people(0).boxes
        expected = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * 0.53
        np.testing.assert_allclose(data.people(0).areas, expected, rtol=1e-5)


# Boxes, areas, keypoints


def test_boxes_are_clipped_as_in_the_reference(tmp_path):
    people = [person(1, 1, bbox=[-10, -5, 30, 20]), person(2, 1, bbox=[50, 40, 30, 20])]
    boxes = opened(tmp_path, document(people=people)).people(0).boxes
    assert boxes.tolist() == [[0, 0, 20, 15], [50, 40, WIDTH - 1, HEIGHT - 1]]


def test_areas_that_are_not_given(tmp_path):
    people = [
        person(1, 1, area=..., bbox=[10, 10, 20, 10]),
        person(2, 1, area=0, bbox=[-10, 10, 20, 10]),
        person(3, 1, area=-4.0),
        person(5, 1, area=..., bbox=[10, 10, 0.5, 0.5]),
    ]
    data = opened(tmp_path, document(people=people))
    expected = [0.53 * 200, 0.53 * 100, 0.53 * 35 * 35, 1]
    np.testing.assert_allclose(data.people(0).areas, expected, rtol=1e-6)
    assert kinds(data.report) == {"area": (2, 3)}


def test_who_is_not_learned_is_ignored(tmp_path):
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    people = [
        person(1, 1),
        person(2, 1, iscrowd=1, bbox=[0, 0, 8, 4]),
        person(3, 1, keypoints=zeros(), num_keypoints=0, segmentation=square),
        person(4, 2, keypoints=..., num_keypoints=..., bbox=[2, 3, 4, 5]),
        person(5, 2, num_keypoints=0, bbox=[30, 30, 2.5, 1]),
    ]
    data = opened(tmp_path, document(people=people))
    assert [len(data.people(0)), len(data.people(1))] == [1, 0]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[0:4, 0:8] = True
    mask[10:20, 10:20] = True
    assert np.array_equal(data[0].ignore, mask)
    mask[:] = False
    mask[3:8, 2:6] = True
    mask[30:31, 30:33] = True
    assert np.array_equal(data[1].ignore, mask)
    found = kinds(data.report)
    assert found == {"num-keypoints-zero": (5,), "crowd": (2,), "no-keypoints": (3, 4, 5)}
    assert data.report.ok
    truth = data.ground_truth()
    assert truth.crowd.tolist() == [False, True, False, False, False]
    assert truth.num_keypoints.tolist() == [17, 17, 0, 0, 0]
    assert truth.num_people == 1


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths(tmp_path, compressed):
    area = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    area[5:20, 30:50] = 1
    area[40:, 60:] = 1
    packed = rle.encode(area)
    if compressed:
        counts = packed["counts"]
        counts = counts.decode() if isinstance(counts, bytes) else counts
    else:
        flat = np.concatenate([[0], area.ravel(order="F"), [2]])
        counts = np.diff(np.flatnonzero(np.diff(flat.astype(int))), prepend=0).tolist()
    crowd = person(2, 1, iscrowd=1, bbox=[0, 0, 1, 1], segmentation={"size": [HEIGHT, WIDTH], "counts": counts})
    data = opened(tmp_path, document(people=[person(1, 1), crowd]))
    assert np.array_equal(data[0].ignore, area.astype(bool))
    assert "segmentation" not in kinds(check_coco(tmp_path / "people.json"))


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [HEIGHT, WIDTH], "counts": "~~~zz"},
        {"size": [HEIGHT, WIDTH], "counts": [5, 10**9]},
        {"size": [HEIGHT, WIDTH], "counts": [5, -5]},
        {"size": [HEIGHT, WIDTH], "counts": ["x"]},
        {"size": [HEIGHT, WIDTH], "counts": None},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"counts": [3]},
        {"size": 5},
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5, "x"]],
        [[1, 2, 3, 4, 5, float("inf")]],
        [[[1]]],
        [7],
        "x",
    ],
)
def test_a_segmentation_that_cannot_be_read(tmp_path, segmentation):
    crowd = person(2, 1, iscrowd=1, bbox=[1, 2, 3, 4], segmentation=segmentation)
    data = opened(tmp_path, document(people=[person(1, 1), crowd]))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:6, 1:4] = True
    assert np.array_equal(data[0].ignore, mask)
    assert kinds(check_coco(tmp_path / "people.json"))["segmentation"] == (2,)


def test_flags_and_unlabelled_places(tmp_path):
    points = person(1, 1)["keypoints"]
    points[2], points[5], points[8], points[11] = 3, -1, 0, 1
    people = opened(tmp_path, document(people=[person(1, 1, keypoints=points, num_keypoints=15)])).people(0)
    assert people.visible[0, :5].tolist() == [2, 0, 0, 1, 2]
    assert people.keypoints[0, 1:3].tolist() == [[0, 0], [0, 0]]
    assert kinds(check_coco(tmp_path / "people.json")) == {"keypoint-flag": (1,)}


def test_far_keypoints_are_not_learned_and_near_ones_are(tmp_path):
    near, far = person(1, 1)["keypoints"], person(2, 1)["keypoints"]
    near[0], near[4] = -WIDTH // 2, HEIGHT + WIDTH // 2
    far[0], far[4] = -WIDTH // 2 - 1, HEIGHT + WIDTH // 2 + 1
    data = opened(tmp_path, document(people=[person(1, 1, keypoints=near), person(2, 1, keypoints=far)]))
    assert kinds(data.report) == {"keypoint-far": (2,)}
    assert data.people(0).visible[:, :3].tolist() == [[2, 2, 2], [0, 0, 2]]
    assert data.people(0).keypoints[1, 0].tolist() == [0, 0]
    assert data.ground_truth().keypoints[1, 0].tolist() == [far[0], far[1], 2]  # a judge sees what the file says


# Skeletons


def test_a_custom_skeleton(tmp_path):
    names = ["tip", "LeftFin", "rightFin", "l_eye", "r_eye", "left_alone"]
    made = category(names, skeleton=[[1, 2], [2, 3], [1, 7], [0, 1], "x"], name="fish")
    people = [person(1, 1, joints=6)]
    data = opened(tmp_path, document(people=people, categories=[made]))
    skeleton = data.skeleton
    assert skeleton == Skeleton("fish-6", tuple(names), ((0, 1), (1, 2)), ((1, 2), (3, 4)), ())
    assert "skeleton" in kinds(data.report)
    assert data.report.ok
    assert data[0].people.keypoints.shape == (1, 6, 2)


def test_known_names_bring_sigmas(tmp_path):
    crowdpose = [*CROWDPOSE_14.keypoints[:12], "head", "neck"]
    people = [person(1, 1, joints=14)]
    assert opened(tmp_path, document(people=people, categories=[category(crowdpose)])).skeleton is CROWDPOSE_14
    some = ["Nose", "right shoulder", "left shoulder"]
    people = [person(1, 1, joints=3)]
    found = opened(tmp_path, document(people=people, categories=[category(some)])).skeleton
    assert found.sigmas == (0.026, 0.079, 0.079)
    assert found.flip_pairs == ((2, 1),)
    assert not found.guessed
    people = [person(1, 1, joints=14)]
    other = opened(tmp_path, document(people=people, categories=[category(crowdpose[::-1])])).skeleton
    assert other.guessed  # a head is not always the top of it
    aic = opened(tmp_path, document(people=people, categories=[category(list(AIC_14.keypoints))])).skeleton
    assert (aic.name, aic.sigmas[0]) == ("aic-14", 0.01388152)
    people = [person(1, 1, joints=3)]
    given = Skeleton("mine", ("a", "b", "c"))
    assert opened(tmp_path, document(people=people, categories=[category(some)]), skeleton=given).skeleton is given
    with pytest.raises(InputDataError, match="3 keypoints; the skeleton 'coco-17' has 17"):
        opened(tmp_path, document(people=people, categories=[category(some)]), skeleton=COCO_17)


def test_categories(tmp_path):
    dog = category(["tail"], id=5, name="dog")
    people = [person(1, 1), person(2, 1, category_id=5, joints=1), person(3, 1, category_id=8)]
    both = document(people=people, categories=[dog, category(id=1), {"id": 8, "name": "car"}])
    data = opened(tmp_path, both)  # a category called person wins
    assert (data.skeleton, len(data.people(0)), kinds(data.report)) == (COCO_17, 1, {"annotation-category": (2, 3)})
    dogs = opened(tmp_path, both, category="dog")
    assert (dogs.skeleton.keypoints, dogs.ground_truth().category_id) == (("tail",), 5)
    with pytest.raises(InputDataError, match=r"no category 'cat'.*car, dog, person"):
        opened(tmp_path, both, category="cat")
    both["categories"][1]["name"] = "human"
    with pytest.raises(InputDataError, match="different keypoints: dog, human"):
        opened(tmp_path, both)
    with pytest.raises(InputDataError, match="more than one keypoint called nose"):
        opened(tmp_path, document(categories=[category(["nose", "nose"])]))


def test_a_file_without_names(tmp_path):
    people = [person(1, 1, joints=4), person(2, 1, joints=4), person(3, 1, joints=5)]
    data = opened(tmp_path, document(people=people, categories=[]), strict=False)
    assert data.skeleton == Skeleton.generic(4)
    assert len(data.people(0)) == 2
    assert kinds(data.report) == {"keypoint-count": (3,)}


# Files that are wrong


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "It is an empty file, not an annotation file"),
        ('{"images": [', "not JSON, or cut off"),
        ("[]", "not an object"),
        ("3", "It is a text file, not an annotation file"),
        ("[" * 100_000, "cannot be read"),
        ('{"images": []}', "no list 'annotations'"),
        ('{"images": {}, "annotations": []}', "no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "no image to use"),
    ],
)
def test_what_is_no_annotation_file(tmp_path, content, reason):
    path = write(tmp_path, content, pictures=False)
    with pytest.raises(InputDataError, match=reason) as caught:
        CocoKeypoints(path, tmp_path)
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 3


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(InputDataError, match="There is no such file"):
        CocoKeypoints(tmp_path / "nothing.json", tmp_path)
    with pytest.raises(InputDataError, match="It is a folder"):
        check_coco(tmp_path)
    path = tmp_path / "binary.json"
    path.write_bytes(b"\x00\xff\x80")
    with pytest.raises(InputDataError, match="not text"):
        check_coco(path)


def spoilt(**fields):
    return [person(1, 1), person(2, 1, **fields)]


NAN_PLACE = [float("nan"), 3, 2, *zeros(16)]
HUGE_PLACE = [10**400, 3, 2, *zeros(16)]


@pytest.mark.parametrize(
    ("content", "kind", "ids"),
    [
        (document(people=spoilt(keypoints=[1, 2, 2])), "keypoint-count", (2,)),
        (document(people=spoilt(keypoints=[1] * 52)), "keypoint-count", (2,)),
        (document(people=spoilt(keypoints="x" * 51)), "keypoint-count", (2,)),
        (document(people=spoilt(keypoints=NAN_PLACE)), "keypoint-value", (2,)),
        (document(people=spoilt(keypoints=HUGE_PLACE)), "keypoint-value", (2,)),
        (document(people=spoilt(keypoints=["7", 3, 2, *zeros(16)])), "keypoint-value", (2,)),
        (document(people=spoilt(keypoints=[1e8, 3, 2, *zeros(16)])), "keypoint-value", (2,)),
        (document(people=spoilt(bbox=[1, 2, 3])), "box-value", (2,)),
        (document(people=spoilt(bbox=[1, 2, 3, None])), "box-value", (2,)),
        (document(people=spoilt(bbox=[1, 2, 3, float("inf")])), "box-value", (2,)),
        (document(people=spoilt(bbox=["1", 2, 3, 4])), "box-value", (2,)),
        (document(people=spoilt(bbox="abcd")), "box-value", (2,)),
        (document(people=[person(1, 1), 7]), "annotation-entry", ("#1",)),
        (document(people=spoilt(image_id=None)), "annotation-entry", (2,)),
        (document(people=spoilt(image_id=[1])), "annotation-entry", (2,)),
        (document(people=spoilt(image_id=1.5)), "annotation-entry", (2,)),
        (document(people=spoilt(image_id=True)), "annotation-entry", (2,)),
        (document(people=spoilt(image_id="1")), "annotation-text", (2,)),
        (document(people=spoilt(category_id="1")), "annotation-text", (2,)),
        (document(people=spoilt(category_id=...)), "annotation-text", (2,)),
        (document(people=spoilt(category_id={})), "annotation-text", (2,)),
        (document(people=spoilt(area="900")), "annotation-text", (2,)),
        (document(people=spoilt(num_keypoints="17")), "annotation-text", (2,)),
        (document(people=spoilt(iscrowd="1")), "crowd-value", (2,)),
        (document(people=spoilt(iscrowd="0")), "crowd-value", (2,)),
        (document(people=spoilt(iscrowd=2)), "crowd-value", (2,)),
        (document(people=spoilt(iscrowd=[1])), "crowd-value", (2,)),
        (document(people=spoilt(iscrowd=[])), "crowd-value", (2,)),
        (
            document(images=[image(1), image("2", file_name="2.png")], people=spoilt(image_id=2)),
            "annotation-text",
            (2,),
        ),
        (document(images=[image(1), image(2, file_name="x" * 5000)]), "image-missing", (2,)),
        (document(people=spoilt(keypoints=[7, 3, "2", *zeros(16)])), "keypoint-text", (2,)),
        (document(people=spoilt(keypoints=[7, 3, None, *zeros(16)])), "keypoint-text", (2,)),
        (document(people=spoilt(keypoints=[7, 3, float("nan"), *zeros(16)])), "keypoint-text", (2,)),
        (document(images=[image(1), image(2, height="48")]), "image-text", (2,)),
        (document(images=[image(1), image(2, crowdIndex="0.5")]), "image-text", (2,)),
        (document(images=[image(1), image(2, file_name="lone\ud800.png")]), "image-entry", (2,)),
        (document(images=[image(1), image(2, id="\udc80")]), "image-entry", ("#1",)),
        (document(images=[image(1), image(2), image(1)]), "image-id-duplicate", (1,)),
        (document(images=[image(1), image(2, file_name="")]), "image-entry", (2,)),
        (document(images=[image(1), image(2, file_name=None)]), "image-entry", (2,)),
        (document(images=[image(1), {"file_name": "x.png"}]), "image-entry", ("#1",)),
        (document(images=[image(1), None]), "image-entry", ("#1",)),
        (document(images=[image(1), image(2, id=True)]), "image-entry", ("#1",)),
        (document(images=[image(1), image(2, id=10**30)]), "image-entry", ("#1",)),
        (document(images=[image(1), image(2, file_name="no\0thing")]), "image-entry", (2,)),
        (document(images=[image(1), image(2, file_name="nowhere/2.png")]), "image-missing", (2,)),
    ],
)
def test_errors_are_raised_or_left_out(tmp_path, content, kind, ids, caplog):
    path = write(tmp_path, content, pictures=False)
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    report = check_coco(path, tmp_path / "pictures")
    assert not report.ok
    assert kinds(report)[kind] == ids
    with pytest.raises(InputDataError) as caught:
        CocoKeypoints(path, tmp_path / "pictures")
    assert KINDS[kind][2] in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(str(one) in str(caught.value) for one in ids)
    data = CocoKeypoints(path, tmp_path / "pictures", strict=False)
    assert str(ids[0]) in caplog.text
    assert 0 < sum(len(data[index].people) for index in range(len(data))) <= 3
    if kind.startswith("keypoint") or kind == "box-value":
        assert len(data.people(0)) == 1


@pytest.mark.parametrize(
    ("content", "kind", "ids", "people"),
    [
        (document(people=spoilt(id=...)), "annotation-id", ("#1",), 2),
        (document(people=spoilt(id=[3])), "annotation-id", ("#1",), 2),
        (document(people=spoilt(id=1)), "annotation-id-duplicate", (1,), 2),
        (document(people=spoilt(image_id=99)), "annotation-image", (2,), 1),
        (document(people=spoilt(category_id=3)), "annotation-category", (2,), 1),
        (document(people=spoilt(bbox=...)), "box-none", (2,), 1),
        (document(people=spoilt(bbox=[5, 5, 0, 9])), "box-empty", (2,), 1),
        (document(people=spoilt(bbox=[5, 5, 9, -1])), "box-empty", (2,), 1),
        (document(people=spoilt(bbox=[WIDTH, 5, 9, 9])), "box-empty", (2,), 1),
        (document(people=spoilt(num_keypoints=3)), "num-keypoints", (2,), 2),
        (document(people=spoilt(area=1e300)), "area", (2,), 2),
        (document(people=spoilt(keypoints=[7, 8, 0.4, *zeros(16)])), "keypoint-flag", (2,), 2),
        (document(people=spoilt(keypoints=None)), "num-keypoints-zero", (2,), 1),
        (document(people=spoilt(num_keypoints=0)), "num-keypoints-zero", (2,), 1),
        (document(people=spoilt(keypoints=zeros())), "num-keypoints-zero", (2,), 1),
        (document(people=[]), "no-annotations", (), 0),
        (document(images=[image(1), image(2, width=0)]), "image-value", (2,), 3),
        (document(images=[image(1), image(2, width=2**20, height=2**20)]), "image-value", (2,), 3),
    ],
)
def test_mild_findings_are_handled(tmp_path, content, kind, ids, people):
    path = write(tmp_path, content, pictures=False)
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    report = check_coco(path, tmp_path / "pictures", read_images=True)
    assert report.ok
    assert kinds(report)[kind] == ids
    assert report.people == people
    data = CocoKeypoints(path, tmp_path / "pictures")
    assert sum(len(data[index].people) for index in range(len(data))) == people


def test_everything_at_once(tmp_path):
    people = [
        person(1, 1),
        *(person(number, 1, keypoints=[1, 2]) for number in range(10, 30)),
        person(31, 1, bbox=[1]),
        person(32, 77),
    ]
    path = write(tmp_path, document([image(1), image(5)], people), pictures=False)
    with pytest.raises(InputDataError) as caught:
        CocoKeypoints(path, tmp_path / "pictures")
    text = str(caught.value)
    assert "Images 1, 5: the file is not in the image folder." in text
    assert "name the folder of its images" in text
    assert "Annotations 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 10 more: the keypoints are not three" in text
    assert "Annotation 31: the box" in text
    assert "image id" not in text  # mild
    report = check_coco(path)
    assert [finding.severity for finding in report.findings] == ["error", "error", "warning"]
    written = json.loads(json.dumps(report.to_dict()))
    assert written["findings"][0]["ids"] == list(range(10, 30))
    assert written["ok"] is False


def test_pictures_of_another_size(tmp_path, caplog):
    content = document([image(1), image(2)])
    path = write(tmp_path, content)
    cv2.imwrite(str(tmp_path / "pictures" / "2.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "pictures" / "1.png").write_bytes(b"")
    report = check_coco(path, tmp_path / "pictures", read_images=True)
    assert kinds(report) == {"image-unreadable": (1,), "image-size": (2,)}
    data = CocoKeypoints(path, tmp_path / "pictures")
    with pytest.raises(InputDataError, match="30x20; its people were annotated in 64x48"):
        data[1]
    loose = CocoKeypoints(path, tmp_path / "pictures", strict=False)
    assert loose[1].people.boxes.tolist() == [[5, 5, 29, 19]]
    assert "30x20" in caplog.text
    with pytest.raises(UsageError):
        check_coco(path, read_images=True)


def test_pictures_of_unknown_size(tmp_path):
    content = document([image(1, width=None, height=None), image(2)], [person(1, 1, bbox=[-5, 5, 500, 500])])
    data = opened(tmp_path, content)
    assert data[0].people.boxes.tolist() == [[0, 5, WIDTH - 1, HEIGHT - 1]]
    assert data.report.ok


def test_ids_and_names_that_are_text(tmp_path):
    content = document([image(1, id="a"), image(2, file_name="deep/er/zwei ü.png")], [person(1, "a"), person(2, 2)])
    content["images"][0]["file_name"] = "1.png"
    path = write(tmp_path, {**content, "images": [{**content["images"][0], "id": 7}, content["images"][1]]})
    path.write_text(json.dumps(content))
    data = CocoKeypoints(path, tmp_path / "pictures")
    assert [data[0].image_id, data[1].image_id] == [0, 2]
    assert data.name(1) == "deep/er/zwei ü.png"
    assert data.ground_truth().image_ids.tolist() == ["a", 2]
    assert len(data.people(0)) == len(data.people(1)) == 1


def test_ground_truth_alone(tmp_path):
    path = write(tmp_path, document([image(1, crowdIndex=0.2), image(2)]), pictures=False)
    truth, skeleton, report = read_ground_truth(path)
    assert (truth.num_images, truth.num_people, skeleton, report.people) == (2, 3, COCO_17, 3)
    assert truth.crowd_index[0] == 0.2
    assert np.isnan(truth.crowd_index[1])
    with pytest.raises(InputDataError, match="the box"):
        read_ground_truth(write(tmp_path, document(people=spoilt(bbox=7)), pictures=False))


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "image_id", "category_id", "iscrowd", "keypoints", "num_keypoints", "bbox", "area", "segmentation")


@settings(max_examples=60, deadline=None)
@given(
    person_fields=st.dictionaries(st.sampled_from(FIELDS), anything, max_size=3),
    image_fields=st.dictionaries(
        st.sampled_from(["id", "file_name", "width", "height", "crowdIndex"]), anything, max_size=2
    ),
    category_fields=st.dictionaries(st.sampled_from(["id", "name", "keypoints", "skeleton"]), anything, max_size=2),
)
def test_nothing_in_a_file_is_a_crash(tmp_path_factory, person_fields, image_fields, category_fields):
    folder = tmp_path_factory.mktemp("hostile")
    content = document(
        [image(1), image(2, **image_fields)],
        [person(1, 1), person(2, 2, **person_fields), person(3, 2, **{**person_fields, "iscrowd": 1})],
        [category(**category_fields)],
    )
    path = write(folder, content, pictures=False)
    cv2.imwrite(str(folder / "pictures" / "1.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    try:
        report = check_coco(path, folder / "pictures")
        json.dumps(report.to_dict())
        data = CocoKeypoints(path, folder / "pictures", strict=False)
    except InputDataError:
        return
    for index in range(len(data)):
        sample = data[index]
        assert np.isfinite(sample.people.keypoints).all()
        assert (sample.people.areas > 0).all()
        assert (sample.people.boxes[:, 2:] > sample.people.boxes[:, :2]).all()


@pytest.mark.parametrize(("flag", "same"), [(True, 1), (False, 0), (2.0, 2)])
def test_equal_numbers_are_equal(tmp_path, flag, same):
    """1.0 and true are 1, as in pycocotools."""

    def truth(folder, one, value, crowd, **fields):
        people = [
            person(1, 1, **fields),
            person(2, one, category_id=one, keypoints=[7, 3, value, *zeros(15), 9, 9, 2], num_keypoints=...),
            person(3, one, iscrowd=crowd),
        ]
        folder.mkdir()
        data = opened(folder, document([image(one), image(2)], people, [category(id=one)]))
        assert data.report.of("warning") == ()
        return data.ground_truth()

    odd = truth(tmp_path / "a", 1.0, flag, True, num_keypoints=17.0)
    plain = truth(tmp_path / "b", 1, same, 1, num_keypoints=17)
    for name, value in vars(plain).items():
        np.testing.assert_array_equal(getattr(odd, name), value)


def test_swapped_sizes_are_recognised(tmp_path):
    swapped = [image(number, width=HEIGHT, height=WIDTH) for number in (1, 2)]
    people = [person(1, 1, bbox=[50, 10, 10, 20])]  # outside of the swapped image
    path = write(tmp_path, document(swapped, people), pictures=False)
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    data = CocoKeypoints(path, tmp_path / "pictures")
    assert "size-swapped" in kinds(data.report)
    assert data[0].people.boxes.tolist() == [[50, 10, 60, 30]]
    report = check_coco(path, tmp_path / "pictures", read_images=True)
    assert report.ok
    assert "size-swapped" in kinds(report)
    content = document([image(1), image(2, width=HEIGHT, height=WIDTH)], people)
    path.write_text(json.dumps(content))
    found = kinds(check_coco(path, tmp_path / "pictures", read_images=True))
    assert found["image-size"] == (2,)
    assert "size-swapped" not in found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flip_pairs", [["a", "b"], ["c", "d"]]),
        ("flip_pairs", [[0, 1], [3, 2]]),
        ("flip_pairs", [[1, 2], [3, 4]]),
        ("flip_indices", [1, 0, 3, 2]),
        ("flip_idx", [2, 1, 4, 3]),
        ("swap", ["b", "a", "d", "c"]),
        ("swap", {"a": "b", "b": "a", "c": "d", "d": "c"}),
    ],
)
def test_pairs_of_the_annotation_file(tmp_path, field, value):
    made = category(list("abcd"), **{field: value})
    report = opened(tmp_path, document(people=[person(1, 1, joints=4)], categories=[made])).report
    assert report.skeleton.flip_pairs == ((0, 1), (2, 3))
    assert report.to_dict()["flip_pairs"] == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("value", [[[0, 9]], [[0, 1], [1, 2]], "ab", [["a", "x"]], [[0, 1, 2]], [7], {"a": 3}])
def test_wrong_pairs_are_an_error(tmp_path, value):
    made = category(list("abcd"), flip_pairs=value)
    with pytest.raises(InputDataError, match="flip pairs"):
        opened(tmp_path, document(people=[person(1, 1, joints=4)], categories=[made]))


def test_a_fifo_is_no_annotation_file(tmp_path):
    os.mkfifo(tmp_path / "people.json")
    with pytest.raises(InputDataError, match="FIFO"):
        read_ground_truth(tmp_path / "people.json")


def test_run_lengths_of_an_absurd_size(tmp_path):
    size = 9_999_999
    crowd = person(2, 1, iscrowd=1, segmentation={"size": [size, size], "counts": [size * size]})
    path = write(tmp_path, document([image(1, width=size, height=size)], [crowd]), pictures=False)
    assert "image-value" in kinds(check_coco(path))
    path.write_text(json.dumps(document([image(1)], [crowd])))
    assert kinds(check_coco(path))["segmentation"] == (2,)


def test_colliding_ids_take_no_time(tmp_path):
    people = [person(number * (2**61 - 1) * 4096, 1, joints=1) for number in range(20_000)]
    path = write(tmp_path, document([image(1)], people, [category(["a"])]), pictures=False)
    begin = time.process_time()
    check_coco(path)
    assert time.process_time() - begin < 8


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


_FIELDS = (
    *("id", "image_id", "category_id", "file_name", "width", "height", "crowdIndex", "keypoints", "bbox", "area"),
    *("iscrowd", "num_keypoints", "segmentation", "name", "skeleton", "flip_pairs", "flip_indices", "swap", "sigmas"),
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    where=st.sampled_from(["images", "annotations", "categories"]),
    field=st.sampled_from(_FIELDS),
    value=_JSON,
)
def test_any_value_anywhere_is_used_or_refused(tmp_path_factory, where, field, value):
    folder = tmp_path_factory.mktemp("fuzz")
    content = json.loads(json.dumps(document()))
    content[where][0][field] = value
    (folder / "people.json").write_text(json.dumps(content))
    with contextlib.suppress(InputDataError):
        report = check_coco(folder / "people.json", folder)
        str(report.findings).encode()
        json.dumps(report.to_dict()).encode()
    with contextlib.suppress(InputDataError):
        read_ground_truth(folder / "people.json")


@pytest.mark.parametrize(
    ("fields", "category_fields", "kind"),
    [
        ({"keypoints": zeros()}, {}, "nobody"),  # num_keypoints says 17: nothing to judge by all the same
        ({"keypoints": None}, {}, "nobody"),
        ({"iscrowd": 1.0}, {}, "nobody"),
        ({"category_id": 2}, {}, "nobody"),
        ({}, {"id": None}, "category-id"),
        ({}, {"id": True}, "category-id"),
        ({}, {"id": "1"}, "annotation-text"),
    ],
)
def test_a_file_of_nobody_is_refused_by_all_who_read_it(tmp_path, fields, category_fields, kind):
    people = [person(number, 1, **fields) for number in (1, 2)]
    path = write(tmp_path, document(people=people, categories=[category(**category_fields)]))
    assert kind in kinds(check_coco(path))
    for read in (read_ground_truth, lambda file: CocoKeypoints(file, tmp_path / "pictures")):
        with pytest.raises(InputDataError, match=f"(?i){KINDS[kind][2]}"):
            read(path)


def test_all_who_read_a_file_find_the_same(tmp_path):
    far = person(3, 2, keypoints=[1e6, 3, 2, *zeros(16)])
    content = document(people=[person(1, 1), person(2, 1, bbox=[5, 5, -9, 9]), far, person(4, 2, area=-1)])
    path = write(tmp_path, content)
    found = kinds(check_coco(path))
    assert {"box-empty", "keypoint-far", "area"} <= set(found)
    assert kinds(read_ground_truth(path)[2]) == found == kinds(CocoKeypoints(path, tmp_path / "pictures").report)


def test_thousands_of_polygons_take_no_time(tmp_path):
    side = 1500
    crowd = person(1, 1, iscrowd=1, segmentation=[[1, 1, 9, 1, 9, 9]] * 5000)
    square = image(1, width=side, height=side)
    path = write(tmp_path, document(images=[square], people=[crowd, person(2, 1)]))
    data = CocoKeypoints(path, tmp_path / "pictures")
    begin = time.process_time()
    assert 20 < data.ignored(0, (side, side)).sum() < 64
    assert time.process_time() - begin < 3


def test_an_annotation_within_a_segmentation(tmp_path):
    path = write(tmp_path, document(people=[person(1, 1, iscrowd=1, segmentation=[person(2, 1)]), person(3, 1)]))
    assert kinds(check_coco(path))["segmentation"] == (1,)


def test_images_with_too_many_pixels_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_MAX_PIXELS", str(HEIGHT * WIDTH))
    content = document(images=[image(1), image(2, height=2 * HEIGHT)])
    report = check_coco(write(tmp_path, content), tmp_path / "pictures", read_images=True)
    assert kinds(report) == {"image-large": (2,)}


@pytest.mark.parametrize(("info", "domain"), [({"domain": "synthetic"}, "synthetic"), ({"domain": 1}, None), (7, None)])
def test_a_synthetic_file_says_so(tmp_path, info, domain):
    path = write(tmp_path, {**document(), "info": info})
    assert CocoKeypoints(path, tmp_path / "pictures").domain == domain
