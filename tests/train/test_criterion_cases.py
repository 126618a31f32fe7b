"""The loss where nothing was stored of the reference: nobody, one person, masks, other keypoints."""

import dataclasses

import numpy as np
import pytest
import torch
from toys import loss_of

from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.head import HeadOutputs, decode_boxes, grid_priors
from rtmo_deploy.model.rtmo import initialise
from rtmo_deploy.train.assign import Targets
from rtmo_deploy.train.criterion import varifocal_loss
from rtmo_deploy.train.sections import TERMS

SIZE = 128
GRIDS = ((8, 8), (4, 4))
PRIORS = grid_priors(GRIDS)


def head_of(keypoints):
    model = RTMO(NetworkSpec(0.33, 0.125, keypoints, 32))
    initialise(model, 0)
    return model.train().head


def outputs_of(head, images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    joints = head.dcc.num_keypoints
    width = head.dcc.sigma_fc[0].in_features

    def draw(channels, scale=1.0):
        return tuple(
            (torch.randn(images, channels, *grid, generator=generator) * scale).requires_grad_() for grid in GRIDS
        )

    return HeadOutputs(draw(1), draw(4, 0.3), draw(joints), draw(width), draw(2 * joints))


def people(boxes, joints, size=SIZE):
    """One list of boxes an image; the keypoints are spread over each."""
    most = max(1, *(len(one) for one in boxes))
    made = torch.zeros(len(boxes), most, 4)
    present = torch.zeros(len(boxes), most, dtype=torch.bool)
    for image, rows in enumerate(boxes):
        for number, row in enumerate(rows):
            made[image, number] = torch.tensor(row, dtype=torch.float32)
            present[image, number] = True
    share = torch.linspace(0.2, 0.8, joints)[:, None]
    keypoints = made[:, :, None, :2] * (1 - share) + made[:, :, None, 2:] * share
    areas = (made[..., 2:] - made[..., :2]).prod(dim=-1).clamp(min=1)
    visible = present[..., None].float().expand(-1, -1, joints).clone()
    return Targets(made, keypoints, visible, areas, present)


ONE = [20, 20, 100, 110]
TWO = [60, 10, 120, 60]


@pytest.mark.parametrize("second_stage", [False, True])
@pytest.mark.parametrize("joints", [17, 14, 5])
def test_any_number_of_keypoints(joints, second_stage):
    head = head_of(joints)
    outputs = outputs_of(head, 2)
    targets = people([[ONE, TWO], [TWO]], joints)
    result = loss_of(head, outputs, targets, bbox_aux=1.0, second_stage=second_stage)
    assert result.terms.keys() == set(TERMS)
    assert result.num_positives == len(result.assignment.cell) >= 3
    torch.testing.assert_close(result.total.detach(), sum(result.terms.values()))
    result.total.backward()
    for tensors in vars(outputs).values():
        assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)
        assert any(tensor.grad.any() for tensor in tensors)
    assert all(torch.isfinite(p.grad).all() for p in head.dcc.parameters())


def test_a_batch_without_anybody_teaches_the_scores_alone():
    head = head_of(5)
    outputs = outputs_of(head, 2)
    before = {name: buffer.clone() for name, buffer in head.dcc.named_buffers() if "running" in name}
    result = loss_of(head, outputs, people([[], []], 5), bbox_aux=1.0)
    assert result.num_positives == 0
    assert {name for name, value in result.terms.items() if value} == {"cls"}
    logits = torch.cat([t.detach().flatten(1) for t in outputs.cls_scores], dim=1)
    torch.testing.assert_close(result.terms["cls"], varifocal_loss(logits, torch.zeros_like(logits)).sum())
    result.total.backward()
    assert all(tensor.grad.any() for tensor in outputs.cls_scores)
    assert not any(t.grad.any() for t in (*outputs.bbox_preds, *outputs.pose_vecs, *outputs.kpt_offsets))
    assert not any(p.grad.any() for p in head.dcc.parameters())
    after = dict(head.dcc.named_buffers())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_single_positive_is_decoded_with_the_running_statistics():
    head = head_of(5)
    outputs = outputs_of(head, 1)
    tiny = people([[[14, 14, 17, 17]]], 5)
    norm = head.dcc.pose_to_kpts[1]
    with torch.no_grad():
        norm.running_mean.normal_()
    before = norm.running_mean.clone()
    result = loss_of(head, outputs, tiny)
    assert result.num_positives == 1
    assert torch.isfinite(result.total)
    assert norm.training
    assert torch.equal(norm.running_mean, before)
    loss_of(head, outputs, people([[ONE]], 5))
    assert not torch.equal(norm.running_mean, before)


def test_everything_is_divided_by_the_divisor():
    head = head_of(5).eval()
    outputs, targets = outputs_of(head, 2), people([[ONE], [TWO]], 5)
    alone = loss_of(head, outputs, targets)
    asked = []

    def divisor(count):
        asked.append(count)
        return 10.0 * count

    shared = loss_of(head, outputs, targets, divisor=divisor)
    assert asked == [alone.num_positives]
    for name, value in alone.terms.items():
        torch.testing.assert_close(shared.terms[name] * 10, value)


