"""Batches: from samples to tensors, and to another size."""

import cv2
import numpy as np
import pytest
import torch

from rtmo_deploy.data.sample import People, Sample
from rtmo_deploy.train.assign import collate, resize


def sample(count, *, size=(64, 96), ignore=None, seed=0):
    """An image with a bright dot at each of its people's keypoints."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.uint8)
    keypoints = rng.integers(12, min(size) - 12, (count, 2, 2)).astype(np.float32)
    for x, y in keypoints.reshape(-1, 2).astype(int):
        cv2.circle(image, (int(x), int(y)), 2, (255, 255, 255), -1)
    low, high = keypoints.min(axis=1), keypoints.max(axis=1) + 1
    visible = np.tile(np.array([1, 2], np.float32), (count, 1))
    people = People(np.concatenate([low, high], axis=1), keypoints, visible, (high - low).prod(axis=1))
    return Sample(image, people, ignore=ignore)


def test_people_are_padded_to_the_most():
    samples = [sample(2), sample(0), sample(1, seed=3)]
    images, targets = collate(samples)
    assert images.shape == (3, 3, 64, 96)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(images[2].permute(1, 2, 0), samples[2].image)
    assert targets.present.tolist() == [[True, True], [False, False], [True, False]]
    np.testing.assert_array_equal(targets.boxes[0], samples[0].people.boxes)
    np.testing.assert_array_equal(targets.keypoints[2, 0], samples[2].people.keypoints[0])
    np.testing.assert_array_equal(targets.areas[0], samples[0].people.areas)
    assert targets.visible[0].tolist() == [[1, 1], [1, 1]], "hidden counts as much as seen"
    assert not targets.visible[1].any()
    assert targets.ignore is None


def test_nobody_at_all_is_one_row_of_padding():
    _, targets = collate([sample(0), sample(0)])
    assert targets.boxes.shape == (2, 1, 4)
    assert not targets.present.any()
    assert targets.areas.min() > 0


def test_masks_are_kept_where_there_are_any():
    mask = np.zeros((64, 96), bool)
    assert collate([sample(1, ignore=mask), sample(1)])[1].ignore is None
    mask[3, 4] = True
    ignore = collate([sample(1), sample(1, ignore=mask)])[1].ignore
    assert ignore.dtype == torch.bool
    assert ignore.nonzero().tolist() == [[1, 3, 4]]


def test_everything_moves_to_the_device():
    _, targets = collate([sample(1, ignore=np.ones((64, 96), bool))])
    moved = targets.to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values()} == {"meta"}


@pytest.mark.parametrize("hw", [(128, 192), (32, 64), (96, 96), (96, 160)])
def test_everything_goes_where_the_pixels_go(hw):
    mask = np.zeros((64, 96), bool)
    mask[16:48, :48] = True
    samples = [sample(1, ignore=mask, seed=1), sample(1, seed=2)]
    images, targets = collate(samples)
    resized, moved = resize(images.float(), targets, hw)
    assert resized.shape == (2, 3, *hw)
    across, down = hw[1] / 96, hw[0] / 64
    for before, after in zip(targets.keypoints.flatten(0, 2), moved.keypoints.flatten(0, 2), strict=True):
        np.testing.assert_allclose(after, [(before[0] + 0.5) * across - 0.5, (before[1] + 0.5) * down - 0.5], atol=1e-4)
    for image in (0, 1):  # the dot at a keypoint is where the keypoint went
        for x, y in moved.keypoints[image, 0].tolist():
            radius = 2 * max(across, down) + 1
            rows, columns = np.mgrid[: hw[0], : hw[1]]
            near = (abs(rows - y) <= radius + 1) & (abs(columns - x) <= radius + 1)
            weight = resized[image, 0].numpy() * near
            found = [(weight * axis).sum() / weight.sum() for axis in (columns, rows)]
            others = np.abs(moved.keypoints[image, 0].numpy() - [x, y]).max(axis=1)
            if (others[others > 0] > 3 * radius + 3).all():
                np.testing.assert_allclose(found, [x, y], atol=0.35)
    torch.testing.assert_close(moved.areas, targets.areas * across * down)
    low, high = moved.boxes[0, 0, :2], moved.boxes[0, 0, 2:]
    torch.testing.assert_close((high - low).prod(), moved.areas[0, 0], rtol=1e-4, atol=1e-3)
    assert moved.visible is targets.visible
    assert moved.present is targets.present
    rows, columns = np.nonzero(moved.ignore[0].numpy())
    assert (rows.min(), rows.max() + 1) == (hw[0] // 4, 3 * hw[0] // 4)
    assert (columns.min(), columns.max() + 1) == (0, hw[1] // 2)
    assert not moved.ignore[1].any()


def test_a_batch_of_that_size_is_left_alone():
    images, targets = collate([sample(1)])
    assert resize(images, targets, (64, 96)) == (images, targets)
