"""The keypoint conventions of the published models.

Names, flips and sigmas are those of the COCO keypoint task and of the CrowdPose benchmark, in the order in which
the published models put them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.poses import Skeleton

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COCO_17", "CROWDPOSE_14", "convention_of", "skeleton_for"]

COCO_17 = Skeleton(
    name="coco-17",
    keypoints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    edges=(
        (15, 13),
        (13, 11),
        (16, 14),
        (14, 12),
        (11, 12),
        (5, 11),
        (6, 12),
        (5, 6),
        (5, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (1, 2),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ),
)

CROWDPOSE_14 = Skeleton(
    name="crowdpose-14",
    keypoints=(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "top_head",
        "neck",
    ),
    edges=(
        (10, 8),
        (8, 6),
        (11, 9),
        (9, 7),
        (6, 7),
        (0, 6),
        (1, 7),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (12, 13),
        (13, 0),
        (13, 1),
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)

_BY_COUNT = {len(skeleton): skeleton for skeleton in (COCO_17, CROWDPOSE_14)}


def skeleton_for(keypoints: int) -> Skeleton:
    """The convention with this many keypoints: COCO for 17, CrowdPose for 14, else a numbered one."""
    return _BY_COUNT.get(keypoints) or Skeleton.generic(keypoints)


def convention_of(names: Sequence[str]) -> Skeleton | None:
    """The convention whose keypoints have exactly these names in this order; None if there is none."""
    return next((known for known in (COCO_17, CROWDPOSE_14) if known.keypoints == tuple(names)), None)
