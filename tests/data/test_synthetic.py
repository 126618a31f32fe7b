"""Synthetic people: the same everywhere, annotated exactly, and as many as were asked for."""

from __future__ import annotations

import hashlib
import pickle

import cv2
import numpy as np
import pytest

from rtmo_deploy.data import synthetic
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.data.synthetic.figures import draw_figure, looks_of_seed
from rtmo_deploy.data.synthetic.outlines import Outlines
from rtmo_deploy.data.synthetic.scene import Scene
from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo import COCO_17

PLAIN = SyntheticOptions(size=(256, 256), people=(1, 1), truncated=0, clutter=0, occluded=0, finish=False)
CASES = {
    "few": SyntheticOptions(size=(192, 192), people=(1, 6)),
    "default": SyntheticOptions(),
    "cut": SyntheticOptions(size=(200, 300), people=(2, 5), truncated=1),
    "crowd": SyntheticOptions(size=(320, 448), people=(30, 60), occluded=1),
    "large": SyntheticOptions(size=(128, 160), people=(3, 4), height=(1.5, 2.5)),
}
NAMES = COCO_17.keypoints
KNOWN_ANNOTATIONS = ["fbc748bc7103f3cf", "c4e1f7e742adde67", "41b7bef36353033f"]
KNOWN_PIXELS = [(100.74, 33.28), (103.45, 77.36), (105.07, 49.02)]


def digest(sample):
    people = sample.people
    parts = (people.boxes, people.keypoints, people.visible, people.areas)
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


@pytest.fixture(scope="module", params=CASES)
def samples(request):
    options = CASES[request.param]
    dataset = SyntheticPeople(12, seed=4, options=options)
    return [dataset[index] for index in range(len(dataset))], options


def test_what_a_seed_gives_is_known():
    """If this fails on purpose, count GENERATOR_VERSION up."""
    dataset = SyntheticPeople(8, seed=2, options=SyntheticOptions(size=(96, 128), people=(2, 5)))
    assert synthetic.GENERATOR_VERSION == 2
    assert [digest(dataset[index]) for index in (0, 3, 7)] == KNOWN_ANNOTATIONS
    for index, (mean, spread) in zip((0, 3, 7), KNOWN_PIXELS, strict=True):
        image = dataset[index].image
        assert image.mean() == pytest.approx(mean, abs=0.5)
        assert image.std() == pytest.approx(spread, abs=0.5)


def test_the_same_again_and_in_any_order():
    first, second = (SyntheticPeople(9, seed=1) for _ in range(2))
    forward = [first[index] for index in range(9)]
    for index in reversed(range(9)):
        again = second[index]
        assert np.array_equal(again.image, forward[index].image)
        assert digest(again) == digest(forward[index])
        assert (again.image_id, again.name) == (forward[index].image_id, forward[index].name)


def test_a_picture_does_not_depend_on_how_many_there_are():
    assert np.array_equal(SyntheticPeople(2, seed=1)[1].image, SyntheticPeople(2000, seed=1)[1].image)


def test_indices_and_seeds_differ():
    options = CASES["few"]
    pictures = [
        SyntheticPeople(3, seed=seed, options=options)[index].image for seed in (0, 1, 2) for index in (0, 1, 2)
    ]
    assert len({picture.tobytes() for picture in pictures}) == 9


def test_no_global_randomness_is_touched():
    np.random.seed(3)  # noqa: NPY002 - the one that must be left alone
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    SyntheticPeople(1, seed=0)[0]
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_pickled():
    dataset = SyntheticPeople(5, seed=6, options=CASES["few"])
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again[3].image, dataset[3].image)
    assert (len(again), again.options, again.skeleton) == (5, dataset.options, COCO_17)


def test_indices_are_those_of_a_sequence():
    dataset = SyntheticPeople(3, seed=0, options=CASES["few"])
    assert np.array_equal(dataset[-1].image, dataset[2].image)
    for index in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            dataset[index]
    assert len(list(dataset)) == 3


