"""Skeletons and boxes drawn with rtmlib's look."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.skeletons import COCO_17, skeleton_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.sides import Side

_Colour = tuple[int, int, int]
_COLOURS: Final[dict[Side, _Colour]] = {"left": (0, 255, 0), "right": (255, 128, 0), "centre": (51, 153, 255)}
#: OpenPose's wheel of colours, one a keypoint, and its limbs with the colour of each.
_WHEEL: Final[tuple[_Colour, ...]] = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
_LIMBS: Final = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0)),
    *((0, 14), (14, 16), (0, 15), (15, 17)),
)
_LIMB_COLOURS: Final = (*_WHEEL[:9], (0, 255, 225), *_WHEEL[10:13], _WHEEL[16], *_WHEEL[14:17])
#: Further out than any image; OpenCV's coordinates end at 2**31.
_FAR: Final = 1e6


def draw_bbox(
    img: NDArray[np.uint8], bboxes: Iterable[Sequence[float]], color: Sequence[int] = (0, 255, 0)
) -> NDArray[np.uint8]:
    """Draw boxes x1, y1, x2, y2 into an image ``(H, W, 3)`` uint8, and return it."""
    for box in bboxes:
        cv2.rectangle(img, _pixel(box[:2]), _pixel(box[2:4]), tuple(color), 2)
    return img


def draw_skeleton(
    img: NDArray[np.uint8],
    keypoints: NDArray[Any],
    scores: NDArray[Any],
    openpose_skeleton: bool = False,
    kpt_thr: float = 0.5,
    radius: int = 2,
    line_width: int = 2,
) -> NDArray[np.uint8]:
    """Draw people, as rtmlib does: into the image itself, or with ``openpose_skeleton`` into a copy of it.

    Args:
        img: ``(H, W, 3)`` uint8, BGR.
        keypoints: ``(N, K, 2)`` x, y in pixels; ``(K, 2)`` for one person. COCO's 17 keypoints, CrowdPose's 14, others
            as points without links.
        scores: ``(N, K)`` or ``(K,)``.
        openpose_skeleton: The keypoints are OpenPose's 18.
        kpt_thr: Keypoints with a lower score are not drawn, nor the links that end in them.
        radius: Of keypoints, in pixels; OpenPose's are always of 4.
        line_width: Of links, in pixels; OpenPose's limbs are ellipses of four times that width.

    Returns:
        The image that was drawn into.

    Raises:
        UsageError: ``openpose_skeleton`` is set, and the keypoints are not 18.
    """
    if not len(keypoints):
        return img
    points = np.asarray(keypoints, np.float64)
    points = points.reshape(-1, *points.shape[-2:])
    shown = (np.reshape(scores, points.shape[:2]) >= kpt_thr) & (np.abs(points) < _FAR).all(axis=-1)
    if not openpose_skeleton:
        for person, visible in zip(points, shown, strict=True):
            _draw_person(img, person, visible, radius, line_width)
        return img
    if points.shape[1] != len(_WHEEL):
        raise UsageError(
            f"OpenPose's skeleton has {len(_WHEEL)} keypoints, and these are {points.shape[1]}.",
            remedy="Make the model with to_openpose=True, or draw with openpose_skeleton=False.",
        )
    img = img.copy()
    for person, visible in zip(points, shown, strict=True):
        _draw_openpose(img, person, visible, line_width)
    return img


def _draw_person(
    img: NDArray[np.uint8], points: NDArray[np.float64], shown: NDArray[np.bool_], radius: int, line_width: int
) -> None:
    skeleton = skeleton_for(len(points))
    sides = [skeleton.side(index) for index in range(len(skeleton))]
    trunk = {index for index, name in enumerate(skeleton.keypoints) if name.endswith(("_shoulder", "_hip"))}
    if len(skeleton) == len(COCO_17):
        sides[:5] = ["centre"] * 5  # the face has one colour
    for index in np.flatnonzero(shown).tolist():
        cv2.circle(img, _pixel(points[index]), int(radius), _COLOURS[sides[index]], -1)
    for first, second in skeleton.edges:
        if shown[first] and shown[second]:
            limb = sides[first] == sides[second] and not {first, second} <= trunk
            colour = _COLOURS[sides[first] if limb else "centre"]
            cv2.line(img, _pixel(points[first]), _pixel(points[second]), colour, thickness=line_width)


def _draw_openpose(
    img: NDArray[np.uint8], points: NDArray[np.float64], shown: NDArray[np.bool_], line_width: int
) -> None:
    inside = shown & (points > 0).all(axis=-1) & (points < [img.shape[1], img.shape[0]]).all(axis=-1)
    for (first, second), colour in zip(_LIMBS, _LIMB_COLOURS, strict=True):
        if inside[first] and inside[second]:
            x, y = points[first] - points[second]
            axes = (int(math.hypot(x, y) / 2), int(line_width * 2))
            centre = _pixel((points[first] + points[second]) / 2)
            angle = int(math.degrees(math.atan2(y, x)))
            cv2.fillConvexPoly(img, np.asarray(cv2.ellipse2Poly(centre, axes, angle, 0, 360, 1)), colour)
    for index in np.flatnonzero(shown).tolist():
        cv2.circle(img, _pixel(points[index]), 4, _WHEEL[index][::-1], -1)


def _pixel(point: Sequence[float] | NDArray[np.float64]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
