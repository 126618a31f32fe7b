"""What would explain that two models disagree: the usual mistakes, each tried on what was found.

None of this decides anything. It turns "keypoints are 40 px off" into a sentence that leads to the mistake: left and
right swapped, RGB for BGR, another placement or scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.measure.comparison import match_people
from rtmo_deploy.plain import shorten
from rtmo_deploy.poses import Poses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Skeleton

    Points = NDArray[np.float64]

#: An explanation must leave at most this share of the error.
LEFT: Final = 0.25
#: Errors below this many pixels have no explanation of this kind.
LEAST_PX: Final = 0.5
#: Below so many, another input explains nothing either: two runtimes differ by as much.
LEAST_INPUT_PX: Final = 0.05
#: Somebody with this OKS has been found again; share of the detections that an explanation must find again.
FOUND_AGAIN: Final = 0.9
MOST: Final = 0.75
#: Among so many people, half of an exchange is told too: noise may hide the other half.
CROWD: Final = 5
#: Keypoints that are named.
NAMED: Final = 4
#: Pairs of people, and images, in which a move is looked for.
PAIRS_TRIED: Final = 400
IMAGES_TRIED: Final = 8
#: Who has this OKS after a move has matched. At least two must, and this share of the people.
ALIKE: Final = 0.5
SHARE: Final = 0.5
#: Keypoints that spread less than this many pixels have no scale; a factor nearer to 1 than this is none.
LEAST_SPREAD: Final = 4.0
SAME_SCALE: Final = 1e-3
#: What else a network may have been made for, and how to feed it then.
INPUTS: Final[tuple[tuple[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]], ...]] = (
    ("its channels reversed (RGB)", lambda x: x[:, ::-1]),
    ("values from 0 to 1", lambda x: x / np.float32(255)),
    ("its channels reversed and values from 0 to 1", lambda x: x[:, ::-1] / np.float32(255)),
)


@dataclass(frozen=True)
class Move:
    """``b = scale * a + shift``, pixels."""

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def __call__(self, points: Points) -> Points:
        """Move ``(..., 2)`` points."""
        moved: Points = points * self.scale + np.array(self.shift)
        return moved

    def of(self, people: Poses) -> Poses:
        """Move people, boxes too."""
        return Poses(
            self(people.boxes.reshape(-1, 2, 2).astype(np.float64)).reshape(-1, 4).astype(np.float32),
            people.scores,
            self(people.keypoints.astype(np.float64)).astype(np.float32),
            people.keypoint_scores,
            skeleton=people.skeleton,
        )

    def __str__(self) -> str:
        how = f"shifted by {self.shift[0]:+.2f}, {self.shift[1]:+.2f} px"
        return how if abs(self.scale - 1) <= SAME_SCALE else f"scaled by {self.scale:.4f} and {how}"


def find_causes(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    sigmas: Sequence[float],
    *,
    images: NDArray[np.float32] | None = None,
    rerun: Callable[[NDArray[np.float32]], list[Poses]] | None = None,
    on: Sequence[int] = (),
) -> list[str]:
    """Try known mistakes on two lists of detections that disagree.

    Args:
        reference: The first model's detections, one entry an image.
        other: The second's.
        sigmas: ``(K,)`` OKS sigma of each keypoint.
        images: ``(n, 3, H, W)`` the network inputs of the images ``on``.
        rerun: Runs the second model on other inputs.
        on: Indices of these images.
    """
    found: list[str] = []
    for match in (matched_points, matched_after_a_move):
        a, b = match(reference, other, sigmas)
        if len(a) and not found:
            found += order_told(a, b, reference[0].skeleton) or _moved(reference, other, sigmas, a, b)
    if images is not None and rerun is not None and len(on):
        found += _other_input([reference[i] for i in on], [other[i] for i in on], sigmas, images, rerun)
    return found


def _moved(
    reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float], a: Points, b: Points
) -> list[str]:
    """Whether the second's people are the first's, scaled and shifted, as by another letterbox."""
    move = None if _median(b - a) < LEAST_PX else fit_move(a, b, LEFT)
    if move is None or _alike_after(reference, other, sigmas, move) < SHARE * sum(map(len, reference)):
        return []  # in the second case these are other people who happen to stand so
    where = "Check the letterbox's padding and scale, strides and cell centres"
    return [f"The second model's keypoints fit the first's {move}. {where}."]


def fit_move(a: Points, b: Points, left: float) -> Move | None:
    """The move that takes ``a`` to ``b``: a shift where that is enough, else with a scale.

    Args:
        a: ``(M, K, 2)`` places.
        b: The same keypoints' places in the other list.
        left: Share of the median distance that may be left.
    """
    x, y = a.reshape(-1, 2), b.reshape(-1, 2)
    fits = [_shift(x, y), *_similar(x, y)]
    rests = [_median(y - move(x)) for move in fits]
    if min(rests) > left * _median(y - x):
        return None
    # A shift that leaves hardly more than a scale does is the simpler explanation.
    return next(move for move, rest in zip(fits, rests, strict=True) if rest <= 1.5 * min(rests) + 0.1)


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
    finite = [pair for pair in pairs if np.isfinite(pair).all()]
    stacked = np.array(finite, np.float64).reshape(-1, 2, len(sigmas), 2)
    return stacked[:, 0], stacked[:, 1]


def matched_after_a_move(
    reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]
) -> tuple[Points, Points]:
    """As :func:`matched_points`, for lists in which nobody may be where the other list has them.

    Each two people of an image are taken for the same person, the move between them for everybody's; the one by which
    most people match is kept. Nobody matches where that is fewer than half of them.
    """
    chosen = [n for n in range(len(reference)) if len(reference[n]) and len(other[n])][:IMAGES_TRIED]
    first, second = [reference[n] for n in chosen], [other[n] for n in chosen]
    counts = [(_alike_after(first, second, sigmas, move), move) for move in _candidates(first, second)]
    most, best = max(counts, key=lambda one: one[0], default=(0, Move()))
    if most < max(2, SHARE * sum(map(len, first))):
        return matched_points([], [], sigmas)
    return matched_points(reference, other, sigmas, best)


def _alike_after(first: Sequence[Poses], second: Sequence[Poses], sigmas: Sequence[float], move: Move) -> int:
    """How many of the first lists' people are somebody of the second lists when they have been moved."""
    pairs = (match_people(move.of(one), two, sigmas) for one, two in zip(first, second, strict=True))
    return sum(oks >= ALIKE for found in pairs for *_, oks in found)


