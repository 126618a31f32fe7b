"""The assignment of a batch against SimOTA image by image, person by person, cell by cell."""

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rtmo_deploy.model.head import grid_priors
from rtmo_deploy.train.assign import Targets, assign, object_keypoint_similarity

JOINTS = 4
SIGMAS = np.array([0.05, 0.08, 0.1, 0.06])
PRIORS = grid_priors([(8, 8), (4, 4)]).numpy().astype(np.float64)


def oks_of(keypoints, person):
    total = 0.0
    for joint in range(JOINTS):
        if person["visible"][joint]:
            squared = ((keypoints[joint] - person["keypoints"][joint]) ** 2).sum()
            total += np.exp(-squared / (2 * person["area"] * (2 * SIGMAS[joint]) ** 2))
    return total / max(person["visible"].sum(), 1e-8)


def iou_of(first, second):
    overlap = np.prod(np.clip(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0, None))
    return overlap / max(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - overlap, 1e-6)


def regions(people, *, keypoint_center):
    """Cells by people: in the box, near the centre."""
    in_box = np.zeros((len(PRIORS), len(people)), bool)
    in_centre = in_box.copy()
    for cell, (x, y, stride) in enumerate(PRIORS):
        for number, person in enumerate(people):
            x1, y1, x2, y2 = person["box"]
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            if keypoint_center and person["visible"].any():
                cx, cy = person["keypoints"][person["visible"] > 0].mean(axis=0)
            in_box[cell, number] = x1 < x < x2 and y1 < y < y2
            in_centre[cell, number] = abs(x - cx) < 2.5 * stride and abs(y - cy) < 2.5 * stride
    return in_box, in_centre


def too_close(first, second):
    """In float32 costs above 1e5 are multiples of 1/128."""
    return abs(first - second) < (0.05 if max(first, second) > 5e4 else 1e-4)


def slow_simota(logits, boxes, keypoints, people, *, keypoint_center, least_cells):
    """Pairs of cell and person of one image, with their OKS; None where rounding could decide."""
    in_box, in_centre = regions(people, keypoint_center=keypoint_center)
    valid = [cell for cell in range(len(PRIORS)) if in_box[cell].any() or in_centre[cell].any()]
    cost, oks = {}, {}
    for cell in valid:
        score = np.sqrt(1 / (1 + np.exp(-logits[cell])))
        for number, person in enumerate(people):
            oks[cell, number] = oks_of(keypoints[cell], person)
            cost[cell, number] = (
                -3 * np.log(iou_of(boxes[cell], person["box"]) + 1e-7)
                - 3 * np.log(oks[cell, number] + 1e-7)
                - np.log(score)
                + (0 if in_box[cell, number] and in_centre[cell, number] else 1e5)
            )

    wanted = {cell: [] for cell in valid}
    for number in range(len(people)):
        best = sorted((oks[cell, number] for cell in valid), reverse=True)[:10]
        total = sum(best)
        if abs(total - round(total)) < 1e-3 and total > 0.5:
            return None
        order = sorted(valid, key=lambda cell: cost[cell, number])
        count = min(max(int(total), 1), len(order))
        inner = sum(cost[cell, number] < 5e4 for cell in order)
        count = max(count, min(least_cells, inner, len(order)))
        if count < len(order) and too_close(cost[order[count - 1], number], cost[order[count], number]):
            return None
        for cell in order[:count]:
            wanted[cell].append(number)
    return settle(wanted, cost, oks, len(people))


def settle(wanted, cost, oks, count):
    """A cell that several want goes to the one of all people that it is cheapest for."""
    pairs = {}
    for cell, numbers in wanted.items():
        if len(numbers) > 1:
            ranked = sorted(range(count), key=lambda number: cost[cell, number])
            if too_close(cost[cell, ranked[0]], cost[cell, ranked[1]]):
                return None
            numbers = ranked[:1]
        if numbers:
            pairs[cell] = (numbers[0], oks[cell, numbers[0]])
    return pairs


