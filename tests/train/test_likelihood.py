"""The hand-written gradient against automatic differentiation of the same formulas, in float64."""

import pytest
import torch

from rtmo_deploy.model import NetworkSpec
from rtmo_deploy.model.dcc import DCC
from rtmo_deploy.train.likelihood import CHUNK, keypoint_likelihood


def make(people, *, keypoints=5, seed=0, narrow=False, training=False):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    dcc = DCC(NetworkSpec(0.33, 0.125, keypoints, 32)).double().train(training)
    with torch.no_grad():
        for parameter in dcc.parameters():
            parameter.copy_(draw(*parameter.shape) * 0.4 - 0.2)
        dcc.sigma_fc[0].bias.copy_(draw(keypoints) * 3 - 1)
        if narrow:  # sigmas around the least one, on both sides
            dcc.sigma_fc[0].weight.mul_(10)
            dcc.sigma_fc[2].scale.fill_(2e-3)
        else:
            dcc.sigma_fc[2].scale.fill_(0.3)
    width = dcc.sigma_fc[0].in_features
    corner = draw(people, 2) * 60
    boxes = torch.cat([corner, draw(people, 2) * 50 + 20], dim=1)
    poses = draw(people, width) * 2 - 1
    annotated = corner[:, None] + (draw(people, keypoints, 2) - 0.5) * 40
    visible = (draw(people, keypoints) > 0.3).double()
    areas = draw(people) * 900
    if people:
        areas[0] = 0.25  # its root is below a pixel
    return dcc, poses.requires_grad_(), boxes.requires_grad_(), corner.detach() + 3, annotated, visible, areas


def plain(dcc, poses, boxes, grids, annotated, visible, areas):
    """Equations 3 and 4 of the paper as MMPose computes them, bin by bin."""
    sigmas = dcc.sigmas(poses).clamp(min=1e-3)
    root = areas.sqrt().clamp(min=1)
    likelihoods = []
    for axis, (heatmap, bins) in enumerate(
        zip(dcc.heatmaps(poses, boxes, grids), (dcc.x_bins, dcc.y_bins), strict=True)
    ):
        positions = bins * boxes[:, 2 + axis, None] + boxes[:, axis, None]
        distance = (positions[:, None] - annotated[..., axis, None]).abs()
        target = (-distance / (2 * sigmas * root[:, None])[..., None]).exp() / sigmas[..., None]
        likelihoods.append((heatmap * target).sum(dim=-1))
    x, y = likelihoods
    return (-(x * y + 1e-4).log() * visible).mean(dim=-1)


@pytest.mark.parametrize(
    ("people", "narrow", "training"),
    [
        (1, False, False),
        (2, True, True),
        (CHUNK, False, True),
        (CHUNK + 1, False, False),
        (2 * CHUNK + 5, True, True),
        (2 * CHUNK + 5, True, False),
    ],
)
def test_loss_and_gradients_are_those_of_the_formula(people, narrow, training):
    dcc, poses, boxes, *rest = make(people, narrow=narrow, seed=people, training=training)
    sigmas = dcc.sigmas(poses)
    assert ((sigmas < 1e-3).any() and (sigmas > 1e-3).any()) == narrow
    weight = torch.rand(people, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = []
    for compute in (lambda: keypoint_likelihood(dcc, poses, boxes, *rest)[0], lambda: plain(dcc, poses, boxes, *rest)):
        dcc.zero_grad()
        poses.grad = boxes.grad = None
        loss = compute()
        assert loss.shape == (people,)
        (loss * weight).sum().backward()
        parameters = {name: parameter.grad for name, parameter in dcc.named_parameters()}
        found.append({"loss": loss.detach(), "poses": poses.grad, "boxes": boxes.grad, **parameters})
    mine, expected = found
    for name, value in expected.items():
        torch.testing.assert_close(
            mine[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert expected["boxes"][:, :2].abs().min() > 0
    assert expected["boxes"][:, 2:].abs().min() > 0


def test_keypoints_are_the_classifiers():
    dcc, poses, boxes, grids, *rest = make(CHUNK + 3)
    decoded = keypoint_likelihood(dcc, poses, boxes, grids, *rest)[1]
    assert not decoded.requires_grad
    torch.testing.assert_close(decoded, dcc(poses, boxes, grids).detach(), rtol=1e-6, atol=1e-6)


def test_nobody():
    dcc, poses, boxes, *rest = make(0, training=True)
    loss, decoded = keypoint_likelihood(dcc, poses, boxes, *rest)
    assert (loss.shape, decoded.shape) == ((0,), (0, 5, 2))
    loss.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in dcc.parameters())
    assert all(torch.isfinite(buffer).all() for buffer in dcc.buffers())


def test_the_gradient_by_differences():
    dcc, poses, boxes, *rest = make(3, keypoints=2)

    def loss(poses, boxes):
        return keypoint_likelihood(dcc, poses, boxes, *rest)[0]

    assert torch.autograd.gradcheck(loss, (poses, boxes), eps=1e-7, atol=1e-4, rtol=1e-3, nondet_tol=0)


def test_a_second_derivative_is_refused():
    dcc, poses, boxes, *rest = make(2)
    loss = keypoint_likelihood(dcc, poses, boxes, *rest)[0].sum()
    (gradient,) = torch.autograd.grad(loss, boxes, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
