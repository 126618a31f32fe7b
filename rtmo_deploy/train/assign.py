"""SimOTA with OKS: which grid cells learn which person (YOLOX, arXiv 2107.08430; RTMO, section 3.3).

A whole batch is assigned at once, in tensors of people times cells: on a CPU a loop over images and people costs
as much as the network's own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rtmo_deploy.model.head import iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import Sample


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
    """Cells that learn a person, each (M,) int64: image and person in the batch, flat cell index; oks (M,) float32."""

    image: Tensor
    cell: Tensor
    person: Tensor
    oks: Tensor


def keypoint_similarity(keypoints: Tensor, target: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """Each keypoint's part of OKS, ``(..., K)`` in 0..1.

    Keypoints and target ``(..., K, 2)``, areas ``(...)`` in square pixels, sigmas ``(K,)``.
    """
    squared = (keypoints - target).square().sum(dim=-1)
    variance = areas.clamp(min=1e-16)[..., None] * (2 * sigmas).square()
    similarity: Tensor = (squared / variance / -2).exp()
    return similarity


def object_keypoint_similarity(
    keypoints: Tensor, target: Tensor, visible: Tensor, areas: Tensor, sigmas: Tensor
) -> Tensor:
    """OKS over the labelled keypoints, ``(...)`` in 0..1; 0 where none is.

    Arguments as :func:`keypoint_similarity`; visible ``(..., K)`` is 1 where labelled.
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
    """Assign cells to people: logits ``(B, P)``, decoded boxes ``(B, P, 4)`` and proxies ``(B, P, K, 2)`` in pixels.

    ``priors`` are ``(P, 3)``: x, y, stride. A person's centre is the mean of its labelled keypoints, or with
    ``keypoint_center`` off that of its box. It gets at least ``least_cells`` of the cells that are in its box and near
    its centre: the reference gives one; more make a training from nothing see each person more often.
    """
    inside, central = _geometry(priors, targets, keypoint_center=keypoint_center)
    present = targets.present[:, :, None]
    inside, central = inside & present, central & present
    candidate = (inside | central).any(dim=1)  # (B, P)
    oks = object_keypoint_similarity(
        keypoints.float()[:, None],
        targets.keypoints[:, :, None],
        targets.visible[:, :, None],
        targets.areas[:, :, None],
        sigmas,
    )  # (B, G, P)
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


@dataclass(frozen=True)
class Targets:
    """People of a batch in network-input pixels, padded to the largest number of people, G."""

    boxes: Tensor  #: ``(B, G, 4)`` x1, y1, x2, y2.
    keypoints: Tensor  #: ``(B, G, K, 2)``.
    visible: Tensor  #: ``(B, G, K)`` float, 1 where the keypoint is labelled (hidden or not), else 0.
    areas: Tensor  #: ``(B, G)`` square pixels.
    present: Tensor  #: ``(B, G)`` bool, False for padding.
    #: ``(B, H, W)`` bool, pixels of people who are not to be learned; None where no image has any.
    ignore: Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        """The same on another device."""
        moved: dict[str, Any] = {name: None if one is None else one.to(device) for name, one in vars(self).items()}
        return Targets(**moved)


def resize(images: Tensor, targets: Targets, hw: tuple[int, int]) -> tuple[Tensor, Targets]:
    """A batch ``(B, 3, h, w)`` at another size, and everything in its pixels (mmpose's ``BatchSyncRandomResize``)."""
    height, width = images.shape[-2:]
    if (height, width) == tuple(hw):
        return images, targets
    scale = targets.boxes.new_tensor([hw[1] / width, hw[0] / height])
    offset = (scale - 1) / 2  # a pixel's index is its centre
    ignore = targets.ignore
    if ignore is not None:
        soft = F.interpolate(ignore[:, None].float(), size=hw, mode="bilinear", align_corners=False)
        ignore = soft[:, 0] > 0.5
    moved = replace(
        targets,
        boxes=targets.boxes * scale.repeat(2) + offset.repeat(2),
        keypoints=targets.keypoints * scale + offset,
        areas=targets.areas * scale.prod(),
        ignore=ignore,
    )
    return F.interpolate(images, size=hw, mode="bilinear", align_corners=False), moved


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Targets]:
    """Images ``(B, 3, H, W)`` uint8, BGR, channels last, and their people, from samples of one size."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    people = [sample.people for sample in samples]
    ignore = None
    if any(sample.ignore is not None and sample.ignore.any() for sample in samples):
        nowhere = np.zeros(samples[0].image.shape[:2], bool)
        ignore = torch.from_numpy(np.stack([nowhere if one.ignore is None else one.ignore for one in samples]))
    return images, Targets(
        boxes=_padded([one.boxes for one in people]),
        keypoints=_padded([one.keypoints for one in people]),
        visible=_padded([(one.visible > 0).astype(np.float32) for one in people]),
        areas=_padded([one.areas for one in people], 1.0),
        present=_padded([np.ones(len(one), bool) for one in people]),
        ignore=ignore,
    )


def _padded(parts: Sequence[NDArray[Any]], value: float = 0.0) -> Tensor:
    """Arrays ``(N, …)`` to ``(B, G, …)``, G the largest N and at least 1."""
    one = np.zeros((1, *parts[0].shape[1:]), parts[0].dtype)
    rows = [torch.from_numpy(part) for part in (*parts, one)]
    return pad_sequence(rows, batch_first=True, padding_value=value)[:-1]
