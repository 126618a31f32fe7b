"""The loss terms of RTMO, unweighted and unreduced where a sum or mean over people follows.

Formulas as MMPose 1.3.2 computes them (its ``IoULoss(mode="square")``, ``OKSLoss``, ``VariFocalLoss``, ``BCELoss``);
M is the number of positive cells, K the number of keypoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from rtmo_deploy.model.head import iou
from rtmo_deploy.train.assign import keypoint_similarity

if TYPE_CHECKING:
    from torch import Tensor


def varifocal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Varifocal loss (arXiv 2008.13367), element by element.

    Cells with a target above 1e-4 weigh as much as their target, the others ``alpha * p ** gamma``. The weight
    carries gradient, as in the reference; the cross entropy sees the logit clamped to +-10.
    """
    positive = (targets > 1e-4).to(logits.dtype)
    weight = alpha * logits.sigmoid().pow(gamma) * (1 - positive) + targets * positive
    return F.binary_cross_entropy_with_logits(logits.clamp(-10, 10), targets, reduction="none") * weight


def squared_iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - IoU ** 2`` of ``(M, 4)`` boxes and their targets, x1, y1, x2, y2; ``(M,)``."""
    return 1 - iou(boxes, targets).clamp(min=1e-16).square()


def oks_loss(keypoints: Tensor, targets: Tensor, weights: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """One minus the mean over all K keypoints of weight times similarity.

    The division is by K, not by the number of labelled keypoints: the reference's ``norm_target_weight`` is off, so
    a person with few labels starts with a large loss that no prediction can lower.

    Args:
        keypoints: ``(M, K, 2)`` network-input pixels.
        targets: ``(M, K, 2)``.
        weights: ``(M, K)`` in 0..1.
        areas: ``(M,)`` square pixels.
        sigmas: ``(K,)``.

    Returns:
        ``(M,)``.
    """
    return 1 - (keypoint_similarity(keypoints, targets, areas, sigmas) * weights).mean(dim=-1)


def visibility_loss(logits: Tensor, visible: Tensor) -> Tensor:
    """Binary cross entropy of ``(M, K)`` logits with the labels 0 and 1, mean over K; ``(M,)``."""
    return F.binary_cross_entropy_with_logits(logits, visible, reduction="none").mean(dim=-1)
