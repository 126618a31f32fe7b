"""Keypoints of one skeleton as those of another."""

from __future__ import annotations

import numpy as np
import pytest

from rtmo_deploy.data import People, Sample
from rtmo_deploy.data.translated import BODY7, TranslatedDataset
from rtmo_deploy.errors import UsageError
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.zoo import COCO_17, CROWDPOSE_14


class Numbered:
    """``count`` images of one person; keypoint k lies at (k, image) and is labelled unless in ``missing``."""

    def __init__(self, count, skeleton=COCO_17, *, missing=(), ignore=None):
        self.count, self.skeleton, self.missing, self.ignore = count, skeleton, set(missing), ignore

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        joints = len(self.skeleton)
        places = np.stack([np.arange(joints), np.full(joints, index)], axis=-1)[None]
        visible = np.array([[0 if k in self.missing else 2 for k in range(joints)]])
        people = People([[1, 2, 5, 6]], places, visible, [9])
        return Sample(np.zeros((8, 8, 3), np.uint8), people, index, f"{index}.png", self.ignore)


def test_a_mapping_moves_keypoints():
    small = Skeleton("small", ("a", "b", "c"))
    data = TranslatedDataset(Numbered(2, small), [(0, "nose"), ("c", 4)], COCO_17)
    assert (len(data), data.skeleton) == (2, COCO_17)
    sample = data[1]
    people = sample.people
    assert people.keypoints.shape == (1, 17, 2)
    assert people.visible[0].nonzero()[0].tolist() == [0, 4]
    assert people.keypoints[0, [0, 4]].tolist() == [[0, 1], [2, 1]]
    assert people.keypoints[0, 1].tolist() == [0, 0]
    assert (people.boxes.tolist(), people.areas.tolist()) == ([[1, 2, 5, 6]], [9])
    assert (sample.image_id, sample.name, sample.ignore) == (1, "1.png", None)


@pytest.mark.parametrize("known", [False, True])
def test_people_without_keypoints_after_it_are_ignored(known):
    small = Skeleton("small", ("a", "b"))
    before = np.zeros((8, 8), bool)
    before[0, 0] = True
    source = Numbered(1, small, missing=[0], ignore=before if known else None)
    sample = TranslatedDataset(source, [(0, 0)], COCO_17)[0]
    assert len(sample.people) == 0
    expected = np.zeros((8, 8), bool)
    expected[2:6, 1:5] = True
    expected[0, 0] = known
    assert np.array_equal(sample.ignore, expected)
    assert before.sum() == 1


@pytest.mark.parametrize(
    ("mapping", "finding"),
    [
        ([(0, 1), (2, "left_eye")], "leads to left_eye more than once"),
        ([(17, 0)], "names the keypoint 17"),
        ([(-1, 0)], "names the keypoint -1"),
        ([("tail", 0)], "names the keypoint 'tail'"),
        ([(0, "tail")], "names the keypoint 'tail'"),
    ],
)
def test_what_does_not_fit(mapping, finding):
    with pytest.raises(UsageError, match=finding):
        TranslatedDataset(Numbered(1), mapping, COCO_17)


AIC = "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee right_ankle"
AIC += " left_hip left_knee left_ankle head_top neck"
MPII = "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top right_wrist"
MPII += " right_elbow right_shoulder left_shoulder left_elbow left_wrist"
JHMDB = "neck belly head right_shoulder left_shoulder right_hip left_hip right_elbow left_elbow right_knee left_knee"
JHMDB += " right_wrist left_wrist right_ankle left_ankle"
POSETRACK = "nose head_bottom head_top " + " ".join(COCO_17.keypoints[3:])
NAMES = {
    "coco": " ".join(COCO_17.keypoints),
    "aic": AIC,
    "crowdpose": " ".join(CROWDPOSE_14.keypoints),
    "mpii": MPII,
    "jhmdb": JHMDB,
    "halpe": " ".join(COCO_17.keypoints) + " head neck hip" + "".join(f" foot_{i}" for i in range(6)),
    "posetrack18": POSETRACK,
    "ochuman": " ".join(COCO_17.keypoints),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_body7_sets(name):
    """Each mapping joins keypoints of the same name, and all there are."""
    names = NAMES[name].split()
    assert {(names[source], COCO_17.keypoints[target]) for source, target in BODY7[name]} == {
        (one, one) for one in names if one in COCO_17.keypoints
    }
    sample = TranslatedDataset(Numbered(4, Skeleton(name, tuple(names))), BODY7[name], COCO_17)[0]
    assert sample.people.keypoints.shape[1] == 17


def test_body7_as_a_whole():
    assert set(BODY7) == set(NAMES)
