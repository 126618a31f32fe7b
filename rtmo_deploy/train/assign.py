"""SimOTA with OKS: which grid cells learn which person (YOLOX, arXiv 2107.08430; RTMO, section 3.3).

A whole batch is assigned at once, in tensors of people times cells: on a CPU a loop over pictures and people costs
as much as the network's own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rtmo_deploy.model.head import iou

if TYPE_CHECKING:
    from rtmo_deploy.train.targets import Targets

#: A cell belongs to a person's centre within this many strides of it.
CENTER_RADIUS = 2.5
#: The number of cells a person gets is the sum of its so many best OKS.
CANDIDATES = 10
COST_WEIGHT = 3.0
EPS = 1e-7
#: Cost of a cell that is not both in the person's box and near its centre.
OUTSIDE = 1e5


@dataclass(frozen=True)
class Assignment:
    """Cells that learn a person; picture by picture, within one by cell.

    Attributes:
        image: ``(M,)`` int64, index of the picture in the batch.
        cell: ``(M,)`` int64, flat cell index: stride 16 first, row by row, then stride 32.
        person: ``(M,)`` int64, index of the person in its picture.
        oks: ``(M,)`` float32, OKS between the cell's proxy keypoints and the person.
    """

    image: Tensor
    cell: Tensor
    person: Tensor
    oks: Tensor


def keypoint_similarity(keypoints: Tensor, target: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """What each keypoint adds to OKS: ``exp(-d ** 2 / (2 * area * (2 * sigma) ** 2))``, ``(..., K)`` in 0..1.

    Args:
        keypoints: ``(..., K, 2)``.
        target: ``(..., K, 2)``; the leading dimensions of all arguments broadcast.
        areas: ``(...)`` square pixels.
        sigmas: ``(K,)``.
    """
    squared = (keypoints - target).square().sum(dim=-1)
    variance = areas.clamp(min=1e-16)[..., None] * (2 * sigmas).square()
    similarity: Tensor = (squared / variance / -2).exp()
    return similarity


def object_keypoint_similarity(
    keypoints: Tensor, target: Tensor, visible: Tensor, areas: Tensor, sigmas: Tensor
) -> Tensor:
    """OKS over the labelled keypoints.

    Args:
        keypoints: ``(..., K, 2)``.
        target: ``(..., K, 2)``; the leading dimensions of all arguments broadcast.
        visible: ``(..., K)``, 1 where labelled, else 0.
        areas: ``(...)`` square pixels.
        sigmas: ``(K,)``.

    Returns:
        ``(...)`` in 0..1; 0 where no keypoint is labelled.
    """
    similarity = keypoint_similarity(keypoints, target, areas, sigmas) * visible
    return similarity.sum(dim=-1) / visible.sum(dim=-1).clamp(min=1e-8)


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes: Tensor,
    keypoints: Tensor,
    priors: Tensor,
    targets: Targets,
    sigmas: Tensor,
    *,
    keypoint_center: bool = True,
    least_cells: int = 1,
) -> Assignment:
    """Assign cells to people.

    Args:
        scores: ``(B, P)`` logits.
        boxes: ``(B, P, 4)`` decoded, network-input pixels.
        keypoints: ``(B, P, K, 2)`` decoded proxy keypoints.
        priors: ``(P, 3)`` x, y, stride.
        targets: People of the batch.
        sigmas: ``(K,)`` OKS sigmas.
        keypoint_center: A person's centre is the mean of its labelled keypoints; else that of its box.
        least_cells: A person gets at least so many of the cells that are in its box and near its centre. The
            reference gives one at least; more make a training from nothing see each person more often.
    """
    inside, central = _geometry(priors, targets, keypoint_center=keypoint_center)
    present = targets.present[:, :, None]
    inside, central = inside & present, central & present
    candidate = (inside | central).any(dim=1)  # (B, P)
    oks = _pairwise_oks(keypoints, targets, sigmas)
    oks = oks * (candidate[:, None] & present)
    probability = scores.float().clamp(-1e4, 1e4).sigmoid().nan_to_num(0.0).sqrt()
    cost = -COST_WEIGHT * (iou(boxes.float()[:, None], targets.boxes[:, :, None]) + EPS).log()
    cost = cost - COST_WEIGHT * (oks + EPS).log()
    cost = cost - probability.log().clamp(min=-100)[:, None]
    cost = cost + (~(inside & central)) * OUTSIDE  # last: beside it, little is left of the others' digits
    cost = cost.nan_to_num(nan=OUTSIDE * 10).masked_fill(~(candidate[:, None] & present), torch.inf)

    best = min(CANDIDATES, oks.shape[-1])
    count = oks.topk(best, dim=-1).values.sum(dim=-1).int().clamp(min=1)
    order = cost.topk(best, dim=-1, largest=False)
    rank = torch.arange(best, device=cost.device)
    chosen = ((rank < count[..., None]) & order.values.isfinite()) | ((rank < least_cells) & (order.values < OUTSIDE))
    match = torch.zeros_like(cost, dtype=torch.bool).scatter_(-1, order.indices, chosen)
    # A cell that several people want goes to the one it is cheapest for, whoever that is.
    shared = match.sum(dim=1) > 1
    cheapest = torch.zeros_like(match).scatter_(1, cost.argmin(dim=1, keepdim=True), value=True)
    match = torch.where(shared[:, None], cheapest, match)
    image, cell, person = match.transpose(1, 2).nonzero().unbind(dim=-1)
    return Assignment(image, cell, person, oks[image, person, cell])


def _geometry(priors: Tensor, targets: Targets, *, keypoint_center: bool) -> tuple[Tensor, Tensor]:
    """``(B, G, P)`` twice: the cell's centre lies in the person's box; it lies near the person's centre."""
    x, y, radius = priors[:, 0], priors[:, 1], CENTER_RADIUS * priors[:, 2]
    x1, y1, x2, y2 = targets.boxes[..., None].unbind(dim=2)
    inside = (x > x1) & (y > y1) & (x < x2) & (y < y2)
    center = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    if keypoint_center:
        labelled = targets.visible.sum(dim=-1, keepdim=True)
        mean = (targets.keypoints * targets.visible[..., None]).sum(dim=-2) / labelled.clamp(min=1)
        center = torch.where(labelled > 0, mean, center)
    cx, cy = center[..., None].unbind(dim=2)
    return inside, ((x - cx).abs() < radius) & ((y - cy).abs() < radius)


def _pairwise_oks(keypoints: Tensor, targets: Targets, sigmas: Tensor) -> Tensor:
    """``(B, P, K, 2)`` and people to OKS ``(B, G, P)``."""
    return object_keypoint_similarity(
        keypoints.float()[:, None],
        targets.keypoints[:, :, None],
        targets.visible[:, :, None],
        targets.areas[:, :, None],
        sigmas,
    )