def test_pictures(samples):
    found, options = samples
    for sample in found:
        assert sample.image.dtype == np.uint8
        assert sample.image.flags.c_contiguous
        assert sample.image.ndim == 3
        if options.size:
            assert sample.image.shape == (*options.size, 3)
        assert options.people[0] <= len(sample.people) <= options.people[1]
    if options.size is None:
        assert len({sample.image.shape for sample in found}) > 3


def test_annotations_hold_together(samples):
    for sample in samples[0]:
        height, width = sample.image.shape[:2]
        people = sample.people
        x1, y1, x2, y2 = people.boxes.T
        assert (x1 >= 0).all()
        assert (y1 >= 0).all()
        assert (x2 <= width).all()
        assert (y2 <= height).all()
        assert (np.maximum(x2 - x1, y2 - y1) >= 8).all()
        assert (people.areas > 0).all()
        assert (people.areas <= (x2 - x1) * (y2 - y1)).all()
        assert np.isin(people.visible, (0, 1, 2)).all()
        assert ((people.visible == 2).sum(1) >= 4).all()
        assert (people.keypoints[people.visible == 0] == 0).all()
        for points, flags, box in zip(people.keypoints, people.visible, people.boxes, strict=True):
            points = points[flags > 0]
            assert (points >= -0.5).all()
            assert (points <= (width - 0.5, height - 0.5)).all()
            assert (points >= box[:2] - 1).all()
            assert (points <= box[2:]).all()


