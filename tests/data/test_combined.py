"""Several sets as one: who is drawn how often, and where keypoints go."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.data import People, Sample
from rtmo_deploy.data.combined import BODY7, CombinedDataset, Part
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


def drawn(data):
    return [data.locate(index) for index in range(len(data))]


def test_parts_follow_each_other():
    data = CombinedDataset([Part(Numbered(3)), Part(Numbered(0)), Part(Numbered(2))])
    assert drawn(data) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
    assert data[4].name == "1.png"
    assert data.locate(-1) == (2, 1)
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            data[wrong]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 3), st.integers(0, 5), st.integers(0, 3))
def test_one_picture_of_each_stretch(size, ratio, seed, epoch):
    count = round(size * ratio)
    data = CombinedDataset([Part(Numbered(1)), Part(Numbered(size), ratio)], seed=seed)
    data.set_epoch(epoch)
    assert len(data) == 1 + count
    places = [place for number, place in drawn(data) if number == 1]
    assert len(places) == count
    for sample, place in enumerate(places):
        low, high = sample * size / count, (sample + 1) * size / count
        assert max(0, math.floor(low - 0.501)) <= place <= min(size - 1, math.ceil(high - 0.499))
    assert places == sorted(places)


def test_counts_round_half_to_even():
    assert [len(CombinedDataset([Part(Numbered(5), ratio), Part(Numbered(1))])) - 1 for ratio in (0.5, 0.3, 0.7)] == [
        2,
        2,
        4,
    ]


def test_every_picture_has_its_chance_and_a_draw_repeats():
    data = CombinedDataset([Part(Numbered(10), 0.3)], seed=1)
    seen, sequences = np.zeros(10), []
    for epoch in range(600):
        data.set_epoch(epoch)
        places = [place for _, place in drawn(data)]
        assert places == [place for _, place in drawn(data)]
        assert data[0].image_id == places[0]
        sequences.append(tuple(places))
        seen[places] += 1
    assert len(set(sequences)) > 20
    # As in the reference, the first and the last image have half a stretch more and less than the others.
    assert (np.abs(seen[1:-1] / 600 - 0.3) < 0.08).all()
    data.set_epoch(5)
    assert tuple(place for _, place in drawn(data)) == sequences[5]
    assert tuple(place for _, place in drawn(pickle.loads(pickle.dumps(data)))) == sequences[5]
    other = CombinedDataset([Part(Numbered(10), 0.3)], seed=2)
    assert any((other.set_epoch(epoch), tuple(p for _, p in drawn(other)))[1] != sequences[epoch] for epoch in range(9))


def test_the_draw_is_the_references(monkeypatch):
    """Index of a stretch: round(gap * i + u * gap - 0.5), gap = (n - 1e-4) / m; here with u fixed."""

    class Fixed:
        def random(self, count):
            return np.full(count, 0.75)

    monkeypatch.setattr(np.random, "default_rng", lambda _: Fixed())
    data = CombinedDataset([Part(Numbered(10), 0.4)])
    gap = (10 - 1e-4) / 4
    assert [place for _, place in drawn(data)] == [round(gap * index + 0.75 * gap - 0.5) for index in range(4)]


def test_a_mapping_moves_keypoints():
    small = Skeleton("small", ("a", "b", "c"))
    part = Part(Numbered(2, small), mapping=[(0, "nose"), ("c", 4)])
    sample = CombinedDataset([part, Part(Numbered(1))])[1]
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
    part = Part(Numbered(1, small, missing=[0], ignore=before if known else None), mapping=[(0, 0)])
    sample = CombinedDataset([part])[0]
    assert len(sample.people) == 0
    expected = np.zeros((8, 8), bool)
    expected[2:6, 1:5] = True
    expected[0, 0] = known
    assert np.array_equal(sample.ignore, expected)
    assert before.sum() == 1


@pytest.mark.parametrize(
    ("part", "finding"),
    [
        (Part(Numbered(1, CROWDPOSE_14)), "keypoints of 'crowdpose-14', not those of 'coco-17'"),
        (Part(Numbered(1), mapping=[(0, 1), (2, "left_eye")]), "leads to left_eye more than once"),
        (Part(Numbered(1), mapping=[(17, 0)]), "names the keypoint 17"),
        (Part(Numbered(1), mapping=[(-1, 0)]), "names the keypoint -1"),
        (Part(Numbered(1), mapping=[("tail", 0)]), "names the keypoint 'tail'"),
        (Part(Numbered(1), mapping=[(0, "tail")]), "names the keypoint 'tail'"),
        (Part(Numbered(1), -0.1), "ratio of part 0 is -0.1"),
        (Part(Numbered(1), math.nan), "ratio of part 0 is nan"),
        (Part(Numbered(1), math.inf), "ratio of part 0 is inf"),
        (Part(Numbered(9), 0.01), "Nothing is left"),
        (Part(Numbered(0)), "Nothing is left"),
    ],
)
def test_what_does_not_fit(part, finding):
    with pytest.raises(UsageError, match=finding):
        CombinedDataset([part])
    with pytest.raises(UsageError):
        CombinedDataset([])


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
    record = BODY7[name]
    assert record.keypoints == len(names)
    assert {(names[source], COCO_17.keypoints[target]) for source, target in record.mapping} == {
        (one, one) for one in names if one in COCO_17.keypoints
    }
    part = Part.body7(name, Numbered(4, Skeleton(name, tuple(names))))
    assert part.ratio == record.ratio
    sample = CombinedDataset([part, Part(Numbered(1))], seed=0)[0]
    assert sample.people.keypoints.shape[1] == 17


def test_body7_as_a_whole():
    assert set(BODY7) == set(NAMES)
    ratios = {"coco": 1, "aic": 0.3, "crowdpose": 0.5, "mpii": 0.3, "jhmdb": 0.3, "halpe": 0.4, "posetrack18": 0.3}
    assert {name: record.ratio for name, record in BODY7.items()} == {**ratios, "ochuman": None}
    with pytest.raises(UsageError, match="no body7 set 'dogs'"):
        Part.body7("dogs", Numbered(1))
    with pytest.raises(UsageError, match="14 keypoints, this dataset 17"):
        Part.body7("aic", Numbered(1))