def _candidates(first: Sequence[Poses], second: Sequence[Poses]) -> Iterator[Move]:
    pairs = (
        (a, b)
        for one, two in zip(first, second, strict=True)
        for a in one.keypoints.astype(np.float64)
        for b in two.keypoints.astype(np.float64)
        if np.isfinite(a).all() and np.isfinite(b).all()
    )
    for (a, b), _ in zip(pairs, range(PAIRS_TRIED), strict=False):
        yield _shift(a, b)
        yield from _similar(a, b)


def _shift(x: Points, y: Points) -> Move:
    dx, dy = np.median(y - x, axis=0).tolist()
    return Move(shift=(dx, dy))


def _similar(x: Points, y: Points) -> list[Move]:
    """A scale and a shift; nothing where the points are too near to each other to have a scale."""
    apart = x - x.mean(axis=0)
    spread = np.square(apart).sum()
    if np.sqrt(spread / len(x)) < LEAST_SPREAD:
        return []
    scale = float((apart * (y - y.mean(axis=0))).sum() / spread)
    dx, dy = np.median(y - scale * x, axis=0).tolist()
    return [Move(scale, (dx, dy))]


def _median(difference: Points) -> float:
    return float(np.median(np.linalg.norm(difference, axis=-1)))


def _other_input(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    sigmas: Sequence[float],
    images: NDArray[np.float32],
    rerun: Callable[[NDArray[np.float32]], list[Poses]],
) -> list[str]:
    """Whether the second model agrees once its input is prepared otherwise."""
    people = sum(map(len, reference))
    same, before = _again(reference, other, sigmas)
    for words, change in INPUTS if people else ():
        found = rerun(np.ascontiguousarray(change(images), dtype=np.float32))
        now, after = _again(reference, found, sigmas)
        if now <= MOST * people:
            continue
        if 2 * same < now:
            return [f"The second model finds {now} of {people} people again when it is given {words}, else {same}."]
        if now >= same and before > LEAST_INPUT_PX and after <= LEFT * before:
            text = f"The second model's keypoints are {before:.2g} px off (median), and {after:.2g} px when it is given"
            return [f"{text} {words}."]
    return []


def _again(reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]) -> tuple[int, float]:
    """How many are found again, and the median distance of the keypoints of those who match; infinite of nobody."""
    lists = zip(reference, other, strict=True)
    same = sum(oks >= FOUND_AGAIN for one, two in lists for *_, oks in match_people(one, two, sigmas))
    a, b = matched_points(reference, other, sigmas)
    return same, _median(b - a) if len(a) else float("inf")


def order_told(
    a: Points,
    b: Points,
    skeleton: Skeleton,
    *,
    labelled: NDArray[np.bool_] | None = None,
    sides: tuple[str, str] = ("the first model's", "the second"),
) -> list[str]:
    """Whether keypoints come in another order.

    Args:
        a: ``(M, K, 2)`` places of the keypoints of M people.
        b: The same people in the second list.
        skeleton: What the keypoints are.
        labelled: ``(M, K)`` which of ``a`` are known; all if not given.
        sides: What the two lists are called.
    """
    distance = np.linalg.norm(a[:, :, None] - b[:, None], axis=-1)
    if labelled is not None:
        distance = np.where(labelled[:, :, None], distance, np.nan)
    joints = np.arange(len(skeleton))
    known = np.isfinite(distance).any(axis=(0, 2))
    middle = np.zeros((len(joints), len(joints)))
    middle[known] = np.nanmedian(distance[:, known], axis=0)
    nearest, own = middle.argmin(axis=1), np.diagonal(middle)
    wrong = joints[known & (nearest != joints) & (middle[joints, nearest] < LEFT * own) & (own > LEAST_PX)]
    if not len(wrong):
        return []
    sides_only = bool((nearest[wrong] == np.array(skeleton.flip_indices())[wrong]).all())
    if set(nearest[wrong]) != set(wrong) and not (sides_only and len(a) >= CROWD):
        return []  # no exchange of places: they are other people, or it is chance
    swapped = ", as if left and right were swapped" if sides_only else ""
    names, (first, second) = skeleton.keypoints, sides
    told = shorten((f"{names[i]} is nearest to where {second} has {names[nearest[i]]}" for i in wrong), NAMED)
    return [f"Keypoints fit in another order{swapped}: {first} {told} (median over {len(a)} people)."]