def test_each_situation_occurs():
    dataset = SyntheticPeople(60, seed=0, options=SyntheticOptions(size=(192, 192), people=(1, 6)))
    people = [dataset[index].people for index in range(60)]
    flags = np.concatenate([some.visible.ravel() for some in people])
    for flag, least, most in ((0, 0.08, 0.3), (1, 0.05, 0.3), (2, 0.6, 0.85)):
        assert least < (flags == flag).mean() < most
    assert {len(some) for some in people} == {1, 2, 3, 4, 5, 6}
    overlaps = [
        (np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all()
        for some in people
        for i, a in enumerate(some.boxes)
        for b in some.boxes[:i]
    ]
    assert 0.05 < np.mean(overlaps) < 0.7


def test_nobody():
    sample = SyntheticPeople(1, seed=0, options=SyntheticOptions(people=(0, 0)))[0]
    assert len(sample.people) == 0
    assert sample.people.keypoints.shape == (0, 17, 2)


@pytest.mark.parametrize("size", [(192, 192), (480, 640)])
def test_sixty_people(size):
    dataset = SyntheticPeople(3, seed=0, options=SyntheticOptions(size=size, people=(60, 60)))
    assert [len(dataset[index].people) for index in range(3)] == [60, 60, 60]


@pytest.mark.parametrize(
    "wrong",
    [
        {"people": (5, 2)},
        {"people": (-1, 2)},
        {"people": (0, 61)},
        {"size": (20, 100)},
        {"height": (0.0, 0.5)},
        {"height": (0.6, 0.5)},
        {"truncated": 1.5},
        {"occluded": -0.1},
        {"clutter": -1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError):
        SyntheticOptions(**wrong)


def test_negative_counts_are_refused():
    for count, seed in ((-1, 0), (1, -1)):
        with pytest.raises(UsageError):
            SyntheticPeople(count, seed=seed)


# --- the figures themselves ---


@pytest.fixture(scope="module")
def outlines():
    return Outlines.of_seed(0)


def cutouts(outlines, bodies, height=200.0):
    bodies = np.asarray(bodies)
    jitter = np.full((len(bodies), 2), 0.5)
    polygons, keypoints, sizes = outlines.place(bodies, np.full(len(bodies), height), jitter)
    looks = looks_of_seed(0)
    for row, body in enumerate(bodies.tolist()):
        head = float(outlines.head[body]) * height
        yield draw_figure(polygons[row], keypoints[row], sizes[row], outlines.plans[body], looks[body % 97], head)


def at(cutout, name):
    return cutout.keypoints[NAMES.index(name)]


def upright(outlines, chosen):
    """Of the bodies chosen, those whose head is well above their hips."""
    for body, cutout in zip(chosen, cutouts(outlines, chosen), strict=True):
        if at(cutout, "nose")[1] + 50 < at(cutout, "left_hip")[1]:
            yield body, cutout


def facing(outlines):
    return [i for i, plan in enumerate(outlines.plans) if plan.shown == (True,) * 5][:150]


def from_behind(outlines):
    return [i for i, plan in enumerate(outlines.plans) if plan.shown == (False, False, False, True, True)][:150]


def test_who_faces_the_viewer_has_the_left_side_at_image_right(outlines):
    found = 0
    for _, cutout in upright(outlines, facing(outlines)):
        for pair in ("eye", "ear"):
            assert at(cutout, f"left_{pair}")[0] > at(cutout, f"right_{pair}")[0]
        found += 1
        nose = at(cutout, "nose")
        assert at(cutout, "right_ear")[0] < nose[0] < at(cutout, "left_ear")[0]
    assert found > 80
    shoulders = [at(c, "left_shoulder")[0] - at(c, "right_shoulder")[0] for _, c in upright(outlines, facing(outlines))]
    assert np.mean(np.array(shoulders) > 0) > 0.93
    hips = [at(c, "left_hip")[0] - at(c, "right_hip")[0] for _, c in upright(outlines, facing(outlines))]
    assert np.mean(np.array(hips) > 0) > 0.93


def test_who_is_seen_from_behind_has_the_left_side_at_image_left_and_no_face(outlines):
    found = 0
    for _, cutout in upright(outlines, from_behind(outlines)):
        assert at(cutout, "left_ear")[0] < at(cutout, "right_ear")[0]
        assert not cutout.bare[:3].any()
        assert not cutout.known[:3].any()
        found += 1
    assert found > 80
    shoulders = [
        at(c, "left_shoulder")[0] - at(c, "right_shoulder")[0] for _, c in upright(outlines, from_behind(outlines))
    ]
    assert np.mean(np.array(shoulders) < 0) > 0.93


def test_in_profile_the_near_ear_is_seen_and_the_nose_is_before_it(outlines):
    """Looking to image right, the right side is the near one."""
    profile = [i for i, plan in enumerate(outlines.plans) if plan.shown == (True, False, True, False, True)][:60]
    found = list(upright(outlines, profile))
    assert len(found) > 20
    assert all(at(cutout, "nose")[0] > at(cutout, "right_ear")[0] for _, cutout in found)


def test_limbs_have_their_lengths_and_hang_together(outlines):
    """No limb is longer than it can be, and each is drawn from joint to joint."""
    longest = {("shoulder", "elbow"): 0.19, ("elbow", "wrist"): 0.18, ("hip", "knee"): 0.29, ("knee", "ankle"): 0.29}
    for cutout in cutouts(outlines, range(200)):
        for side in ("left", "right"):
            for (start, end), most in longest.items():
                a, b = at(cutout, f"{side}_{start}"), at(cutout, f"{side}_{end}")
                assert np.linalg.norm(a - b) < most * 200 * 1.06
                between = np.rint(a + (b - a) * np.linspace(0, 1, 9)[:, None]).astype(int)
                assert (cutout.parts[between[:, 1], between[:, 0]] > 0).all()
        assert cv2.connectedComponents((cutout.parts > 0).astype(np.uint8))[0] == 2


def test_keypoints_are_within_the_silhouette(outlines):
    for cutout in cutouts(outlines, range(300)):
        pixels = np.rint(cutout.keypoints).astype(int)[5:]
        assert (cutout.parts[pixels[:, 1], pixels[:, 0]] > 0).all()


def test_a_joint_is_in_the_middle_of_its_limb(outlines):
    """A keypoint a pixel off would show: the wrist's cross-section is symmetric about it."""
    offsets = []
    for body in range(400):
        (cutout,) = cutouts(outlines, [body], height=400.0)
        for side, part in (("left", 4), ("right", 5)):
            elbow, wrist = at(cutout, f"{side}_elbow"), at(cutout, f"{side}_wrist")
            along = wrist - elbow
            if abs(along[0]) > 6 or along[1] < 40 or not cutout.bare[NAMES.index(f"{side}_wrist")]:
                continue
            row = cutout.parts[round(float(wrist[1]) - 8)] == part
            x = wrist[0] - along[0] * 8 / along[1]
            left = right = round(float(x))
            while row[left - 1]:
                left -= 1
            while row[right + 1]:
                right += 1
            if right - left < 30:  # one limb alone
                offsets.append((left + right) / 2 - x)
    assert len(offsets) > 30
    assert abs(np.median(offsets)) < 0.15


def test_eyes_are_on_dark_spots():
    """The centre of an eye, in the image: a whole number is the centre of a pixel."""
    outlines, looks = Outlines.of_seed(0), looks_of_seed(0)
    look = next(look for look in looks if look.hat is None and not look.long_hair and min(look.skin[:3]) > 80)
    bodies = np.array(facing(outlines)[:60])
    polygons, keypoints, sizes = outlines.place(bodies, np.full(60, 500.0), np.full((60, 2), 0.5))
    offsets = []
    for row, body in enumerate(bodies.tolist()):
        cutout = draw_figure(polygons[row], keypoints[row], sizes[row], outlines.plans[body], look, 40.0)
        dark = np.all(cutout.patch[..., :3] == look.iris[:3], axis=-1).astype(np.uint8)
        count, _, _, centres = cv2.connectedComponentsWithStats(dark)
        if count != 3 or not cutout.bare[1:3].all():
            continue
        offsets += [min(centres[1:] - eye, key=np.linalg.norm) for eye in cutout.keypoints[1:3]]
    assert len(offsets) > 40
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.25
    assert np.abs(offsets).max() < 1.0


# --- the scene ---


@pytest.fixture
def scene():
    canvas = np.zeros((300, 300, 4), np.uint8)
    canvas[..., 3] = 255
    return Scene(canvas)


def one(outlines, body, height=150.0):
    (cutout,) = cutouts(outlines, [body], height)
    return cutout


def test_a_figure_lies_where_it_is_put(scene, outlines):
    cutout = one(outlines, facing(outlines)[0])
    mask = cutout.parts > 0
    assert scene.add_person(cutout, 40, 30)
    people = scene.people()
    assert people.areas[0] == mask.sum()
    rows, columns = np.nonzero(scene.canvas[..., 3] == 0)
    assert people.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(people.keypoints[0], cutout.keypoints + np.array((40, 30)), atol=0.006)
    assert ((people.visible[0] == 2) == cutout.bare).all()
    assert (people.visible[0] >= 1).all()


def test_who_is_covered_keeps_box_and_area(scene, outlines):
    far, near = one(outlines, facing(outlines)[0]), one(outlines, facing(outlines)[1], 110.0)
    assert scene.add_person(far, 60, 40)
    before = scene.people()
    placed = next(offset for offset in range(90, 0, -5) if scene.add_person(near, 60 + offset // 3, 40 + offset))
    assert placed
    after = scene.people()
    assert np.array_equal(after.boxes[0], before.boxes[0])
    assert after.areas[0] == before.areas[0]
    on_top = scene.canvas[..., 3]
    for person in (0, 1):
        columns, rows = np.rint(after.keypoints[person]).astype(int).T
        mine = on_top[rows, columns] == person
        assert ((after.visible[person] == 2) == (mine & (far, near)[person].bare)).all()
    assert (after.visible[0] == 2).sum() < (before.visible[0] == 2).sum()


def test_a_place_is_labelled_where_something_next_to_it_tells_it(scene, outlines):
    body = next(i for i in facing(outlines) if one(outlines, i).bare.all())
    figure = one(outlines, body, 200.0)
    assert scene.add_person(figure, 40, 20)
    assert (scene.people().visible[0] == 2).all()
    joints = {name: index for index, name in enumerate(NAMES)}

    def cover(name, radius=6):
        x, y = figure.pixels[joints[name]] + (40, 20)
        mask = np.full((2 * radius + 1,) * 2, 255, np.uint8)
        assert scene.add_thing(np.zeros((*mask.shape, 4), np.uint8), mask, x - radius, y - radius)
        return scene.people()

    people = cover("left_ankle")
    assert people.visible[0, joints["left_ankle"]] == 1  # the knee tells it
    people = cover("left_knee")
    assert people.visible[0, joints["left_knee"]] == 1  # the hip tells it
    assert people.visible[0, joints["left_ankle"]] == 0
    assert not people.keypoints[0, joints["left_ankle"]].any()
    people = cover("left_hip")
    assert people.visible[0, joints["left_hip"]] == 1  # always
    assert people.visible[0, joints["left_knee"]] == 0
    assert people.visible[0, joints["right_ankle"]] == 2


def test_nobody_is_covered_altogether(scene, outlines):
    small, large = one(outlines, facing(outlines)[0], 60.0), one(outlines, facing(outlines)[1], 260.0)
    assert scene.add_person(small, 100, 130)
    before = scene.canvas.copy()
    rows, columns = np.nonzero(large.parts)
    middle = int(columns.mean()), int(rows.mean())
    assert not scene.add_person(
        large, 100 + small.parts.shape[1] // 2 - middle[0], 130 + small.parts.shape[0] // 2 - middle[1]
    )
    thing = np.full((200, 200), 255, np.uint8)
    assert not scene.add_thing(np.zeros((200, 200, 4), np.uint8), thing, 50, 60)
    assert np.array_equal(scene.canvas, before)
    assert len(scene.people()) == 1


def test_who_leaves_the_picture(scene, outlines):
    cutout = one(outlines, facing(outlines)[0])
    height, width = cutout.parts.shape
    assert not scene.add_person(cutout, 300, 0)
    assert not scene.add_person(cutout, 0, -height)
    assert not scene.add_person(cutout, 300 - width // 8, 20)
    assert scene.add_person(cutout, -width // 3, 20)
    people = scene.people()
    gone = cutout.keypoints[:, 0] - np.ceil(width / 3) < -0.5
    assert gone.any()
    assert ((people.visible[0] == 0) == gone).all()
    assert people.boxes[0, 0] == 0
    assert people.areas[0] == (scene.canvas[..., 3] == 0).sum() < (cutout.parts > 0).sum()


def test_flags_in_whole_pictures_are_those_of_the_label_image(monkeypatch):
    """Visible (2) means: the label image has this very person there; box and area contain what is on top."""
    kept = []
    original = Scene.people
    monkeypatch.setattr(Scene, "people", lambda self: kept.append(self.canvas[..., 3].copy()) or original(self))
    dataset = SyntheticPeople(10, seed=8, options=SyntheticOptions(size=(256, 256), people=(4, 12), occluded=1))
    for index in range(10):
        people = dataset[index].people
        labels = kept[-1]
        for person in range(len(people)):
            rows, columns = np.nonzero(labels == person)
            assert 0 < len(rows) <= people.areas[person]
            x1, y1, x2, y2 = people.boxes[person]
            assert x1 <= columns.min() <= columns.max() < x2
            assert y1 <= rows.min() <= rows.max() < y2
            pixels = np.rint(people.keypoints[person][people.visible[person] == 2]).astype(int)
            assert (labels[pixels[:, 1], pixels[:, 0]] == person).all()