def draw_picture(rng, count, *, near):
    """Predictions for every cell, and some people; those of a few cells are nearly right."""
    people = []
    for _ in range(count):
        corner, size = rng.uniform(-20, 110, 2), rng.uniform(4, 90, 2)
        keypoints = corner + rng.uniform(0, 1, (JOINTS, 2)) * size
        people.append(
            {
                "box": np.concatenate([corner, corner + size]),
                "keypoints": keypoints,
                "visible": (rng.random(JOINTS) > 0.3).astype(np.float64),
                "area": float(size.prod()) * 0.7,
            }
        )
    centre, size = PRIORS[:, :2] + rng.normal(0, 10, (len(PRIORS), 2)), rng.uniform(5, 60, (len(PRIORS), 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    keypoints = PRIORS[:, None, :2] + rng.normal(0, 20, (len(PRIORS), JOINTS, 2))
    if people:
        for cell in np.flatnonzero(rng.random(len(PRIORS)) < near):
            person = people[rng.integers(count)]
            boxes[cell] = person["box"] + rng.normal(0, 2, 4)
            keypoints[cell] = person["keypoints"] + rng.normal(0, 2, (JOINTS, 2))
    return rng.normal(0, 3, len(PRIORS)), boxes, keypoints, people


def padded(pictures, spare):
    most = max(1, *(len(picture[3]) for picture in pictures)) + spare
    batch = len(pictures)
    made = {
        "box": torch.zeros(batch, most, 4),
        "keypoints": torch.zeros(batch, most, JOINTS, 2),
        "visible": torch.zeros(batch, most, JOINTS),
        "area": torch.ones(batch, most),
    }
    present = torch.zeros(batch, most, dtype=torch.bool)
    for image, (*_, people) in enumerate(pictures):
        for number, person in enumerate(people):
            present[image, number] = True
            for name, tensor in made.items():
                tensor[image, number] = torch.tensor(person[name])
    return Targets(made["box"], made["keypoints"], made["visible"], made["area"], present)


def run(pictures, *, spare=0, **options):
    logits, boxes, keypoints = (torch.tensor(np.stack([p[i] for p in pictures]), dtype=torch.float32) for i in range(3))
    found = assign(
        logits,
        boxes,
        keypoints,
        torch.tensor(PRIORS, dtype=torch.float32),
        padded(pictures, spare),
        torch.tensor(SIGMAS, dtype=torch.float32),
        **options,
    )
    rows = list(zip(*(part.tolist() for part in (found.image, found.cell, found.person, found.oks)), strict=True))
    assert rows == sorted(rows), "image by image, and within one by cell"
    return rows


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    near=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    spare=st.integers(0, 2),
    keypoint_center=st.booleans(),
    least_cells=st.sampled_from([1, 1, 3]),
)
def test_it_is_simota_of_every_picture(seed, counts, near, spare, keypoint_center, least_cells):
    rng = np.random.default_rng(seed)
    pictures = [draw_picture(rng, count, near=near) for count in counts]
    options = {"keypoint_center": keypoint_center, "least_cells": least_cells}
    expected = [slow_simota(*picture, **options) for picture in pictures]
    assume(None not in expected)
    rows = run(pictures, spare=spare, **options)
    pairs = [(image, cell, person) for image, one in enumerate(expected) for cell, (person, _) in sorted(one.items())]
    assert [row[:3] for row in rows] == pairs
    for image, cell, _, oks in rows:
        assert abs(oks - expected[image][cell][1]) < 1e-4


def person_at(box, keypoints=None, visible=(1, 1, 1, 1)):
    box = np.array(box, np.float64)
    centre = np.tile((box[:2] + box[2:]) / 2, (JOINTS, 1))
    keypoints = centre if keypoints is None else np.array(keypoints, np.float64)
    return {"box": box, "keypoints": keypoints, "visible": np.array(visible, np.float64), "area": 1000.0}


def nothing_right():
    rng = np.random.default_rng(3)
    return draw_picture(rng, 0, near=0)[:3]


def test_nobody_and_a_person_far_from_every_cell():
    assert run([(*nothing_right(), [])], spare=2) == []
    assert run([(*nothing_right(), [person_at([500, 500, 520, 530])])]) == []


def test_a_tiny_person_between_the_cells_gets_one_by_its_centre():
    rows = run([(*nothing_right(), [person_at([14, 14, 17, 17])])])
    assert len(rows) == 1
    assert np.abs(PRIORS[rows[0][1], :2] - 15.5).max() < 2.5 * PRIORS[rows[0][1], 2]


def test_ten_perfect_cells_are_ten_positives_and_no_more():
    logits, boxes, keypoints = nothing_right()
    person = person_at([10, 10, 110, 110])
    boxes[:], keypoints[:] = person["box"], person["keypoints"]
    assert len(run([(logits, boxes, keypoints, [person])])) in (9, 10)  # ten times one, in float32, truncated


def test_the_centre_is_the_mean_of_the_labelled_keypoints():
    far = person_at([0, 0, 128, 128], keypoints=[[24, 24], [24, 24], [999, 999], [999, 999]], visible=(1, 1, 0, 0))
    by_keypoints = run([(*nothing_right(), [far])], least_cells=10)
    by_box = run([(*nothing_right(), [far])], least_cells=10, keypoint_center=False)
    assert all(np.abs(PRIORS[cell, :2] - 24).max() < 2.5 * PRIORS[cell, 2] for _, cell, *_ in by_keypoints)
    assert all(np.abs(PRIORS[cell, :2] - 64).max() < 2.5 * PRIORS[cell, 2] for _, cell, *_ in by_box)


def test_nothing_labelled_has_no_oks():
    zeros = torch.zeros(3, JOINTS)
    oks = object_keypoint_similarity(
        torch.zeros(3, JOINTS, 2), torch.zeros(3, JOINTS, 2), zeros, torch.ones(3), zeros[0] + 1
    )
    assert oks.tolist() == [0, 0, 0]


def test_predictions_that_are_not_numbers_are_not_chosen():
    logits, boxes, keypoints = nothing_right()
    person = person_at([10, 10, 110, 110])
    rows = run([(logits, boxes, keypoints, [person])])
    broken = rows[0][1]
    boxes[broken] = keypoints[broken] = logits[broken] = np.nan
    again = run([(logits, boxes, keypoints, [person])])
    assert again
    assert broken not in [row[1] for row in again]
