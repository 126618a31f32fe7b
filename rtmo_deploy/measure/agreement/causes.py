"""What would explain a disagreement: the mistakes that people make, each tried on what was found.

None of this decides anything. It turns "keypoints are 40 px off" into a sentence that leads to the mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.measure.agreement.alignment import (
    SHARE,
    alike_after,
    fit_move,
    matched_after_a_move,
    matched_points,
)
from rtmo_deploy.measure.agreement.matching import match_people

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.measure.agreement.alignment import Move
    from rtmo_deploy.poses import Poses, Skeleton

    Points = NDArray[np.float64]

#: An explanation must leave at most this share of the error.
LEFT: Final = 0.25
#: Errors below this many pixels have no explanation of this kind.
LEAST_PX: Final = 0.5
#: Below so many, another input explains nothing either: two runtimes differ by as much.
LEAST_INPUT_PX: Final = 0.05
#: Somebody who is this similar has been found again.
SAME: Final = 0.9
#: Share of the people that an explanation must find again.
MOST: Final = 0.75
#: Among so many people, half of an exchange is told too: noise may hide the other half.
CROWD: Final = 5
#: Keypoints that are named.
NAMED: Final = 4

Inputs = tuple[str, "Callable[[NDArray[np.float32]], NDArray[np.float32]]"]

#: What else a network may have been made for, and how to feed it then.
INPUTS: Final[tuple[Inputs, ...]] = (
    ("its channels reversed (RGB)", lambda x: x[:, ::-1]),
    ("values from 0 to 1", lambda x: x / np.float32(255)),
    ("its channels reversed and values from 0 to 1", lambda x: x[:, ::-1] / np.float32(255)),
)


def find_causes(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    sigmas: Sequence[float],
    *,
    images: NDArray[np.float32] | None = None,
    rerun: Callable[[NDArray[np.float32]], list[Poses]] | None = None,
    on: Sequence[int] = (),
) -> list[str]:
    """Try known mistakes on two lists of people that disagree.

    Args:
        reference: The first model's people, one entry a picture.
        other: The second's.
        sigmas: ``(K,)`` OKS sigma of each keypoint.
        images: ``(n, 3, H, W)`` the network inputs of the pictures ``on``.
        rerun: Runs the second model on other inputs.
        on: Indices of these pictures.

    Returns:
        A sentence for each that would explain it.
    """
    found: list[str] = []
    for match in (matched_points, matched_after_a_move):
        a, b = match(reference, other, sigmas)
        if len(a) and not found:
            skeleton = reference[0].skeleton
            move = _moved(a, b)
            if move is not None and alike_after(reference, other, sigmas, move) < SHARE * sum(map(len, reference)):
                move = None  # these are other people who happen to stand so
            found += order_told(a, b, skeleton) or _told(move) or _alone(a, b, skeleton)
    if images is not None and rerun is not None and len(on):
        found += _other_input([reference[i] for i in on], [other[i] for i in on], sigmas, images, rerun)
    return found


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

    Returns:
        A sentence, or nothing.
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
    told = ", ".join(f"{names[i]} is nearest to where {second} has {names[nearest[i]]}" for i in wrong[:NAMED])
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return [f"Keypoints fit in another order{swapped}: {first} {told}{more} (median over {len(a)} people)."]


def _moved(a: Points, b: Points) -> Move | None:
    """Whether the second's people are the first's, scaled and shifted, as by another letterbox."""
    return None if float(np.median(np.linalg.norm(b - a, axis=-1))) < LEAST_PX else fit_move(a, b, LEFT)


def _told(move: Move | None) -> list[str]:
    if move is None:
        return []
    where = "Check the letterbox's padding and scale, strides and cell centres"
    return [f"The second model's keypoints fit the first's {move}. {where}."]


def _alone(a: Points, b: Points, skeleton: Skeleton) -> list[str]:
    """Whether it is a few keypoints that differ, and the others do not."""
    apart = np.median(np.linalg.norm(b - a, axis=-1), axis=0)
    wrong = np.flatnonzero(apart > max(LEAST_PX, LEFT * apart.max()))
    others = np.delete(apart, wrong)
    if not 0 < len(wrong) <= len(skeleton) / 4 or others.max(initial=0.0) > LEFT * apart[wrong].min():
        return []
    told = ", ".join(f"{skeleton.keypoints[i]} ({apart[i]:.3g} px)" for i in wrong)
    rest = f"the others at most {others.max(initial=0.0):.2g} px"
    return [f"Median distances over {len(a)} people: {told}, {rest}. Check the head's weights of these keypoints."]


def _other_input(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    sigmas: Sequence[float],
    images: NDArray[np.float32],
    rerun: Callable[[NDArray[np.float32]], list[Poses]],
) -> list[str]:
    """Whether the second model agrees once its input is prepared otherwise."""
    people = sum(map(len, reference))
    if not people:
        return []
    same, before = _again(reference, other, sigmas), _apart(reference, other, sigmas)
    for words, change in INPUTS:
        found = rerun(np.ascontiguousarray(change(images), dtype=np.float32))
        now = _again(reference, found, sigmas)
        if now <= MOST * people:
            continue
        if 2 * same < now:
            return [f"The second model finds {now} of {people} people again when it is given {words}, else {same}."]
        after = _apart(reference, found, sigmas)
        if now >= same and before > LEAST_INPUT_PX and after <= LEFT * before:
            text = f"The second model's keypoints are {before:.2g} px off (median), and {after:.2g} px when it is given"
            return [f"{text} {words}."]
    return []


def _again(reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]) -> int:
    lists = zip(reference, other, strict=True)
    return sum(oks >= SAME for one, two in lists for *_, oks in match_people(one, two, sigmas))


def _apart(reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]) -> float:
    """Median distance of the keypoints of those who match; infinite where nobody does."""
    a, b = matched_points(reference, other, sigmas)
    return float(np.median(np.linalg.norm(b - a, axis=-1))) if len(a) else float("inf")