def test_the_weights_are_those_of_the_options():
    head = head_of(5).eval()
    outputs, targets = outputs_of(head, 2), people([[ONE], [TWO]], 5)
    ones = dict.fromkeys(TERMS, 1.0)
    plain = loss_of(head, outputs, targets, **ones).terms
    for name in TERMS:
        terms = loss_of(head, outputs, targets, **ones | {name: 7.0}).terms
        for other in TERMS:
            torch.testing.assert_close(terms[other], plain[other] * (7 if other == name else 1))


def test_the_classification_target_is_a_power_of_the_oks():
    head = head_of(5).eval()
    outputs, targets = outputs_of(head, 1), people([[ONE]], 5)
    logits = torch.cat([t.detach().flatten(1) for t in outputs.cls_scores], dim=1)
    for power in (0.5, 1.0):
        result = loss_of(head, outputs, targets, overlaps_power=power)
        found = result.assignment
        scores = torch.zeros_like(logits)
        scores[found.image, found.cell] = found.oks**power
        expected = varifocal_loss(logits, scores).sum() / result.num_positives
        torch.testing.assert_close(result.terms["cls"], expected)


def test_the_centre_may_be_that_of_the_box():
    head = head_of(5)
    targets = people([[ONE]], 5)
    targets.keypoints[..., :] = torch.tensor([28.0, 28.0])
    cells = {}
    for keypoint_center in (True, False):
        found = loss_of(head, outputs_of(head, 1), targets, least_cells=5, keypoint_center=keypoint_center)
        cells[keypoint_center] = found.assignment.cell
    near, middle = (PRIORS[cells[key], :2].mean(dim=0) for key in (True, False))
    assert near.max() < 45 < middle.min()


def test_cells_whose_pose_stands_on_an_ignored_person_do_not_count():
    head = head_of(5).eval()
    outputs = outputs_of(head, 2, seed=4)
    targets = people([[ONE], []], 5)
    free = loss_of(head, outputs, targets)
    mask = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    mask[0, :, 64:] = True
    mask[1, 30:90] = True
    masked = loss_of(head, outputs, dataclasses.replace(targets, ignore=mask))
    for name in TERMS[1:-1]:
        assert torch.equal(free.terms[name], masked.terms[name])

    flat = {
        name: torch.cat([t.detach().flatten(2).transpose(1, 2) for t in getattr(outputs, name)], dim=1)
        for name in ("cls_scores", "kpt_vis", "kpt_offsets")
    }
    scores = torch.zeros(2, len(PRIORS))
    scores[free.assignment.image, free.assignment.cell] = free.assignment.oks.sqrt()
    losses = varifocal_loss(flat["cls_scores"][..., 0], scores)
    total = 0.0
    partial = 0
    for image in (0, 1):
        for cell in range(len(PRIORS)):
            proxies = flat["kpt_offsets"][image, cell].view(5, 2) * PRIORS[cell, 2] + PRIORS[cell, :2]
            seen = flat["kpt_vis"][image, cell].sigmoid() > 0.3
            x, y = proxies[seen].mean(dim=0).tolist() if seen.any() else (0.0, 0.0)
            # As the reference: the mean over width - 1 as a share, which grid_sample takes for one of the width.
            covered = bilinear(mask[image].numpy(), y * SIZE / (SIZE - 1) - 0.5, x * SIZE / (SIZE - 1) - 0.5)
            partial += 0.01 < covered < 0.99
            total += (1 - covered) * float(losses[image, cell])
    assert partial
    assert float(masked.terms["cls"]) == pytest.approx(total / free.num_positives, rel=1e-4)
    assert float(masked.terms["cls"]) < 0.9 * float(free.terms["cls"])


def bilinear(mask, y, x):
    top, left = int(np.floor(y)), int(np.floor(x))
    value = 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
            value += mask[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def test_boxes_that_are_right_cost_nothing():
    head = head_of(5).eval()
    targets = people([[ONE]], 5)
    outputs = outputs_of(head, 1)
    with torch.no_grad():
        box = torch.tensor(ONE, dtype=torch.float32)
        start = 0
        for level, (height, width) in zip(outputs.bbox_preds, GRIDS, strict=True):
            priors = PRIORS[start : start + height * width]
            start += height * width
            centre = ((box[:2] + box[2:]) / 2 - priors[:, :2]) / priors[:, 2:]
            size = ((box[2:] - box[:2]) / priors[:, 2:]).log()
            level.copy_(torch.cat([centre, size], dim=1).T.view(1, 4, height, width))
            found = decode_boxes(level.detach().flatten(2).transpose(1, 2), priors)
            torch.testing.assert_close(found, box.expand_as(found))
    result = loss_of(head, outputs, targets, bbox_aux=1.0)
    assert abs(float(result.terms["bbox"])) < 1e-4
    assert abs(float(result.terms["bbox_aux"])) < 1e-4
