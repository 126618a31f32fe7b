"""How far two runs of a network are apart, in terms of people: means and worst values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.measure.parity import _match as match_people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses


@dataclass(frozen=True)
class Deviation:
    """People of two runs, matched one to one.

    Attributes:
        people: In the reference.
        unmatched: In one run only: a decision that fell the other way, at the score threshold or in the suppression.
        wild: Matched people whose keypoints lie, in the reference, more than a picture's longer side outside of it. A
            network that is not trained yet makes such; they are left out of the pixels below.
        keypoint_mean: Mean distance of matched people's keypoints, pixels of the network input.
        keypoint_max: The worst.
        box_mean: Mean distance of matched people's box coordinates, pixels.
        box_max: The worst.
        score_max: Worst person score of matched people.
        keypoint_score_max: Worst keypoint score of matched people.
        keypoint_score_mean: Mean difference of matched people's keypoint scores.
    """

    people: int
    unmatched: int
    wild: int
    keypoint_mean: float
    keypoint_max: float
    box_mean: float
    box_max: float
    score_max: float
    keypoint_score_max: float
    keypoint_score_mean: float

    @classmethod
    def worst(cls, found: Sequence[Deviation]) -> Deviation:
        """The largest of each."""
        return cls(*(max(values) for values in zip(*(vars(one).values() for one in found), strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; None stands for what is not finite."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


def deviation(reference: Sequence[Poses], other: Sequence[Poses], input_hw: tuple[int, int]) -> Deviation:
    """Compare two runs on the same pictures.

    Args:
        reference: One entry a picture, in network-input pixels.
        other: The same pictures. What is not finite counts as infinitely far.
        input_hw: Height and width of the network input, pixels.
    """
    with np.errstate(all="ignore"):  # what is not finite is reported, not warned about
        return _deviation(reference, other, input_hw)


def _deviation(reference: Sequence[Poses], other: Sequence[Poses], input_hw: tuple[int, int]) -> Deviation:
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in ("keypoints", "boxes", "scores", "visible")}
    people, unmatched, wild = 0, 0, 0
    for one, two in zip(reference, other, strict=True):
        pairs = match_people(one, two)
        people += len(one)
        unmatched += len(one) + len(two) - 2 * len(pairs)
        for i, j in pairs:
            found["scores"].append(np.atleast_1d(one.scores[i] - two.scores[j]))
            found["visible"].append(one.keypoint_scores[i] - two.keypoint_scores[j])
            if _is_wild(one.keypoints[i], input_hw):
                wild += 1
                continue
            found["keypoints"].append(np.linalg.norm(one.keypoints[i] - two.keypoints[j], axis=-1))
            found["boxes"].append(one.boxes[i] - two.boxes[j])
    mean, worst = {}, {}
    for name, values in found.items():
        distance = np.abs(np.concatenate(values)) if values else np.zeros(1)
        distance = np.where(np.isfinite(distance), distance, np.inf)
        mean[name], worst[name] = float(distance.mean()), float(distance.max())
    return Deviation(
        people=people,
        unmatched=unmatched,
        wild=wild,
        keypoint_mean=mean["keypoints"],
        keypoint_max=worst["keypoints"],
        box_mean=mean["boxes"],
        box_max=worst["boxes"],
        score_max=worst["scores"],
        keypoint_score_max=worst["visible"],
        keypoint_score_mean=mean["visible"],
    )


def _is_wild(keypoints: NDArray[np.float32], input_hw: tuple[int, int]) -> bool:
    margin = max(input_hw)
    low, high = keypoints.min(), (keypoints - (input_hw[1], input_hw[0])).max()
    return not (low >= -margin and high <= margin)
