"""Greedy non-maximum suppression in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

#: The reference's guard against an empty union.
_MIN_UNION = 1e-6


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of ``(..., 4)`` boxes x1, y1, x2, y2, whose leading dimensions broadcast: ``(...)``."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    area = [(b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (first, second)]
    union = area[0] + area[1] - intersection
    return intersection / union.clamp(min=_MIN_UNION)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """:func:`iou` of every pair of ``(N, 4)`` and ``(M, 4)`` boxes: ``(N, M)``."""
    return iou(first[:, None], second[None])


def non_maximum_suppression(boxes: Tensor, scores: Tensor, iou_thr: float) -> Tensor:
    """Indices of the boxes that survive, best score first; equal scores keep their order.

    Args:
        boxes: ``(N, 4)`` x1, y1, x2, y2.
        scores: ``(N,)``.
        iou_thr: A box whose IoU with a better survivor is above this is dropped.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    suppresses = (box_iou(boxes[order], boxes[order]) > iou_thr).cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~suppresses[i, i + 1 :]
    return order[alive.to(order.device)]
