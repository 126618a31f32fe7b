"""The auxiliary heatmaps: spots where keypoints are, a loss that falls when they are found, and nothing left behind."""

import numpy as np
import pytest
import torch

from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.train.assign import Targets
from rtmo_deploy.train.criterion import KeypointHeatmaps, draw_heatmaps, focal_heatmap_loss

SPEC = NetworkSpec(0.33, 0.125, 5, 64)


def people(keypoints, visible, *, area=1600.0, present=None):
    keypoints = torch.tensor(keypoints, dtype=torch.float32)[None]
    visible = torch.tensor(visible, dtype=torch.float32)[None]
    count = keypoints.shape[1]
    shown = torch.ones(1, count, dtype=torch.bool) if present is None else torch.tensor([present])
    return Targets(torch.zeros(1, count, 4), keypoints, visible, torch.full((1, count), area), shown)


def test_a_spot_is_exactly_one_in_its_cell_and_falls_off_as_a_gaussian():
    targets = people([[[20.0, 36.0], [7.9, 0.0]]], [[1, 1]], area=160000.0)
    maps = draw_heatmaps(targets, (8, 10))
    assert maps.shape == (1, 2, 8, 10)
    deviation = 400 * 0.04 / 8
    y, x = np.mgrid[0:8, 0:10]
    for joint, (column, row) in enumerate(((2, 4), (0, 0))):
        expected = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * deviation**2))
        np.testing.assert_allclose(maps[0, joint], expected, atol=1e-6)
        assert maps[0, joint, row, column] == 1


def test_hidden_outside_and_padded_keypoints_leave_no_spot_and_the_strongest_of_several_counts():
    assert not draw_heatmaps(people([[[20.0, 20.0]]], [[0]]), (4, 4)).any()
    assert not draw_heatmaps(people([[[-0.5, 20.0]]], [[1]]), (4, 4)).any()
    assert not draw_heatmaps(people([[[20.0, 32.0]]], [[1]]), (4, 4)).any()
    assert not draw_heatmaps(people([[[20.0, 20.0]]], [[1]], present=[False]), (4, 4)).any()
    two = draw_heatmaps(people([[[4.0, 4.0]], [[12.0, 4.0]]], [[1], [1]]), (4, 4))
    one = draw_heatmaps(people([[[4.0, 4.0]]], [[1]]), (4, 4))
    other = draw_heatmaps(people([[[12.0, 4.0]]], [[1]]), (4, 4))
    torch.testing.assert_close(two, torch.maximum(one, other))


def test_the_loss_is_the_focal_loss_written_out():
    rng = np.random.default_rng(0)
    logits, wanted = rng.normal(size=(2, 3, 4, 4)), rng.random((2, 3, 4, 4))
    wanted[0, 0, 1, 2] = wanted[1, 2, 0, 0] = 1.0
    p = 1 / (1 + np.exp(-logits))
    terms = np.where(wanted == 1, (1 - p) ** 2 * np.log(p), (1 - wanted) ** 4 * p**2 * np.log(1 - p))
    found = focal_heatmap_loss(torch.tensor(logits), torch.tensor(wanted), 2.0)
    np.testing.assert_allclose(float(found), -terms.sum() / 2, rtol=1e-9)
    assert float(focal_heatmap_loss(torch.tensor(logits), torch.tensor(wanted * 0), 0.0)) > 0


def test_it_teaches_the_neck_and_leaves_the_state_dict_alone():
    torch.manual_seed(0)
    model = RTMO(SPEC).train()
    keys = list(model.state_dict())
    heatmaps = KeypointHeatmaps(model, seed=3)
    assert list(model.state_dict()) == keys
    again = KeypointHeatmaps(RTMO(SPEC), seed=3)
    torch.testing.assert_close(heatmaps.predict.weight, again.predict.weight)
    targets = people([[[20.0, 36.0]] * 5], [[1] * 5])
    images = torch.rand(1, 3, 64, 64) * 255
    model(images)
    heatmaps(targets).backward()
    assert model.backbone.stem.conv.conv.weight.grad.abs().sum() > 0
    head = [p.grad for p in model.head.parameters()]
    assert all(gradient is None for gradient in head)


def test_without_a_batch_there_is_nothing_to_judge():
    heatmaps = KeypointHeatmaps(RTMO(SPEC), seed=0)
    with pytest.raises(RuntimeError, match="has not seen a batch"):
        heatmaps(people([[[0.0, 0.0]] * 5], [[1] * 5]))
