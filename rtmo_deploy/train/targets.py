"""Targets: the annotated people of a batch, as padded tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.data.sample import Sample


@dataclass(frozen=True)
class Targets:
    """People of a batch in network-input pixels, padded to the largest number of people, G.

    Attributes:
        boxes: ``(B, G, 4)`` x1, y1, x2, y2.
        keypoints: ``(B, G, K, 2)``.
        visible: ``(B, G, K)`` float, 1 where the keypoint is labelled (hidden or not), else 0.
        areas: ``(B, G)`` square pixels.
        present: ``(B, G)`` bool, False for padding.
        ignore: ``(B, H, W)`` bool, pixels of people who are not to be learned; None where no picture has any.
    """

    boxes: Tensor
    keypoints: Tensor
    visible: Tensor
    areas: Tensor
    present: Tensor
    ignore: Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        """The same on another device."""
        people = (self.boxes, self.keypoints, self.visible, self.areas, self.present)
        ignore = None if self.ignore is None else self.ignore.to(device)
        boxes, keypoints, visible, areas, present = (tensor.to(device) for tensor in people)
        return Targets(boxes, keypoints, visible, areas, present, ignore)


def resize(images: Tensor, targets: Targets, hw: tuple[int, int]) -> tuple[Tensor, Targets]:
    """A batch at another size (mmpose's ``BatchSyncRandomResize``), and everything measured in its pixels.

    Bilinear without smoothing, as there. Points go where the pixels go, areas with the product of both scales.

    Args:
        images: ``(B, 3, h, w)`` of a floating type.
        targets: Their people.
        hw: New height and width.
    """
    height, width = images.shape[-2:]
    if (height, width) == tuple(hw):
        return images, targets
    scale = targets.boxes.new_tensor([hw[1] / width, hw[0] / height])
    offset = (scale - 1) / 2  # a pixel's index is its centre
    ignore = targets.ignore
    if ignore is not None:
        soft = F.interpolate(ignore[:, None].float(), size=hw, mode="bilinear", align_corners=False)
        ignore = soft[:, 0] > 0.5
    moved = Targets(
        boxes=targets.boxes * scale.repeat(2) + offset.repeat(2),
        keypoints=targets.keypoints * scale + offset,
        visible=targets.visible,
        areas=targets.areas * scale.prod(),
        present=targets.present,
        ignore=ignore,
    )
    return F.interpolate(images, size=hw, mode="bilinear", align_corners=False), moved


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Targets]:
    """A batch from samples of one size, whose height and width are multiples of 32.

    Returns:
        Pictures ``(B, 3, H, W)`` uint8, BGR, in channels-last memory format, and their people.
    """
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    batch, most = len(samples), max(1, *(len(sample.people) for sample in samples))
    joints = samples[0].people.keypoints.shape[1]
    boxes = np.zeros((batch, most, 4), np.float32)
    keypoints = np.zeros((batch, most, joints, 2), np.float32)
    visible = np.zeros((batch, most, joints), np.float32)
    areas = np.ones((batch, most), np.float32)
    present = np.zeros((batch, most), bool)
    for i, sample in enumerate(samples):
        people, count = sample.people, len(sample.people)
        boxes[i, :count], keypoints[i, :count] = people.boxes, people.keypoints
        visible[i, :count], areas[i, :count] = people.visible > 0, people.areas
        present[i, :count] = True
    targets = Targets(
        boxes=torch.from_numpy(boxes),
        keypoints=torch.from_numpy(keypoints),
        visible=torch.from_numpy(visible),
        areas=torch.from_numpy(areas),
        present=torch.from_numpy(present),
        ignore=_masks(samples),
    )
    return images, targets


def _masks(samples: Sequence[Sample]) -> Tensor | None:
    if not any(sample.ignore is not None and sample.ignore.any() for sample in samples):
        return None
    nowhere = np.zeros(samples[0].image.shape[:2], bool)
    masks = [nowhere if sample.ignore is None else sample.ignore for sample in samples]
    return torch.from_numpy(np.stack(masks))
