"""Do two networks find the same people? First in pose terms, matched one to one, then tensor by tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

#: People are matched only if their boxes' centres are this near, in shares of the box's longer side.
MATCH_RADIUS = 0.25
#: Scores closer than this are equal to within float noise, and their order means nothing.
ORDER_MARGIN = 1e-5


@dataclass(frozen=True)
class Bounds:
    """The worst that passes between float32 networks.

    Float noise of the reference itself, measured against float64, is 1e-3 to 5e-3 px on keypoints.

    Attributes:
        keypoint_px: Keypoints and boxes, pixels of the network input.
        score: Scores of people and of keypoints.
        tensor: Head tensors, as a share of the tensor's own largest magnitude.
    """

    keypoint_px: float = 0.05
    score: float = 1e-4
    tensor: float = 1e-3


@dataclass(frozen=True)
class PeopleErrors:
    """How far apart two lists of people are.

    Attributes:
        matched: People in both.
        missed: People only in the first.
        extra: People only in the second.
        box_px: Worst box coordinate, pixels.
        keypoint_px: Worst keypoint, Euclidean, pixels.
        score: Worst person score.
        keypoint_score: Worst keypoint score.
        order: Whether the matched people stand in the same order; people whose scores are closer than
            ``ORDER_MARGIN`` may change places.
    """

    matched: int = 0
    missed: int = 0
    extra: int = 0
    box_px: float = 0.0
    keypoint_px: float = 0.0
    score: float = 0.0
    keypoint_score: float = 0.0
    order: bool = True

    def merge(self, other: PeopleErrors) -> PeopleErrors:
        """Counts added, worst values kept."""
        return PeopleErrors(
            self.matched + other.matched,
            self.missed + other.missed,
            self.extra + other.extra,
            max(self.box_px, other.box_px),
            max(self.keypoint_px, other.keypoint_px),
            max(self.score, other.score),
            max(self.keypoint_score, other.keypoint_score),
            self.order and other.order,
        )


def compare_tensors(
    expected: Mapping[str, NDArray[np.float32]], found: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[float, float]]:
    """Worst absolute error of each expected tensor, and its largest magnitude.

    The error is infinite where a tensor is missing, of another shape, or not finite.
    """
    compared = {}
    for name, value in expected.items():
        same = name in found and value.shape == found[name].shape
        error = float(np.abs(value - found[name]).max(initial=0.0)) if same else math.inf
        compared[name] = (error if math.isfinite(error) else math.inf, float(np.abs(value).max(initial=0.0)))
    return compared


@dataclass(frozen=True)
class CaseResult:
    """One input shape.

    Attributes:
        batch, height, width: The input.
        people: Detections compared; None where the artifact puts out head tensors only.
        tensors: Worst absolute error of each head tensor, and the tensor's largest magnitude.
        noise_px: The reference's own float32 rounding on its worst keypoint, measured against float64; None where it
            was not measured, because the bound was met without.
    """

    batch: int
    height: int
    width: int
    people: PeopleErrors | None = None
    tensors: dict[str, tuple[float, float]] = field(default_factory=dict)
    noise_px: float | None = None

    def failures(self, bounds: Bounds) -> list[str]:
        """What is over the bounds, in words; empty when nothing is."""
        found = []
        if self.people is not None:
            p = self.people
            if p.missed or p.extra:
                found.append(f"detections: {p.missed} people missed and {p.extra} extra")
            pixels = max(bounds.keypoint_px, 4 * (self.noise_px or 0.0))
            if not p.keypoint_px <= pixels:
                found.append(f"keypoints: {p.keypoint_px:.3g} px off, bound {pixels:.3g} px")
            if not p.box_px <= bounds.keypoint_px:
                found.append(f"dets: boxes {p.box_px:.3g} px off, bound {bounds.keypoint_px:g} px")
            if not max(p.score, p.keypoint_score) <= bounds.score:
                found.append(
                    f"dets or keypoints: scores {max(p.score, p.keypoint_score):.3g} off, bound {bounds.score:g}"
                )
            if not p.order:
                found.append("dets: people are not in the same order")
        for name, (error, scale) in self.tensors.items():
            if not error <= bounds.tensor * max(scale, 1.0):
                found.append(f"{name}: {error:.3g} off, bound {bounds.tensor * max(scale, 1.0):.3g}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "input": [self.batch, 3, self.height, self.width],
            "people": None if self.people is None else dict(vars(self.people)),
            "tensors": {name: {"error": e, "magnitude": m} for name, (e, m) in self.tensors.items()},
            "noise_px": self.noise_px,
        }


def compare_people(reference: Sequence[Poses], other: Sequence[Poses]) -> PeopleErrors:
    """Match the people of each picture one to one, nearest first, and measure how far apart they are.

    Args:
        reference: One entry a picture.
        other: The same pictures, in the same pixels.
    """
    total = PeopleErrors()
    for one, two in zip(reference, other, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported, not warned about
            total = total.merge(_compare(one, two))
    return total


def _compare(one: Poses, two: Poses) -> PeopleErrors:
    pairs = _match(one, two)
    missed, extra = len(one) - len(pairs), len(two) - len(pairs)
    if not pairs:
        return PeopleErrors(missed=missed, extra=extra)
    first, second = (list(side) for side in zip(*sorted(pairs), strict=True))
    a, b = one[first], two[second]
    return PeopleErrors(
        matched=len(pairs),
        missed=missed,
        extra=extra,
        box_px=_worst(a.boxes - b.boxes),
        keypoint_px=_worst(np.linalg.norm(a.keypoints - b.keypoints, axis=-1)),
        score=_worst(a.scores - b.scores),
        keypoint_score=_worst(a.keypoint_scores - b.keypoint_scores),
        order=_same_order(a.scores, second),
    )


def _same_order(scores: NDArray[np.float32], places: list[int]) -> bool:
    """Whether nobody stands behind somebody with a clearly lower score.

    Args:
        scores: ``(n,)`` of the people in the first list's order.
        places: Where each of them stands in the second list.
    """
    behind = np.asarray(places)[:, None] > np.asarray(places)[None]
    clearly_better = scores[:, None] > scores[None] + ORDER_MARGIN
    first = np.arange(len(places))
    return not bool((behind & clearly_better & (first[:, None] < first[None])).any())


def _worst(difference: NDArray[np.float32]) -> float:
    """Largest magnitude; infinity where there is a NaN, so that no comparison lets it pass."""
    worst = float(np.abs(difference).max(initial=0.0))
    return worst if np.isfinite(worst) else float("inf")


def _match(one: Poses, two: Poses) -> list[tuple[int, int]]:
    """Pairs of people, nearest first: by distance of boxes and keypoints together, in shares of the box."""
    if not len(one) or not len(two):
        return []
    size = np.maximum((one.boxes[:, 2:] - one.boxes[:, :2]).max(axis=1), 1.0)
    boxes = np.abs(one.boxes[:, None] - two.boxes[None]).mean(axis=-1) / size[:, None]
    points = np.linalg.norm(one.keypoints[:, None] - two.keypoints[None], axis=-1).mean(axis=-1) / size[:, None]
    scores = np.abs(one.scores[:, None] - two.scores[None])
    distance = np.nan_to_num(boxes + points + scores, nan=np.inf)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(distance, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(two))
        if boxes[i, j] > MATCH_RADIUS or not np.isfinite(distance[i, j]):
            continue
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return pairs
