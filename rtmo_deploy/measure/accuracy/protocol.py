"""Whose rules, and with which sigmas; never a guess in silence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.zoo.skeletons import CONVENTIONS, CROWDPOSE_14

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.data.sample import GroundTruth
    from rtmo_deploy.poses import Skeleton

ProtocolName = Literal["coco", "crowdpose"]

#: The figures of each protocol, in the order in which they are reported everywhere.
METRICS: Final[dict[ProtocolName, tuple[str, ...]]] = {
    "coco": ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR", "AR50", "AR75", "AR(M)", "AR(L)"),
    "crowdpose": ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP(E)", "AP(M)", "AP(H)"),
}


def choose_protocol(wanted: str | None, skeleton: Skeleton, truth: GroundTruth) -> ProtocolName:
    """The protocol that is asked for; else CrowdPose's for its keypoints and files with a ``crowdIndex``, else COCO's.

    Raises:
        UsageError: There is no such protocol.
    """
    if wanted is None:
        crowded = bool(np.isfinite(truth.crowd_index).any())
        return "crowdpose" if crowded or skeleton.keypoints == CROWDPOSE_14.keypoints else "coco"
    for name in METRICS:
        if wanted == name:
            return name
    raise UsageError(f"There is no protocol '{wanted}'.", remedy=f"There are: {', '.join(METRICS)}.")


def choose_sigmas(wanted: float | Sequence[float] | None, skeleton: Skeleton) -> tuple[float, ...]:
    """The sigmas that are asked for (one for all keypoints, or one each), else those of the skeleton.

    Raises:
        UsageError: None are asked for and the skeleton has none; or they are too few, too many, or not positive.
        InputDataError: None are asked for, and the skeleton's are a guess.
    """
    count = len(skeleton)
    if wanted is None:
        if skeleton.sigmas and skeleton.source.startswith("guessed from names"):
            raise InputDataError(
                f"The OKS sigmas of '{skeleton.name}' would be {skeleton.source}, and the average precision depends on "
                "them.",
                remedy=f"Say what the keypoints are with --skeleton ({', '.join(CONVENTIONS)} or a JSON file), or give "
                "--sigma.",
            )
        if not skeleton.sigmas:
            raise UsageError(
                f"Nobody has measured OKS sigmas for the keypoints of '{skeleton.name}', and without them there is no "
                "average precision.",
                remedy=f"Give one for all keypoints (--sigma 0.05; COCO's are 0.025 to 0.107) or {count} of them.",
            )
        return skeleton.sigmas
    sigmas = (float(wanted),) * count if isinstance(wanted, int | float) else tuple(map(float, wanted))
    if len(sigmas) != count:
        raise UsageError(
            f"{len(sigmas)} sigmas do not fit {count} keypoints.", remedy=f"Give one for all, or {count} of them."
        )
    if not all(math.isfinite(sigma) and sigma > 0 for sigma in sigmas):
        raise UsageError("A sigma is not positive.", remedy="COCO's are 0.025 to 0.107.")
    return sigmas


def sigma_source(wanted: float | Sequence[float] | None, skeleton: Skeleton) -> str:
    """Where the sigmas that :func:`choose_sigmas` chooses come from: ``given``, or a convention's or a file's name."""
    return "given" if wanted is not None else skeleton.source or skeleton.name


def require_people(truth: GroundTruth) -> None:
    """Refuse an evaluation of nobody.

    Raises:
        InputDataError: No annotated person counts.
    """
    if truth.num_people == 0:
        raise InputDataError(
            f"There is nobody to find in the {truth.num_images} annotated images: no annotation of the category has "
            "labelled keypoints and num_keypoints above 0, and is no crowd.",
            remedy="Check category_id, num_keypoints and iscrowd; 'rtmo-deploy data check --ann FILE' lists what was "
            "left out.",
        )
