"""Figures: an outline of `_outlines` in the colours of `_looks`, drawn as a cut-out into a small picture of its own.

Every part is one convex polygon in fixed point (1/16 pixel); an integer coordinate is the centre of a pixel. The
fourth channel of a cut-out says which part of the body is on top, which makes silhouettes and visibility exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.data._looks import HEAD, LEFT_ARM, LEFT_LEG, PARTS, RIGHT_ARM, RIGHT_LEG, TRUNK
from rtmo_deploy.data._outlines import BANDS, CAPSULES, FIXED, ON_HEAD
from rtmo_deploy.data._outlines import PELVIS as PELVIS_AT
from rtmo_deploy.data._outlines import SKIRT as SKIRT_AT
from rtmo_deploy.data._outlines import TRUNK as TRUNK_AT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.data._looks import Look
    from rtmo_deploy.data._outlines import Plan

_FILL: Final = cv2.fillConvexPoly
_LINE: Final = cv2.LINE_8

#: Of left and right: what an arm and a leg consist of, far end first.
_ARMS: Final = tuple((CAPSULES[10 + side], CAPSULES[2 + side], CAPSULES[side]) for side in (0, 1))
_LEGS: Final = tuple((CAPSULES[8 + side], CAPSULES[6 + side], CAPSULES[4 + side]) for side in (0, 1))
_NECK: Final = CAPSULES[12]
_SKULL, _FACE, *_FEATURES, _HAT_WHOLE, _MANE = ON_HEAD
_EARS, _EYES, _NOSE, _MOUTH = _FEATURES[0:2], _FEATURES[2:4], _FEATURES[4], _FEATURES[5]
_HAT: Final = slice(_HAT_WHOLE.start + 6, _HAT_WHOLE.stop)
"""The upper half of an ellipse: y points down."""
#: Smaller eyes have no white.
_LARGE_HEAD_PX: Final = 10.0


def _shown_by() -> NDArray[np.bool_]:
    """Whether a part of the body shows a keypoint, ``(17, PARTS)``."""
    table = np.zeros((17, PARTS), bool)
    table[:5, HEAD] = True
    table[[5, 6, 11, 12], TRUNK] = True
    for keypoints, part in (
        ([5, 7, 9], LEFT_ARM),
        ([6, 8, 10], RIGHT_ARM),
        ([11, 13, 15], LEFT_LEG),
        ([12, 14, 16], RIGHT_LEG),
    ):
        table[keypoints, part] = True
    return table


_SHOWN_BY: Final = _shown_by()
_KEYPOINTS: Final = np.arange(17)


@dataclass(frozen=True, eq=False, slots=True)
class Cutout:
    """One figure by itself.

    Attributes:
        patch: ``(h, w, 4)`` uint8: BGR and the part of the body, 0 where it is not.
        parts: ``(h, w)`` uint8, the fourth channel.
        keypoints: ``(17, 2)`` float64, in the patch's pixels.
        pixels: ``(17, 2)`` int64, the pixels that they are in.
        bare: ``(17,)`` bool, whether the part that the keypoint belongs to is on top there.
        known: ``(17,)`` bool, whether the keypoint can be told at all: not eyes at the far side of a head.
    """

    patch: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    keypoints: NDArray[np.float64]
    pixels: NDArray[np.int64]
    bare: NDArray[np.bool_]
    known: NDArray[np.bool_]


def draw_figure(
    polygons: NDArray[np.int32],
    keypoints: NDArray[np.float64],
    size: list[int],
    plan: Plan,
    look: Look,
    head_px: float,
) -> Cutout:
    """Draw one figure: far limbs, trunk, near limbs; the head where it belongs.

    Args:
        polygons: ``(V, 2)``, as ``Outlines.place`` gives them.
        keypoints: ``(17, 2)`` pixels.
        size: Height and width of the patch.
        plan: In which order.
        look: In which colours.
        head_px: Half a head's height in pixels.
    """
    patch: Any = np.zeros((*size, 4), np.uint8)
    far, far_leg = plan.far_arm, plan.far_leg
    for side in (far, 1 - far):
        if plan.arms_behind[side]:
            _limb(patch, polygons, _ARMS[side], look.arms[side])
    if look.long_hair and not plan.back:
        _FILL(patch, polygons[_MANE], look.hair, _LINE, FIXED)
    for side in (far_leg, 1 - far_leg):
        if not plan.legs_before[side]:
            _limb(patch, polygons, _LEGS[side], look.legs[side])
    _trunk(patch, polygons, look, skirt=look.skirt and True not in plan.legs_before)
    for side in (far_leg, 1 - far_leg):
        if plan.legs_before[side]:
            _limb(patch, polygons, _LEGS[side], look.legs[side])
    _head(patch, polygons, look, plan, large=head_px >= _LARGE_HEAD_PX)
    for side in (far, 1 - far):
        if not plan.arms_behind[side]:
            _limb(patch, polygons, _ARMS[side], look.arms[side])

    parts: Any = cv2.extractChannel(patch, 3)
    pixels = np.rint(keypoints).astype(np.int64)
    bare = _SHOWN_BY[_KEYPOINTS, parts[pixels[:, 1], pixels[:, 0]]]
    bare[:5] &= plan.shown
    known = np.ones(17, bool)
    known[:5] = plan.shown
    if look.long_hair:
        bare[3:5] = False
    return Cutout(patch, parts, keypoints, pixels, bare, known)


def _limb(
    patch: Any, polygons: NDArray[np.int32], pieces: tuple[slice, ...], paints: tuple[tuple[int, int, int, int], ...]
) -> None:
    for piece, paint in zip(pieces, paints, strict=True):
        _FILL(patch, polygons[piece], paint, _LINE, FIXED)


def _trunk(patch: Any, polygons: NDArray[np.int32], look: Look, *, skirt: bool) -> None:
    if skirt:
        _FILL(patch, polygons[SKIRT_AT], look.trousers, _LINE, FIXED)
    _FILL(patch, polygons[TRUNK_AT], look.shirt, _LINE, FIXED)
    for band in BANDS[: look.stripes]:
        _FILL(patch, polygons[band], look.second, _LINE, FIXED)
    if not skirt and not look.dress:
        _FILL(patch, polygons[PELVIS_AT], look.trousers, _LINE, FIXED)
    _FILL(patch, polygons[_NECK], look.skin_shade, _LINE, FIXED)


def _head(patch: Any, polygons: NDArray[np.int32], look: Look, plan: Plan, *, large: bool) -> None:
    ears = () if look.long_hair else (0, 1)
    for side in ears:
        if not plan.shown[3 + side]:
            _FILL(patch, polygons[_EARS[side]], look.skin, _LINE, FIXED)
    if look.long_hair and plan.back:
        _FILL(patch, polygons[_MANE], look.hair, _LINE, FIXED)
    _FILL(patch, polygons[_SKULL], look.hair, _LINE, FIXED)
    if plan.face:
        _FILL(patch, polygons[_FACE], look.skin, _LINE, FIXED)
        _face(patch, polygons, look, plan, large=large)
    for side in ears:
        if plan.shown[3 + side]:
            _FILL(patch, polygons[_EARS[side]], look.skin_shade, _LINE, FIXED)
    if look.hat is not None:
        _FILL(patch, polygons[_HAT], look.hat, _LINE, FIXED)


def _face(patch: Any, polygons: NDArray[np.int32], look: Look, plan: Plan, *, large: bool) -> None:
    if plan.shown[0]:
        _FILL(patch, polygons[_NOSE], look.nose, _LINE, FIXED)
    if plan.mouth:
        _FILL(patch, polygons[_MOUTH], look.mouth, _LINE, FIXED)
    for side in (0, 1):
        if not plan.shown[1 + side]:
            continue
        eye = polygons[_EYES[side]]
        if large:
            _FILL(patch, eye, look.eye, _LINE, FIXED)
            eye = (eye + (eye[0] + eye[6]) // 2) // 2
        _FILL(patch, eye, look.iris, _LINE, FIXED)
