"""People who are all somewhere else: one list as the other, shifted and scaled.

A letterbox that is not undone, a stride that is wrong and a picture that was stretched all move everybody alike. So far
that nobody is recognised, perhaps: then two people of a picture are taken to be the same and the others are asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.measure.agreement.matching import match_people
from rtmo_deploy.poses import Poses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Points = NDArray[np.float64]

#: Pairs of people that are tried.
TRIED: Final = 400
#: Pictures on which they are.
PICTURES: Final = 8
#: Who is so similar after a move has matched.
ALIKE: Final = 0.5
#: At least so many must; and this share of the people.
LEAST_MATCHED: Final = 2
SHARE: Final = 0.5
#: Keypoints that spread less than this many pixels have no scale.
LEAST_SPREAD: Final = 4.0
#: A simpler move may leave so many times as much, and so many pixels more.
HARDLY_MORE: Final = 1.5
HARDLY_PX: Final = 0.1
#: A factor nearer to 1 than this is none.
SAME_SCALE: Final = 1e-3


@dataclass(frozen=True)
class Move:
    """``b = scale * a + shift``, for x and for y.

    Attributes:
        scale: Factors in x and y.
        shift: Pixels in x and y.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def __call__(self, points: Points) -> Points:
        """Move ``(..., 2)`` points."""
        moved: Points = points * np.array(self.scale) + np.array(self.shift)
        return moved

    def of(self, people: Poses) -> Poses:
        """Move people, boxes too; a mirrored box keeps its least corner first."""
        corners = self(people.boxes.reshape(-1, 2, 2).astype(np.float64))
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        points = self(people.keypoints.astype(np.float64))
        return Poses(
            boxes.astype(np.float32),
            people.scores,
            points.astype(np.float32),
            people.keypoint_scores,
            skeleton=people.skeleton,
        )

    def __str__(self) -> str:
        (sx, sy), (dx, dy) = self.scale, self.shift
        how = f"shifted by {dx:+.2f}, {dy:+.2f} px"
        if abs(sx - sy) > SAME_SCALE:
            return f"scaled by {sx:.4f} in x and {sy:.4f} in y and {how}"
        return how if abs(sx - 1) <= SAME_SCALE else f"scaled by {sx:.4f} and {how}"


def fit_move(a: Points, b: Points, left: float) -> Move | None:
    """The simplest move that takes ``a`` to ``b``: a shift, else with one factor, else with one each for x and y.

    Args:
        a: ``(M, K, 2)`` places.
        b: The same keypoints' places in the other list.
        left: Share of the median distance that may be left.

    Returns:
        The move, or None where none leaves so little. A simpler one is taken if it leaves hardly more than the best.
    """
    x, y = a.reshape(-1, 2), b.reshape(-1, 2)
    fits = [move for fit in (_shift, _similar, _stretched) if (move := fit(x, y)) is not None]
    rests = [_median(y - move(x)) for move in fits]
    if min(rests) > left * _median(y - x):
        return None
    enough = HARDLY_MORE * min(rests) + HARDLY_PX
    return next(move for move, rest in zip(fits, rests, strict=True) if rest <= enough)


def matched_points(
    reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float], move: Move | None = None
) -> tuple[Points, Points]:
    """Keypoints ``(M, K, 2)`` of the people in both lists, as either has them; the first moved for the matching."""
    pairs = [
        (one.keypoints[i].astype(np.float64), two.keypoints[j].astype(np.float64))
        for one, two in zip(reference, other, strict=True)
        for i, j, oks in match_people(one if move is None else move.of(one), two, sigmas)
        if move is None or oks >= ALIKE
    ]
    pairs = [pair for pair in pairs if np.isfinite(pair[0]).all() and np.isfinite(pair[1]).all()]
    joints = len(sigmas)
    stacked = np.array(pairs, np.float64).reshape(-1, 2, joints, 2)
    return stacked[:, 0], stacked[:, 1]


def matched_after_a_move(
    reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]
) -> tuple[Points, Points]:
    """As :func:`matched_points`, for lists in which nobody may be where the other list has them.

    Each two people of a picture are taken for the same person, the move between them for everybody's; the one by which
    most people match is kept. Nobody matches where that is fewer than half of them.
    """
    chosen = [n for n in range(len(reference)) if len(reference[n]) and len(other[n])][:PICTURES]
    first, second = [reference[n] for n in chosen], [other[n] for n in chosen]
    people = sum(map(len, first))
    best, most = None, 0
    for move in _candidates(first, second):
        count = alike_after(first, second, sigmas, move)
        if count > most:
            best, most = move, count
    if best is None or most < LEAST_MATCHED or most < SHARE * people:
        return matched_points([], [], sigmas)
    return matched_points(reference, other, sigmas, best)


def alike_after(first: Sequence[Poses], second: Sequence[Poses], sigmas: Sequence[float], move: Move) -> int:
    """How many of the first lists' people are somebody of the second lists when they have been moved."""
    pairs = (match_people(move.of(one), two, sigmas) for one, two in zip(first, second, strict=True))
    return sum(oks >= ALIKE for found in pairs for *_, oks in found)


def _candidates(first: Sequence[Poses], second: Sequence[Poses]) -> Iterator[Move]:
    tried = 0
    for one, two in zip(first, second, strict=True):
        for a in one.keypoints.astype(np.float64):
            for b in two.keypoints.astype(np.float64):
                if tried == TRIED or not (np.isfinite(a).all() and np.isfinite(b).all()):
                    continue
                tried += 1
                yield _shift(a, b)
                move = _stretched(a, b)
                if move is not None:
                    yield move


def _shift(x: Points, y: Points) -> Move:
    dx, dy = np.median(y - x, axis=0).tolist()
    return Move(shift=(dx, dy))


def _similar(x: Points, y: Points) -> Move | None:
    apart, spread = x - x.mean(axis=0), np.square(x - x.mean(axis=0)).sum()
    if np.sqrt(spread / len(x)) < LEAST_SPREAD:
        return None
    scale = float((apart * (y - y.mean(axis=0))).sum() / spread)
    dx, dy = np.median(y - scale * x, axis=0).tolist()
    return Move((scale, scale), (dx, dy))


def _stretched(x: Points, y: Points) -> Move | None:
    apart = x - x.mean(axis=0)
    spread = np.square(apart).sum(axis=0)
    if np.sqrt(spread / len(x)).min() < LEAST_SPREAD:
        return None
    scale = (apart * (y - y.mean(axis=0))).sum(axis=0) / spread
    dx, dy = np.median(y - scale * x, axis=0).tolist()
    sx, sy = scale.tolist()
    return Move((sx, sy), (dx, dy))


def _median(difference: Points) -> float:
    return float(np.median(np.linalg.norm(difference, axis=-1)))
