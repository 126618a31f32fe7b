"""The judge: the reference's figures on the reference's files, and a plain implementation on small random ones."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from coco_files import category, document, image, person, write
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.data import People, Sample
from rtmo_deploy.data.coco import CocoKeypoints, read_ground_truth
from rtmo_deploy.data.sample import GroundTruth
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.accuracy import (
    Detections,
    choose_protocol,
    choose_sigmas,
    evaluate_poses,
    judge,
    load_results,
    published_figures,
    save_results,
    with_score_threshold,
)
from rtmo_deploy.plain import plain
from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.zoo import AIC_14, COCO_17, CROWDPOSE_14, VARIANTS

CASES = json.loads(
    lzma.decompress((Path(__file__).parents[1] / "data" / "golden" / "metrics" / "cases.json.xz").read_bytes())
)


def golden(name, folder):
    """Ground truth, skeleton and results file of a stored case."""
    path = folder / "people.json"
    path.write_text(json.dumps(CASES["ground_truth"][name.rsplit("_", 1)[0]]))
    results = folder / "results.json"
    results.write_text(json.dumps(CASES["predictions"][name]))
    return *read_ground_truth(path)[:2], results


@pytest.mark.parametrize("name", CASES["expected"])
def test_the_references_figures(name, tmp_path):
    truth, skeleton, results = golden(name, tmp_path)
    report = judge(truth, load_results(results, truth, len(skeleton)), skeleton)
    expected = CASES["expected"][name]
    assert report.protocol == name.split("_", maxsplit=1)[0]
    assert set(report.metrics) == set(expected)
    for metric, value in expected.items():
        assert report.metrics[metric] == (None if value is None else pytest.approx(value, abs=1e-9)), metric
    assert report.detections == len(CASES["predictions"][name])
    assert report.ap == report.metrics["AP"]
    assert report.sigmas == (COCO_17 if report.protocol == "coco" else CROWDPOSE_14).sigmas


def test_the_references_own_files(shared):
    """The same from the files as they are, not from the copies."""
    folder = shared / "golden" / "metrics"
    compared = 0
    for name, expected in json.loads((folder / "results.json").read_text()).items():
        stem = name.removesuffix("_config")
        truth, skeleton, _ = read_ground_truth(folder / f"{stem.rsplit('_', 1)[0]}_gt.json")
        report = judge(truth, load_results(folder / f"{stem}.keypoints.json", truth, len(skeleton)), skeleton)
        for key, value in expected.items():
            if not key.startswith("_"):
                metric = key.split("/")[1].replace(" .", "").replace("P5", "P50").replace("R5", "R50").replace(" ", "")
                measured = report.metrics[metric]
                assert (-1 if measured is None else measured) == pytest.approx(value, abs=5e-4)
                compared += 1
    assert compared >= 140


def test_the_golden_cases_tell_protocols_apart(tmp_path):
    truth, skeleton, results = golden("crowdpose_synth_noise0.01", tmp_path)
    found = load_results(results, truth, 14)
    assert judge(truth, found, skeleton, protocol="coco").metrics["AP(L)"] is not None
    assert "AP(E)" not in judge(truth, found, skeleton, protocol="coco").metrics
    strict = judge(truth, found, skeleton, sigmas=0.001)
    assert strict.ap < judge(truth, found, skeleton).ap
    assert strict.sigmas == (0.001,) * 14


def test_without_boxes_sizes_are_the_extents_of_keypoints(tmp_path):
    truth, skeleton, results = golden("coco_synth_noise0.0", tmp_path)
    with_boxes = judge(truth, load_results(results, truth, 17), skeleton)
    entries = json.loads(results.read_text())
    results.write_text(json.dumps([{k: v for k, v in entry.items() if k != "bbox"} for entry in entries]))
    found = load_results(results, truth, 17)
    without = judge(truth, found, skeleton)
    assert found.boxes is None
    points = np.array(entries[0]["keypoints"]).reshape(-1, 3)
    assert found.areas[0] == pytest.approx(np.prod(np.ptp(points[:, :2], axis=0)), rel=1e-5)
    assert without.ap == with_boxes.ap
    assert without.metrics["AP(M)"] != with_boxes.metrics["AP(M)"]
    assert "no boxes" in without.notes[0]
    assert with_boxes.notes == ()
    results.write_text(json.dumps([entries[0], {k: v for k, v in entries[1].items() if k != "bbox"}]))
    with pytest.raises(InputDataError, match="1 of 2 entries have a bbox"):
        load_results(results, truth, 17)


# A plain implementation


def plain_oks(points, person, area, sigmas, box):
    visible = person[:, 2] > 0
    if visible.any():
        squared = ((points[:, :2] - person[:, :2]) ** 2).sum(1)
    else:
        low = np.array([box[0] - box[2], box[1] - box[3]])
        high = np.array([box[0] + 2 * box[2], box[1] + 2 * box[3]])
        out = np.maximum(low - points[:, :2], 0) + np.maximum(points[:, :2] - high, 0)
        squared, visible = (out**2).sum(1), np.ones(len(person), bool)
    similarity = np.exp(-squared / (2 * np.asarray(sigmas)) ** 2 / area / 2)
    return similarity[visible].mean()


def plain_figures(truth, found, sigmas, *, crowdpose):
    """AP and AR over thresholds .5 to .95, by the textbook: per image greedy matching, then one ranking."""
    size = 0.53 * truth.boxes[:, 2] * truth.boxes[:, 3]
    size = size if crowdpose else truth.areas
    ignored = truth.crowd | (truth.num_keypoints == 0)
    wanted = int((~ignored).sum())
    precisions, recalls = [], []
    for threshold in np.linspace(0.5, 0.95, 10):
        ranking = []
        for picture in range(truth.num_images):
            here = truth.image == picture
            people = [*np.flatnonzero(here & ~ignored), *np.flatnonzero(here & ignored)]
            mine = np.flatnonzero(found.image == picture)
            mine = mine[np.argsort(-found.scores[mine], kind="stable")][:20]
            taken = set()
            for one in mine:
                best, match = min(threshold, 1 - 1e-10), None
                for row in people:
                    if row in taken and not truth.crowd[row]:
                        continue
                    if match is not None and not ignored[match] and ignored[row]:
                        break
                    value = plain_oks(found.keypoints[one], truth.keypoints[row], size[row], sigmas, truth.boxes[row])
                    if value >= best:
                        best, match = value, row
                if match is not None:
                    taken.add(match)
                if match is None or not ignored[match]:
                    ranking.append((-found.scores[one], match is not None))
        if not wanted:
            continue
        ranking.sort(key=lambda pair: pair[0])
        right = np.cumsum([hit for _, hit in ranking])
        precision = right / np.arange(1, len(ranking) + 1)
        recall = right / wanted
        best_from = np.maximum.accumulate(precision[::-1])[::-1] if ranking else precision
        places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        precisions.append(np.mean([best_from[place] if place < len(ranking) else 0 for place in places]))
        recalls.append(recall[-1] if ranking else 0)
    return (np.mean(precisions), np.mean(recalls)) if wanted else (None, None)


@st.composite
def small_sets(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pictures, joints = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    people = draw(st.integers(0, 6))
    image_of = np.sort(rng.integers(0, pictures, people)).astype(np.int32)
    points = np.concatenate(
        [rng.integers(0, 30, (people, joints, 2)), rng.integers(0, 3, (people, joints, 1))], axis=-1
    ).astype(np.float32)
    truth = GroundTruth(
        image_ids=rng.permutation(pictures),
        crowd_index=np.full(pictures, np.nan),
        image=image_of,
        boxes=rng.integers(1, 40, (people, 4)).astype(np.float64),
        areas=rng.integers(20, 20000, people).astype(np.float64),
        crowd=rng.random(people) < 0.2,
        num_keypoints=(points[..., 2] > 0).sum(1).astype(np.int32),
        keypoints=points,
    )
    count = draw(st.integers(0, 25 if pictures == 1 else 10))
    source = rng.integers(0, max(people, 1), count)
    found = (
        points[source] + rng.normal(0, draw(st.sampled_from([0, 1, 5])), (count, joints, 3))
        if people
        else (rng.random((count, joints, 3)) * 30)
    )
    detections = Detections(
        image=(image_of[source] if people else rng.integers(0, pictures, count)).astype(np.int32),
        scores=rng.permutation(count) / max(count, 1),
        boxes=rng.integers(1, 40, (count, 4)).astype(np.float64),
        keypoints=found.astype(np.float32),
    )
    return truth, detections, Skeleton("small", tuple(map(str, range(joints))), sigmas=(0.1,) * joints)


@settings(max_examples=200, deadline=None)
@given(small_sets(), st.sampled_from(["coco", "crowdpose"]))
def test_a_plain_implementation_agrees(case, protocol):
    truth, detections, skeleton = case
    if not truth.num_people:
        with pytest.raises(InputDataError, match="nobody to find"):
            judge(truth, detections, skeleton, protocol=protocol)
        return
    report = judge(truth, detections, skeleton, protocol=protocol)
    ap, ar = plain_figures(truth, detections, skeleton.sigmas, crowdpose=protocol == "crowdpose")
    assert report.metrics["AP"] == pytest.approx(ap, abs=1e-6)
    assert report.metrics["AR"] == pytest.approx(ar, abs=1e-6)
    json.dumps(plain(report), allow_nan=False)


# By crowdedness


def test_the_edges_of_crowdedness():
    """0.2 is medium, 0.8 is hard; an image with nobody in it makes its bin undefined, not wrong."""

    def figures(crowd_index, counts, right):
        count = len(crowd_index)
        somebody = People([[0, 0, 40, 40]], np.ones((1, 14, 2)), np.full((1, 14), 2), [900])
        people = [somebody if n else People.empty(14) for n in counts]
        truth = GroundTruth.from_people(people, 14)
        truth = GroundTruth(**{**vars(truth), "crowd_index": np.array(crowd_index)})
        poses = [
            Poses([[0, 0, 40, 40]], [0.9], np.full((1, 14, 2), 1 if good else 500), np.ones((1, 14)), CROWDPOSE_14)
            for good in right
        ]
        assert len(right) == count
        metrics = judge(truth, Detections.from_poses(poses, 14), CROWDPOSE_14).metrics
        return [metrics[f"AP({bin_})"] for bin_ in "EMH"]

    good = pytest.approx(1, abs=1e-9)
    assert figures([0.0, 0.2, 0.8], [1, 1, 1], [True, False, True]) == [good, 0, good]
    assert figures([0.19999, 0.79999, 1.0], [1, 1, 1], [True, True, False]) == [good, good, 0]
    assert figures([0.2, 0.8], [1, 1], [True, True]) == [None, good, good]
    assert figures([0.1, 0.5], [0, 1], [False, True]) == [None, good, None]
    assert figures([0.1, np.nan], [1, 1], [True, True]) == [good, None, None]


def test_pictures_without_a_crowd_index_are_mentioned():
    one = some_people(1)
    one = People(one.boxes, one.keypoints[:, :14], one.visible[:, :14], one.areas)
    truth = GroundTruth.from_people([one], 14)
    report = judge(truth, Detections.from_poses([Poses.empty(CROWDPOSE_14)], 14), CROWDPOSE_14)
    assert report.protocol == "crowdpose"
    assert "crowdIndex" in report.notes[0]
    assert list(report.metrics.values())[6:] == [None] * 3


# Poses against a dataset


class Drawn:
    """A dataset without a file."""

    def __init__(self, people, skeleton=COCO_17):
        self.people, self.skeleton = people, skeleton

    def __len__(self):
        return len(self.people)

    def __getitem__(self, index):
        return Sample(np.zeros((4, 4, 3), np.uint8), self.people[index], index)


def some_people(count=2):
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 50, (count, 2))
    places = rng.uniform(0, 90, (count, 17, 2))
    return People(np.concatenate([low, low + 100], axis=1), places, np.full((count, 17), 2), np.full(count, 5000.0))


def as_poses(people, *, shift=0.0, score=0.9):
    count = len(people)
    return Poses(people.boxes, np.full(count, score), people.keypoints + shift, np.ones((count, 17)), COCO_17)


def test_poses_of_a_dataset_without_a_file():
    data = Drawn([some_people(2), People.empty(17), some_people(3)])
    perfect = evaluate_poses(data, [as_poses(data.people[0]), Poses.empty(COCO_17), as_poses(data.people[2])])
    assert perfect.ap == pytest.approx(1)
    assert perfect.metrics["AP(L)"] is None  # 5000 square pixels are medium
    assert perfect.metrics["AR(M)"] == pytest.approx(1)
    assert (perfect.images, perfect.people, perfect.detections) == (3, 5, 5)
    assert perfect.protocol == "coco"
    worse = evaluate_poses(data, [as_poses(data.people[0], shift=12), Poses.empty(COCO_17), as_poses(data.people[2])])
    assert 0 < worse.ap < 1
    nothing = evaluate_poses(data, [Poses.empty(COCO_17)] * 3)
    assert (nothing.ap, nothing.metrics["AR"], nothing.detections) == (0, 0, 0)
    assert plain(perfect)["metrics"]["AP"] == perfect.ap


def test_nobody_at_all():
    """An evaluation of nobody is refused: it would pass any gate."""
    data = Drawn([People.empty(17)] * 2)
    for poses in (Poses.empty(COCO_17), as_poses(some_people(1))):
        with pytest.raises(InputDataError, match="nobody to find in the 2 annotated images"):
            evaluate_poses(data, [poses] * 2)
    with pytest.raises(InputDataError, match="nobody"):
        evaluate_poses(Drawn([]), [])


@pytest.mark.parametrize("fields", [{"num_keypoints": 0}, {"iscrowd": 1}, {"category_id": 9}])
def test_a_file_in_which_nobody_counts(tmp_path, fields):
    path = write(tmp_path, document([image(1)], [person(1, 1, **fields)]), pictures=False)
    with pytest.raises(InputDataError, match="nobody to find or to learn"):
        read_ground_truth(path)


def test_no_detections_are_said():
    data = Drawn([some_people(1)])
    assert evaluate_poses(data, [Poses.empty(COCO_17)]).notes[-1] == "There are no detections."


def test_guessed_sigmas_are_refused(tmp_path):
    names = [*CROWDPOSE_14.keypoints[::-1]]
    path = write(tmp_path, document([image(1)], [person(1, 1, joints=14)], [category(names)]), pictures=False)
    skeleton = read_ground_truth(path)[1]
    with pytest.raises(InputDataError, match=r"guessed from names.*--skeleton"):
        choose_sigmas(None, skeleton)
    assert choose_sigmas(0.1, skeleton) == (0.1,) * 14
    skeleton = read_ground_truth(path, skeleton=AIC_14)[1]
    assert choose_sigmas(None, skeleton) == AIC_14.sigmas


def test_results_of_another_category(tmp_path, caplog):
    path = write(tmp_path, document([image(1)], [person(1, 1)]), pictures=False)
    truth = read_ground_truth(path)[0]
    entry = {"image_id": 1.0, "category_id": 1.0, "keypoints": [1.0] * 51, "score": 0.5, "bbox": [1, 2, 3, 4]}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([entry | {"category_id": 2}] * 3))
    with pytest.raises(InputDataError, match=r"only entries of another category than 1.*: 2"):
        load_results(results, truth, 17)
    results.write_text(json.dumps([entry | {"category_id": "1"}]))
    with pytest.raises(InputDataError, match="category_id that is not a number"):
        load_results(results, truth, 17)
    results.write_text(json.dumps([entry, entry | {"category_id": 2}]))
    assert len(load_results(results, truth, 17)) == 1
    assert "another category" in caplog.text


def test_poses_of_a_file_know_its_crowds(tmp_path):
    """A detection in a crowd, or of somebody without keypoints, is not wrong; no image is read."""
    crowd = person(2, 1, iscrowd=1, bbox=[0, 0, 500, 500], keypoints=[0] * 51, num_keypoints=0, area=10**5)
    path = write(tmp_path, document([image(7), image(1)], [person(1, 1), crowd]), pictures=False)
    for number in (1, 7):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"no image")
    data = CocoKeypoints(path, tmp_path / "pictures")
    there = as_poses(data.people(1))
    stray = Poses(there.boxes, [0.99], there.keypoints + 150, there.keypoint_scores, COCO_17)
    both = Poses(
        *(
            np.concatenate([getattr(stray, name), getattr(there, name)])
            for name in ("boxes", "scores", "keypoints", "keypoint_scores")
        ),
        COCO_17,
    )
    assert evaluate_poses(data, [Poses.empty(COCO_17), both]).ap == pytest.approx(1)
    assert evaluate_poses(data, [stray, there]).ap == pytest.approx(0.5, abs=0.01)
    assert evaluate_poses(data, [both, Poses.empty(COCO_17)]).ap == 0


def test_only_the_twenty_best_of_a_picture_count():
    data = Drawn([some_people(1)])
    right, count = as_poses(data.people[0], score=0.1), 20
    wrong = Poses(
        np.repeat(right.boxes, count, 0),
        np.full(count, 0.9),
        np.repeat(right.keypoints, count, 0) + 900,
        np.ones((count, 17)),
        COCO_17,
    )

    def joined(number):
        parts = [wrong[:number], right]
        names = ("boxes", "scores", "keypoints", "keypoint_scores")
        return Poses(*(np.concatenate([getattr(part, name) for part in parts]) for name in names), COCO_17)

    assert evaluate_poses(data, [joined(19)]).ap == pytest.approx(1 / 20)
    assert evaluate_poses(data, [joined(20)]).ap == 0


@pytest.mark.parametrize(("side", "medium"), [(43, False), (44, True)])
def test_areas_that_are_not_annotated(tmp_path, side, medium):
    """0.53 of the box: 980 square pixels are small, 1026 are medium."""
    somebody = person(1, 1, area=..., bbox=[1, 1, side, side])
    path = write(tmp_path, document([image(1)], [somebody]), pictures=False)
    truth, skeleton, _ = read_ground_truth(path)
    report = judge(truth, Detections.from_poses([Poses.empty(COCO_17)], 17), skeleton)
    assert "0.53" in report.notes[0]
    assert (report.metrics["AP(M)"] is not None) == medium


def test_the_ground_truth_of_people():
    people = some_people(2)
    truth = GroundTruth.from_people([People.empty(17), people], 17)
    assert truth.image.tolist() == [1, 1]
    np.testing.assert_allclose(truth.boxes, [[*people.boxes[0, :2], 100, 100], [*people.boxes[1, :2], 100, 100]], 1e-5)
    assert truth.areas.tolist() == [5000, 5000]
    assert truth.num_keypoints.tolist() == [17, 17]
    assert np.array_equal(truth.keypoints[..., :2], people.keypoints)
    assert (truth.num_images, truth.num_people) == (2, 2)


def test_predictions_that_do_not_fit():
    data = Drawn([some_people(1)])
    with pytest.raises(UsageError, match="poses of 2 images, and 1 images"):
        evaluate_poses(data, [as_poses(data.people[0])] * 2)
    with pytest.raises(UsageError, match="14 keypoints, the dataset's people 17"):
        evaluate_poses(data, [Poses.empty(CROWDPOSE_14)])


# Protocols and sigmas


def test_protocols():
    plain = GroundTruth.from_people([People.empty(17)], 17)
    crowded = GroundTruth(**{**vars(plain), "crowd_index": np.array([0.0])})
    assert choose_protocol(None, COCO_17, plain) == "coco"
    assert choose_protocol(None, COCO_17, crowded) == "crowdpose"
    assert choose_protocol(None, CROWDPOSE_14, plain) == "crowdpose"
    assert choose_protocol("coco", CROWDPOSE_14, crowded) == "coco"
    with pytest.raises(UsageError, match=r"no protocol 'mpii'.*coco, crowdpose"):
        choose_protocol("mpii", COCO_17, plain)


def test_sigmas_are_never_made_up():
    custom = Skeleton("fish", ("a", "b"))
    with pytest.raises(UsageError, match=r"'fish'.*--sigma"):
        choose_sigmas(None, custom)
    with pytest.raises(UsageError, match="fish"):
        evaluate_poses(Drawn([People.empty(2)], custom), [Poses.empty(custom)])
    assert choose_sigmas(None, COCO_17) == COCO_17.sigmas
    assert choose_sigmas(0.05, custom) == (0.05, 0.05)
    assert choose_sigmas([0.1, 0.2], custom) == (0.1, 0.2)
    for wrong in ([0.1], [0.1] * 3, 0, -1.0, [0.1, float("nan")], [0.1, float("inf")]):
        with pytest.raises(UsageError):
            choose_sigmas(wrong, custom)


# Results files


def test_a_results_file_and_back(tmp_path):
    made = document([image(5), image(3)], [person(1, 5, category_id=4)], [category(id=4)])
    truth, _, _ = read_ground_truth(write(tmp_path, made, pictures=False))
    found = Detections.from_poses([as_poses(some_people(2)), as_poses(some_people(1))], 17)
    save_results(tmp_path / "out.json", found, truth)
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [entry["image_id"] for entry in entries] == [5, 5, 3]
    assert {entry["category_id"] for entry in entries} == {4}
    box = some_people(1).boxes[0].astype(float)
    assert entries[2]["bbox"] == pytest.approx([box[0], box[1], 100, 100], rel=1e-6)
    assert entries[2]["keypoints"][:3] == [*some_people(1).keypoints[0, 0].astype(float).tolist(), 1.0]
    again = load_results(tmp_path / "out.json", truth, 17)
    for name in ("image", "scores", "boxes", "keypoints"):
        assert np.array_equal(getattr(again, name), getattr(found, name))
    save_results(tmp_path / "none.json", found.select(np.zeros(3, bool)), truth)
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert len(load_results(tmp_path / "none.json", truth, 17)) == 0


def entry(**fields):
    made = {"image_id": 1, "category_id": 1, "keypoints": [1.0] * 51, "score": 0.5, "bbox": [1, 2, 3, 4]}
    return {key: value for key, value in {**made, **fields}.items() if value is not ...}


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("[{]", "not JSON"),
        ("{}", "not a list"),
        ([7], "#0 is not an object"),
        ([entry(), entry(image_id=99)], "#1 is of the image 99"),
        ([entry(image_id=...)], "#0 is of the image None"),
        ([entry(image_id=[1])], "#0 is of the image"),
        ([entry(keypoints=[1.0] * 50)], "#0 has no list of 51"),
        ([entry(keypoints=[1.0] * 50 + [float("nan")])], "#0 has no list of 51"),
        ([entry(keypoints=[1.0] * 50 + ["x"])], "#0 has no list of 51"),
        ([entry(keypoints=...)], "#0 has no list of 51"),
        ([entry(score=...)], "#0 has no finite number as its score"),
        ([entry(score=True)], "#0 has no finite number as its score"),
        ([entry(score=10**400)], "#0 has no finite number as its score"),
        ([entry(bbox=[1, 2])], "#0 has a bbox that is not four"),
        ([entry(bbox=[1, 2, -3, -4])], "#0 has a bbox .* of a negative size"),
        ([entry(bbox=[1, 2, 3, float("inf")])], "#0 has a bbox that is not four"),
        ([entry(score=None)] * 15, "and 5 more"),
    ],
)
def test_faulty_results(tmp_path, content, finding):
    truth, _, _ = read_ground_truth(write(tmp_path, document(), pictures=False))
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputDataError, match=finding) as caught:
        load_results(path, truth, 17)
    assert caught.value.where == str(path)
    with pytest.raises(InputDataError, match="cannot be opened"):
        load_results(tmp_path / "nothing.json", truth, 17)


def test_entries_that_are_passed_over(tmp_path):
    truth, _, _ = read_ground_truth(write(tmp_path, document(), pictures=False))
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry(), entry(category_id=2), entry(category_id=...), entry(image_id=50)]))
    assert len(load_results(path, truth, 17, known=[50])) == 2


# Models


def artifact(**fields):
    made = {
        "path": Path("m.onnx"),
        "kind": Kind.ONNX,
        "architecture": "rtmo-s",
        "skeleton": COCO_17,
        "input": InputContract(640, 640),
        "decode": DecodeContract(DecodeMode.ONNX),
    }
    return Artifact(**{**made, **fields})


def test_published_figures():
    record = VARIANTS["rtmo-s-body7"]
    whole = record.sha256_prefix + "0" * 56
    found = published_figures(artifact(), whole)
    assert found is not None
    assert (found.model, found.dataset, found.protocol) == ("rtmo-s-body7", "COCO val2017", "coco")
    assert found.metrics == {"AP": 0.686, "AP50": 0.879, "AP75": 0.744, "AR": 0.723, "AR50": 0.908}
    assert published_figures(artifact(parents=(Parent("s.pth", whole),)), "f" * 64) == found
    assert published_figures(artifact(), "f" * 64) is None
    crowd = next(one for one in VARIANTS.values() if one.accuracy.dataset == "CrowdPose test")
    figures = published_figures(artifact(), crowd.sha256_prefix + "1" * 56)
    assert figures.protocol == "crowdpose"
    assert {"AP(E)", "AP(M)", "AP(H)"} < set(figures.metrics)


def test_score_thresholds():
    built_in = artifact()
    assert with_score_threshold(built_in, 0.1) is built_in
    assert with_score_threshold(built_in, 0.5) is built_in
    with pytest.raises(UsageError, match=r"score up to 0.1; 0.05 is below"):
        with_score_threshold(built_in, 0.05)
    for lenient in (artifact(kind=Kind.CHECKPOINT), artifact(decode=DecodeContract(DecodeMode.RAW))):
        assert with_score_threshold(lenient, 0.05).decode.score_thr == 0.05
