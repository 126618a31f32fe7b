"""What would explain a disagreement: the mistakes that people make, each tried on what was found.

None of this decides anything. It turns "keypoints are 40 px off" into a sentence that leads to the mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.measure.agreement.matching import match_people

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

__all__ = ["find_causes"]

#: An explanation must leave at most this share of the error.
LEFT: Final = 0.25
#: Errors below this many pixels have no explanation of this kind.
LEAST_PX: Final = 0.5
#: Somebody who is this similar has been found again.
SAME: Final = 0.9

Inputs = tuple[str, "Callable[[NDArray[np.float32]], NDArray[np.float32]]"]

#: What else a network may have been made for, and how to feed it then.
INPUTS: Final[tuple[Inputs, ...]] = (
    ("its channels reversed: it expects RGB", lambda x: x[:, ::-1]),
    ("values from 0 to 1: it divides nothing by 255 itself", lambda x: x / np.float32(255)),
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
    found = []
    pairs = [
        (one.keypoints[i].astype(np.float64), two.keypoints[j].astype(np.float64), one.skeleton.keypoints)
        for one, two in zip(reference, other, strict=True)
        for i, j, _ in match_people(one, two, sigmas)
    ]
    pairs = [pair for pair in pairs if np.isfinite(pair[0]).all() and np.isfinite(pair[1]).all()]
    if pairs:
        a, b = np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])
        found += [*_swapped(a, b, pairs[0][2]), *_moved(a, b)]
    if images is not None and rerun is not None and len(on):
        found += _other_input([reference[i] for i in on], [other[i] for i in on], sigmas, images, rerun)
    return found


def _swapped(a: NDArray[np.float64], b: NDArray[np.float64], names: tuple[str, ...]) -> list[str]:
    """Whether keypoints come in another order; ``a`` and ``b`` are ``(M, K, 2)``."""
    distance = np.median(np.linalg.norm(a[:, :, None] - b[:, None], axis=-1), axis=0)
    nearest = distance.argmin(axis=1)
    own = np.diagonal(distance)
    joints = np.arange(len(names))
    wrong = joints[(nearest != joints) & (distance[joints, nearest] < LEFT * own) & (own > LEAST_PX)]
    if not len(wrong):
        return []
    told = ", ".join(f"{names[i]} is where the second has {names[nearest[i]]}" for i in wrong[:4])
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return [f"Keypoints come in another order: the first model's {told}{more}."]


def _moved(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[str]:
    """Whether the second's people are the first's, scaled and shifted, as by another letterbox."""
    x, y = a.reshape(-1, 2), b.reshape(-1, 2)
    before = float(np.median(np.linalg.norm(y - x, axis=1)))
    if before < LEAST_PX:
        return []
    scale, shift = 1.0, np.median(y - x, axis=0)
    spread = np.square(x - x.mean(axis=0)).sum()
    if len(a) > 1 and spread > 0 and np.median(np.linalg.norm(y - x - shift, axis=1)) > LEFT * before:
        scale = float(((x - x.mean(axis=0)) * (y - y.mean(axis=0))).sum() / spread)
        shift = np.median(y - scale * x, axis=0)
    after = float(np.median(np.linalg.norm(y - scale * x - shift, axis=1)))
    if after > LEFT * before:
        return []
    how = f"shifted by {shift[0]:+.2f}, {shift[1]:+.2f} px"
    if abs(scale - 1) > 1e-3:
        how = f"scaled by {scale:.4f} and {how}"
    return [f"The second model's people are the first's {how}: look at coordinates, strides and cell centres."]


def _other_input(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    sigmas: Sequence[float],
    images: NDArray[np.float32],
    rerun: Callable[[NDArray[np.float32]], list[Poses]],
) -> list[str]:
    """Whether the second model agrees once its input is prepared otherwise."""
    people = sum(map(len, reference))
    same = _again(reference, other, sigmas)
    if not people or same > 0.75 * people:
        return []
    for words, change in INPUTS:
        found = rerun(np.ascontiguousarray(change(images), dtype=np.float32))
        now = _again(reference, found, sigmas)
        if now > max(0.75 * people, 2 * same):
            return [f"The second model finds {now} of {people} people again when it is given {words}."]
    return []


def _again(reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]) -> int:
    lists = zip(reference, other, strict=True)
    return sum(oks >= SAME for one, two in lists for *_, oks in match_people(one, two, sigmas))
