"""Whether a candidate finds the same people as the reference: bounds by precision, and the figures they bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.measure.comparison import match_people, sigmas_of
from rtmo_deploy.poses import Poses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.poses import Skeleton

#: Score from which a detection of the reference counts, and how near to it one may come or go.
SCORE, MARGIN = 0.3, 0.1
#: Pixels that a keypoint's displacement counts as at most in the mean shift: a left foot taken for a right one is no
#: shift.
FAR: Final = 4.0
#: Share of the reference's detections that may be missed or extra.
UNMATCHED: Final = 0.05
#: Detections of the reference below which nothing lossy is accepted.
LEAST_PEOPLE: Final = 5


@dataclass(frozen=True)
class Bound:
    """What is demanded of the matched detections; lengths are pixels of the network input.

    Attributes:
        oks: Least mean OKS.
        shift_px: Greatest mean signed displacement of the keypoints, in x and in y, each displacement counted as
            :data:`FAR` at most. A shift hides in OKS.
        distance_px: Greatest median distance of the keypoints.
    """

    oks: float
    shift_px: float
    distance_px: float


#: By precision; docs/guides/tune.md has the same table.
BOUNDS: Final = {
    "fp32": Bound(0.99, 0.05, 0.05),
    "bf16": Bound(0.97, 0.25, 0.5),
    "int8": Bound(0.90, 0.25, 1.25),
}


def bound_of(precision: str) -> Bound:
    """The bound of a precision; FP16, and what is mixed of 16 and 32 bits, has that of BF16."""
    return BOUNDS.get(precision.partition("+")[0], BOUNDS["bf16"])


@dataclass(frozen=True)
class Comparison:
    """How a candidate compares with the reference; see :class:`rtmo_deploy.runtime.choice.Trial`."""

    people: int
    matched: int
    missed: int
    extra: int
    oks: float | None
    shift_px: tuple[float, float] | None
    distance_px: float | None

    def problem(self, precision: str) -> str:
        """Why it is not accepted in this precision; empty if it is. What is not a number passes no bound."""
        bound = bound_of(precision)
        if precision != "fp32" and self.people < LEAST_PEOPLE:
            return f"the samples show {self.people or 'nobody'}, too few to judge it by; give --images with people"
        if not self.people:
            return "the samples show nobody to judge it by; give --images with people"
        if self.missed + self.extra > UNMATCHED * self.people:
            return f"{self.missed} missed and {self.extra} extra of {self.people} people, more than {UNMATCHED:.0%}"
        if self.oks is None or self.shift_px is None or self.distance_px is None:
            return "it finds none of the people"
        shift = max(map(abs, self.shift_px), key=lambda value: (np.isnan(value), value))
        if not shift <= bound.shift_px:
            return f"keypoints shifted by {shift:.2f} px, more than {bound.shift_px:g}"
        if not self.oks >= bound.oks:
            return f"mean OKS {self.oks:.3f}, below {bound.oks:g}"
        if not self.distance_px <= bound.distance_px:
            return f"keypoints {self.distance_px:.2f} px away, more than {bound.distance_px:g}"
        return ""


def poses_of(found: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> list[Poses]:
    """What a worker found; ValueError where that is no list of people."""
    joints = len(skeleton)
    result = []
    for one in found:
        scores = np.asarray(one["scores"], np.float32)
        count = len(scores)
        boxes = np.asarray(one["boxes"], np.float32).reshape(count, 4)
        keypoints = np.asarray(one["keypoints"], np.float32).reshape(count, joints, 2)
        result.append(Poses(boxes, scores, keypoints, np.ones((count, joints), np.float32), skeleton))
    return result


def compare(reference: Sequence[Poses], other: Sequence[Poses], *, score_thr: float = SCORE) -> Comparison:
    """Match the detections of each image by OKS, the most alike first.

    A detection of the reference counts from ``score_thr`` on. One within 0.1 of it may be missing or extra, and a match
    may have a score that is 0.1 lower.

    Args:
        reference: One entry an image, in pixels of the network input.
        other: The same images.
        score_thr: The threshold; the graph's own where that is higher.
    """
    low, high = score_thr - MARGIN, score_thr + MARGIN
    people = missed = extra = 0
    alike: list[float] = []
    moves = [np.zeros((0, 2))]
    for one, two in zip(reference, other, strict=True):
        # What is not a number counts: it must not pass for nobody.
        a, b = one[~(one.scores < low)], two[~(two.scores < low)]
        pairs = match_people(a, b, sigmas_of(one.skeleton), boxes=False)
        first, second = {i for i, _, _ in pairs}, {j for _, j, _ in pairs}
        people += int((a.scores >= score_thr).sum())
        missed += sum(i not in first and a.scores[i] >= high for i in range(len(a)))
        extra += sum(j not in second and not b.scores[j] < high for j in range(len(b)))
        for i, j, oks in pairs:
            if a.scores[i] >= score_thr:
                alike.append(oks)
                moves.append(b.keypoints[j].astype(np.float64) - a.keypoints[i])
    if not alike:
        return Comparison(people, 0, missed, extra, None, None, None)
    move = np.concatenate(moves)
    shift = np.clip(move, -FAR, FAR).mean(axis=0)  # NaN stays NaN
    return Comparison(
        people,
        len(alike),
        missed,
        extra,
        float(np.mean(alike)),
        (float(shift[0]), float(shift[1])),
        float(np.median(np.linalg.norm(move, axis=1))),
    )
