"""Running a model over annotated images: batches, bad images, and going on after a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from coco_files import category, person

from rtmo_deploy.data.coco import CocoKeypoints
from rtmo_deploy.errors import InputDataError, SetupError, UsageError
from rtmo_deploy.measure.accuracy import evaluate_model, evaluate_poses
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.zoo import COCO_17


@pytest.fixture(scope="module")
def estimator(onnx_n):
    return PoseEstimator.open(onnx_n, threads=1)


@pytest.fixture(scope="module")
def annotated(estimator, pictures, tmp_path_factory):
    """Five images whose annotated people are, up to rounding, the three best that the model finds."""
    folder = tmp_path_factory.mktemp("annotated")
    images, people = [], []
    for number, path in enumerate(pictures, 1):
        height, width = cv2.imread(str(path)).shape[:2]
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        shutil.copy(path, folder / f"{number}.png")
        for poses in list(estimator(path))[:3]:
            rows = np.concatenate([poses.keypoints[0].round(2), np.full((17, 1), 2)], axis=1)
            x1, y1, x2, y2 = poses.boxes[0].astype(float)
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": 0.6 * (x2 - x1) * (y2 - y1)}
            people.append(person(len(people) + 1, number, keypoints=rows.ravel().tolist(), **box))
    document = {"images": images, "annotations": people, "categories": [category()]}
    (folder / "people.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def data(annotated):
    return CocoKeypoints(annotated / "people.json", annotated)


def same(first, second):
    names = ("image", "scores", "boxes", "keypoints")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def test_what_the_model_finds_is_what_is_judged(estimator, data):
    seen = []
    done = evaluate_model(estimator, data, batch=2, progress=lambda *counts: seen.append(counts))
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert done.resumed == 0
    assert done.report.images == 5
    assert done.report.people == sum(len(data.people(index)) for index in range(5)) > 5
    assert done.report.metrics["AR"] == pytest.approx(1)
    poses = [estimator(path) for path in data.images]
    assert done.report.detections == sum(map(len, poses)) == len(done.detections)
    np.testing.assert_allclose(
        done.detections.keypoints[..., :2], np.concatenate([one.keypoints for one in poses]), atol=0.01
    )
    assert done.detections.image.tolist() == [index for index, one in enumerate(poses) for _ in range(len(one))]
    judged = evaluate_poses(data, poses)
    assert judged.metrics == pytest.approx(done.report.metrics, abs=1e-6)


def test_the_score_threshold(estimator, data):
    every = evaluate_model(estimator, data).detections
    bound = float(np.sort(every.scores)[len(every) // 2])
    strict = evaluate_model(estimator, data, score_thr=bound).detections
    assert same(strict, every.select(every.scores > bound))
    assert 0 < len(strict) < len(every)


class StoppedError(Exception):
    pass


class Counting:
    """An estimator that counts its images, and stops after some batches."""

    def __init__(self, estimator, stop_after=None):
        self.inner, self.left, self.pictures = estimator, stop_after, 0
        self.artifact, self.backend, self.input_hw = estimator.artifact, estimator.backend, estimator.input_hw

    def predict(self, pictures, *, batch):
        if self.left == 0:
            raise StoppedError
        self.left = None if self.left is None else self.left - 1
        self.pictures += len(pictures)
        return self.inner.predict(pictures, batch=batch)


def stopped(estimator, data, journal, after=1, **options):
    with pytest.raises(StoppedError):
        evaluate_model(Counting(estimator, after), data, batch=2, journal=journal, **options)


def test_a_run_goes_on_where_it_was_killed(estimator, data, tmp_path):
    journal = tmp_path / "a" / "journal"
    whole = evaluate_model(estimator, data, batch=2)
    stopped(estimator, data, journal, after=2)
    assert len(journal.read_bytes().splitlines()) == 3
    counting, seen = Counting(estimator), []
    done = evaluate_model(counting, data, batch=2, journal=journal, progress=lambda *counts: seen.append(counts))
    assert (counting.pictures, done.resumed, seen) == (1, 4, [(4, 5), (5, 5)])
    assert same(done.detections, whole.detections)
    assert done.report == whole.report
    assert not journal.exists()


def test_a_finished_journal_needs_no_model(estimator, data, tmp_path):
    """Killed after the last batch and before the end, the saving of results for one."""
    journal = tmp_path / "journal"

    def fail(found):
        raise StoppedError

    with pytest.raises(StoppedError):
        evaluate_model(estimator, data, batch=2, journal=journal, finished=fail)
    assert journal.exists()
    saved = []
    done = evaluate_model(Counting(estimator, 0), data, batch=2, journal=journal, finished=saved.append)
    assert done.resumed == 5
    assert saved == [done.detections]
    assert not journal.exists()


@pytest.mark.parametrize(
    "tear",
    [
        lambda lines: b"".join(lines) + b'{"batch": 2, "im',
        lambda lines: b"".join(lines)[:-1],
        lambda lines: b"".join(lines)[:-40],
        lambda lines: b"".join(lines) + b"\x00\x00\x00\n",
        lambda lines: b"".join(lines) + b'{"batch": 2}\n',
        lambda lines: b"".join(lines) + b'{"batch": 2, "image": [], "scores": [1], "boxes": [], "keypoints": []}\n',
        lambda lines: b"".join(lines) + b'{"batch": 70, "image": [], "scores": [], "boxes": [], "keypoints": []}\n',
        lambda lines: b"".join(lines) + b"[" * 100_000 + b"\n",
        lambda lines: lines[0] + b"nonsense\n" + lines[2],
        lambda lines: lines[0],
        lambda lines: lines[0][:-5],
        lambda _: b"",
    ],
)
def test_a_torn_journal(estimator, data, tmp_path, tear):
    journal = tmp_path / "journal"
    stopped(estimator, data, journal, after=2)
    journal.write_bytes(tear(journal.read_bytes().splitlines(keepends=True)))
    stopped(estimator, data, journal, after=0)  # the torn end is cut off before anything is added
    done = evaluate_model(estimator, data, batch=2, journal=journal)
    assert done.resumed in {0, 2, 4}
    assert same(done.detections, evaluate_model(estimator, data, batch=2).detections)


def test_a_torn_line_is_cut_off(estimator, data, tmp_path):
    journal = tmp_path / "journal"
    stopped(estimator, data, journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"batch": 1, "image": [' + b"0, " * 200_000)
    stopped(estimator, data, journal, after=1)
    lines = journal.read_bytes().splitlines()
    assert [json.loads(line)["batch"] for line in lines[1:]] == [0, 1]
    assert journal.read_bytes().startswith(whole)


def test_another_evaluation_does_not_take_it(estimator, data, annotated, onnx_n, tmp_path):
    journal = tmp_path / "journal"
    copied = tmp_path / "copy"
    shutil.copytree(annotated, copied)
    elsewhere = CocoKeypoints(copied / "people.json", copied)
    changed = tmp_path / "changed.json"
    changed.write_bytes((annotated / "people.json").read_bytes() + b"\n")
    other_model = tmp_path / "n.onnx"
    other_model.write_bytes(onnx_n.read_bytes())
    for other, options in (
        ((estimator, data), {"score_thr": 0.2}),
        ((estimator, data), {"batch": 3}),
        ((estimator, elsewhere), {}),
        ((estimator, CocoKeypoints(changed, annotated)), {}),
        ((estimator, CocoKeypoints(annotated / "people.json", annotated, max_images=4)), {}),
        ((PoseEstimator(estimator.backend, input_hw=(160, 160)), data), {}),
    ):
        stopped(estimator, data, journal)
        assert evaluate_model(*other, journal=journal, **{"batch": 2, **options}).resumed == 0
    stopped(estimator, data, journal)
    # The same model under another name is the same model.
    assert evaluate_model(PoseEstimator.open(other_model), data, batch=2, journal=journal).resumed == 2


def test_a_folder_for_journals(estimator, data, tmp_path):
    stopped(estimator, data, tmp_path)
    stopped(estimator, data, tmp_path, score_thr=0.2)
    assert len(list(tmp_path.iterdir())) == 2
    assert evaluate_model(estimator, data, batch=2, journal=tmp_path).resumed == 2
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--journal-dir"):
        evaluate_model(estimator, data, journal=tmp_path / "file" / "journal")


def test_unreadable_pictures_are_all_named(estimator, annotated, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(annotated, folder)
    (folder / "2.png").write_bytes(b"")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:60])
    cv2.imwrite(str(folder / "5.png"), np.zeros((9, 9, 3), np.uint8))
    data = CocoKeypoints(folder / "people.json", folder)
    counting, seen = Counting(estimator), []
    journal = tmp_path / "journal"
    with pytest.raises(InputDataError) as caught:
        evaluate_model(counting, data, batch=1, journal=journal, progress=lambda *counts: seen.append(counts))
    text = str(caught.value)
    assert "3 of 5 images" in text
    assert all(f"{number}.png" in text for number in (2, 4, 5))
    assert "3.png" not in text
    assert counting.pictures == 1  # nothing is run for a result that cannot be
    assert seen[-1] == (5, 5)
    for number in (2, 4, 5):
        shutil.copy(annotated / f"{number}.png", folder)
    assert evaluate_model(estimator, data, batch=1, journal=journal).resumed == 1


def test_keypoints_must_be_the_models(estimator, annotated, tmp_path):
    def opened(**fields):
        document = json.loads((annotated / "people.json").read_text())
        document["categories"][0].update(fields)
        (tmp_path / "people.json").write_text(json.dumps(document))
        return CocoKeypoints(tmp_path / "people.json", annotated)

    swapped = [COCO_17.keypoints[1], COCO_17.keypoints[0], *COCO_17.keypoints[2:]]
    counting = Counting(estimator)
    with pytest.raises(UsageError, match="in another order"):
        evaluate_model(counting, opened(keypoints=swapped), batch=2)
    unknown = [f"point {number}" for number in range(17)]
    with pytest.raises(InputDataError, match=r"different keypoints: nose, .* against point 0, .*--skeleton"):
        evaluate_model(counting, opened(keypoints=unknown), sigmas=0.05, batch=2)
    with pytest.raises(UsageError, match="sigmas"):
        evaluate_model(counting, opened(keypoints=unknown), told=True, batch=2)
    with pytest.raises(UsageError, match="no protocol"):
        evaluate_model(counting, opened(), sigmas=0.05, protocol="x")
    with pytest.raises(UsageError, match="batch of 0"):
        evaluate_model(counting, opened(), batch=0)
    assert counting.pictures == 0  # before the work, not after
    told = evaluate_model(estimator, opened(keypoints=unknown), sigmas=0.05, told=True).report
    assert (told.sigmas, told.sigmas_from) == ((0.05,) * 17, "given")
    spelt = [name.title().replace("_", "") for name in COCO_17.keypoints]
    assert evaluate_model(estimator, opened(keypoints=spelt)).report.sigmas_from == "coco-17"
    nameless = Counting(estimator)
    nameless.artifact = replace(estimator.artifact, skeleton=Skeleton.generic(17))
    assert "does not name its keypoints" in evaluate_model(nameless, opened()).report.notes[0]
    unnamed = evaluate_model(estimator, opened(keypoints=[])).report
    assert (unnamed.skeleton, unnamed.sigmas) == ("coco-17", COCO_17.sigmas)
    other = Counting(estimator)
    other.artifact = replace(estimator.artifact, skeleton=Skeleton("three", ("a", "b", "c")))
    with pytest.raises(UsageError, match=r"finds 3 keypoints .* have 17"):
        evaluate_model(other, opened())


@pytest.mark.slow
def test_photographs(shared, checkpoint_n, onnx_n):
    """Real annotations and images; the untrained network finds nobody it should, in both forms alike."""
    folder = shared / "data" / "coco"
    data = CocoKeypoints(folder / "test_coco.json", folder)
    reports = [evaluate_model(PoseEstimator.open(path), data).report for path in (checkpoint_n, onnx_n)]
    assert reports[0].people == reports[1].people == 12
    assert all(0 <= report.ap < 0.2 for report in reports)
    assert reports[0].ap == pytest.approx(reports[1].ap, abs=0.01)
