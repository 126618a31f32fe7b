"""AP of a network in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rtmo_deploy.measure.accuracy import evaluate_poses
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.letterbox import letterbox, to_tensor

if TYPE_CHECKING:
    from rtmo_deploy.data import PoseDataset
    from rtmo_deploy.measure.accuracy import AccuracyReport
    from rtmo_deploy.model import RTMO
    from rtmo_deploy.poses import Skeleton


def find_poses(
    model: RTMO,
    dataset: PoseDataset,
    skeleton: Skeleton,
    input_hw: tuple[int, int],
    *,
    batch: int = 16,
    score_thr: float = 0.1,
    nms_thr: float = 0.65,
) -> list[Poses]:
    """People that a network in eval mode finds in every picture, in pixels of the picture."""
    device = next(model.parameters()).device
    found = []
    for first in range(0, len(dataset), batch):
        rows = [dataset[index].image for index in range(first, min(first + batch, len(dataset)))]
        pairs = [letterbox(image, input_hw) for image in rows]
        tensor = torch.from_numpy(to_tensor([image for image, _ in pairs])).to(device)
        tensor = tensor.contiguous(memory_format=torch.channels_last)
        for people, (_, transform) in zip(
            model.predict(tensor, score_thr=score_thr, nms_thr=nms_thr), pairs, strict=True
        ):
            boxes, scores, keypoints, visibility = (
                value.float().cpu().numpy()
                for value in (people.boxes, people.scores, people.keypoints, people.keypoint_scores)
            )
            found.append(
                Poses(
                    np.asarray(transform.boxes_to_original(boxes), np.float32),
                    scores,
                    np.asarray(transform.to_original(keypoints), np.float32),
                    visibility,
                    skeleton,
                )
            )
    return found


def validate_model(
    model: RTMO, dataset: PoseDataset, skeleton: Skeleton, input_hw: tuple[int, int], *, protocol: str
) -> AccuracyReport:
    """AP and its kin of a network in eval mode; score above 0.1 and NMS at 0.65, as the reference validates.

    Where nobody has measured OKS sigmas for the keypoints, those the loss is computed with are taken.
    """
    sigmas = skeleton.sigmas or tuple(model.head.loss_oks.sigmas.tolist())
    poses = find_poses(model, dataset, skeleton, input_hw)
    return evaluate_poses(dataset, poses, protocol=protocol, sigmas=sigmas)
