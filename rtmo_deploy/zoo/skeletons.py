"""The keypoint conventions of the published models.

Names, flips and sigmas are those of the COCO keypoint task and of the CrowdPose benchmark, in the order in which
the published models put them out.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rtmo_deploy.poses import Skeleton

if TYPE_CHECKING:
    from collections.abc import Sequence

#: OKS sigma of keypoints that nobody has measured: what the conventions give a joint of middling precision.
UNKNOWN_SIGMA = 0.079

COCO_17 = Skeleton(
    name="coco-17",
    keypoints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    edges=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
)  # fmt: skip

CROWDPOSE_14 = Skeleton(
    name="crowdpose-14",
    keypoints=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "top_head", "neck",
    ),
    edges=(
        (10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 2), (1, 3), (2, 4), (3, 5), (12, 13), (13, 0),
        (13, 1),
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)  # fmt: skip

#: AI Challenger's 14 points; the sigmas are its own, half of its deltas.
AIC_14 = Skeleton(
    name="aic-14",
    keypoints=(
        "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
        "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "head_top", "neck",
    ),
    edges=(
        (2, 1), (1, 0), (0, 13), (13, 3), (3, 4), (4, 5), (8, 7), (7, 6), (6, 9), (9, 10), (10, 11), (12, 13),
        (0, 6), (3, 9),
    ),
    flip_pairs=((3, 0), (4, 1), (5, 2), (9, 6), (10, 7), (11, 8)),
    sigmas=(
        0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642, 0.03686941, 0.01981803,
        0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173,
    ),
)  # fmt: skip

#: AP-10K's 17 points of animals; the sigmas are those that MMPose evaluates with.
AP10K_17 = Skeleton(
    name="ap10k-17",
    keypoints=(
        "left_eye", "right_eye", "nose", "neck", "root_of_tail", "left_shoulder", "left_elbow", "left_front_paw",
        "right_shoulder", "right_elbow", "right_front_paw", "left_hip", "left_knee", "left_back_paw", "right_hip",
        "right_knee", "right_back_paw",
    ),
    edges=(
        (0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (3, 5), (5, 6), (6, 7), (3, 8), (8, 9), (9, 10), (4, 11), (11, 12),
        (12, 13), (4, 14), (14, 15), (15, 16),
    ),
    flip_pairs=((0, 1), (5, 8), (6, 9), (7, 10), (11, 14), (12, 15), (13, 16)),
    sigmas=(
        0.025, 0.025, 0.026, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
)  # fmt: skip

#: The conventions that are known by name.
CONVENTIONS = {known.name: known for known in (COCO_17, CROWDPOSE_14, AIC_14, AP10K_17)}
_BY_COUNT = {len(skeleton): skeleton for skeleton in (COCO_17, CROWDPOSE_14)}


def skeleton_for(keypoints: int) -> Skeleton:
    """The convention with this many keypoints: COCO for 17, CrowdPose for 14, else a numbered one."""
    return _BY_COUNT.get(keypoints) or Skeleton.generic(keypoints)


def guessed_from_count(keypoints: int) -> Skeleton:
    """What the keypoints of a file that names none are: COCO's, as a guess, if there are 17; else unknown."""
    if keypoints == len(COCO_17):
        return replace(COCO_17, source="guessed from their number")
    return Skeleton.generic(keypoints)


def convention_of(names: Sequence[str]) -> Skeleton | None:
    """The convention whose keypoints have these names in this order, in any spelling; None if there is none."""
    canonical = tuple(map(canonical_name, names))
    return next((known for known in CONVENTIONS.values() if _CANONICAL[known.name] == canonical), None)


def canonical_name(name: str) -> str:
    """A keypoint's name in one spelling: ``LeftShoulder``, ``left-shoulder`` and ``L Shoulder`` are one.

    The top of a head is called in several ways.
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    words = [_WORDS.get(word, word) for word in re.split(r"[\W_]+", split.lower()) if word]
    return _SYNONYMS.get("_".join(words), "_".join(words))


_WORDS = {"l": "left", "r": "right"}
_SYNONYMS = {
    **dict.fromkeys(("head", "head_top", "headtop"), "top_head"),
    **{f"{side}_{end[0]}_paw": f"{side}_{end}_paw" for side in ("left", "right") for end in ("front", "back")},
}
_CANONICAL = {known.name: tuple(map(canonical_name, known.keypoints)) for known in CONVENTIONS.values()}
