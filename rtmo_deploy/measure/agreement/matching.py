"""Who in one list is who in the other, and how alike the two are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rtmo_deploy.poses import Poses, Skeleton

#: Two people may be the same only if their boxes overlap by this much, or their keypoints are this similar. Boxes are
#: asked too, so that somebody whose keypoints are wrong is reported with a low similarity, not as two strangers.
LEAST_ALIKE: Final = 0.5
#: A person's area is this share of the box, as the judge of accuracy takes it where none is annotated.
AREA_OF_BOX: Final = 0.53
#: OKS sigma of keypoints whose own nobody has measured; the middle of COCO's.
USUAL_SIGMA: Final = 0.07


def sigmas_of(skeleton: Skeleton) -> tuple[float, ...]:
    """The skeleton's OKS sigmas, or middling ones where its convention has none."""
    return skeleton.sigmas or (USUAL_SIGMA,) * len(skeleton)


def similarity(one: Poses, two: Poses, sigmas: ArrayLike) -> NDArray[np.float64]:
    """Object keypoint similarity (OKS, COCO keypoint evaluation) of everybody to everybody.

    The mean over all keypoints of ``exp(-d^2 / (2 area (2 sigma)^2))``; the area is 0.53 of the first one's box.

    Args:
        one: N people.
        two: M people, in the same pixels.
        sigmas: ``(K,)`` one a keypoint.

    Returns:
        ``(N, M)`` from 0 to 1; 0 for somebody who is not finite.
    """
    sides = np.maximum(one.boxes[:, 2:].astype(np.float64) - one.boxes[:, :2], 1.0)
    variance = 2 * AREA_OF_BOX * sides.prod(axis=1)[:, None, None] * np.square(2 * np.asarray(sigmas, np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        square = np.square(one.keypoints[:, None].astype(np.float64) - two.keypoints[None]).sum(-1)
        return np.asarray(np.nan_to_num(np.exp(-square / variance).mean(-1), nan=0.0), np.float64)


def box_overlap(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of boxes ``(N, 4)`` and ``(M, 4)``, x1, y1, x2, y2: ``(N, M)``; 0 if not finite."""
    first, second = one.astype(np.float64)[:, None], two.astype(np.float64)[None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
        common = np.maximum(sides, 0).prod(-1)
        whole = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1) - common
        return np.asarray(np.nan_to_num(common / whole, nan=0.0, posinf=0.0, neginf=0.0), np.float64)


def match_people(one: Poses, two: Poses, sigmas: ArrayLike) -> list[tuple[int, int, float]]:
    """Pair the people of two lists one to one, the most alike first.

    How alike two people are is their keypoint similarity plus the overlap of their boxes.

    Args:
        one: N people.
        two: M people, in the same pixels.
        sigmas: ``(K,)`` one a keypoint.

    Returns:
        Index in the first, index in the second and keypoint similarity of each pair, in the first one's order.
    """
    if not len(one) or not len(two):
        return []
    oks, overlap = similarity(one, two, sigmas), box_overlap(one.boxes, two.boxes)
    possible = np.maximum(oks, overlap) >= LEAST_ALIKE
    alike = np.where(possible, oks + overlap, -1.0)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for flat in np.argsort(-alike, axis=None, kind="stable").tolist():
        i, j = divmod(flat, len(two))
        if not possible[i, j]:
            break
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return [(i, j, float(oks[i, j])) for i, j in sorted(pairs.items())]
