"""Figures: an outline of `_outlines` in the colours of `_looks`, drawn as a cut-out into a small image of its own.

Every part is one convex polygon in fixed point (1/16 pixel); an integer coordinate is the centre of a pixel. The
fourth channel of a cut-out says which part of the body is on top, which makes silhouettes and visibility exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.data._outlines import BANDS, CAPSULES, FIXED, ON_HEAD
from rtmo_deploy.data._outlines import PELVIS as PELVIS_AT
from rtmo_deploy.data._outlines import SKIRT as SKIRT_AT
from rtmo_deploy.data._outlines import TRUNK as TRUNK_AT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.data._outlines import Plan


#: The parts of a body, as they stand in the fourth channel of a figure that is drawn; 0 is none.
TRUNK, HEAD, HAIR, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG = range(1, 8)
PARTS: Final = 8

POOL: Final = 2048
"""Looks of one seed."""

Colour = tuple[int, int, int]
Paint = tuple[int, int, int, int]
"""A colour and a part of the body."""

#: BGR.
SKINS: Final = (
    (196, 220, 246),
    (170, 200, 236),
    (150, 185, 226),
    (125, 166, 212),
    (100, 142, 198),
    (80, 118, 172),
    (62, 92, 140),
    (48, 70, 108),
    (38, 52, 82),
)
HAIRS: Final = (
    (22, 22, 26),
    (34, 40, 52),
    (36, 56, 84),
    (44, 76, 118),
    (90, 150, 200),
    (130, 190, 226),
    (40, 70, 170),
    (150, 150, 155),
    (215, 215, 218),
)
_USED: Final = 40


@dataclass(frozen=True, slots=True)
class Look:
    """What a figure wears; colours are BGR and the part of the body.

    Arms and legs are left, right, from the end inwards.
    """

    skin: Paint
    skin_shade: Paint
    nose: Paint
    mouth: Paint
    eye: Paint
    iris: Paint
    hair: Paint
    shirt: Paint
    second: Paint
    trousers: Paint
    hat: Paint | None
    arms: tuple[tuple[Paint, Paint, Paint], ...]
    legs: tuple[tuple[Paint, Paint, Paint], ...]
    stripes: int
    skirt: bool
    dress: bool
    long_hair: bool


@lru_cache(maxsize=4)
def looks_of_seed(seed: int) -> tuple[Look, ...]:
    """Draw the looks of a seed, ``POOL`` of them; the last ones are kept."""
    rng = np.random.Generator(np.random.PCG64([seed, 0, 2]))
    return tuple(_look(row) for row in rng.random((POOL, _USED)).tolist())


def _look(u: list[float]) -> Look:
    skin = _shade(SKINS[int(u[0] * len(SKINS))], int(88 + 22 * u[1]))
    bald = u[2] < 0.1
    hair = skin if bald else _shade(HAIRS[int(u[3] * len(HAIRS))], int(75 + 60 * u[4]))
    shirt = some_colour(u[5], u[6], u[7], u[8])
    second = some_colour(u[9], u[10], u[11], u[12])
    dress, skirt = u[13] < 0.08, u[13] < 0.22
    trousers = shirt if dress else some_colour(u[14], u[15], u[16], u[17])
    shade = int(74 + 16 * u[18]) if u[19] < 0.65 else int(112 + 20 * u[18])
    shades = (shade, shade + int(7 * u[38]) - 10 * (u[39] < 0.5))
    sleeves, hems = int(3 * u[34]), 0 if skirt else (1 if u[35] < 0.3 else 2)
    hand = second if u[37] < 0.08 else skin
    shoe = some_colour(u[23] * 0.5, u[24] * 0.6, u[25], u[26])
    return Look(
        skin=(*skin, HEAD),
        skin_shade=(*_shade(skin, 84), HEAD),
        nose=(*_shade(skin, 76), HEAD),
        mouth=(70 + int(30 * u[20]), 60, 150 + int(50 * u[21]), HEAD),
        eye=(235, 240, 240, HEAD),
        iris=(30, 24, 20, HEAD) if u[22] < 0.7 else (110, 70, 40, HEAD),
        hair=(*hair, HEAD if bald else HAIR),
        shirt=(*shirt, TRUNK),
        second=(*second, TRUNK),
        trousers=(*trousers, TRUNK),
        hat=(*some_colour(u[28], u[29], u[30], u[31]), HAIR) if u[27] < 0.18 else None,
        arms=_limbs(shades, LEFT_ARM, hand, shirt if sleeves > 1 else skin, shirt if sleeves else skin),
        legs=_limbs(shades, LEFT_LEG, shoe, trousers if hems > 1 else skin, trousers if hems else skin),
        stripes=int(2 + 4 * u[33]) if u[32] < 0.25 else 0,
        skirt=skirt,
        dress=dress,
        long_hair=not bald and u[36] < 0.3,
    )


def _limbs(
    shades: tuple[int, int], left: int, end: Colour, lower: Colour, upper: Colour
) -> tuple[tuple[Paint, Paint, Paint], ...]:
    return tuple(
        ((*end, part), (*_shade(lower, shade - 4), part), (*_shade(upper, shade), part))
        for part, shade in ((left, shades[0]), (left + 1, shades[1]))
    )


def _shade(colour: Colour, percent: int) -> Colour:
    blue, green, red = (min(255, channel * percent // 100) for channel in colour)
    return (blue, green, red)


def some_colour(kind: float, blue: float, green: float, red: float) -> Colour:
    """A colour of clothes and things; the arguments are uniform in 0..1."""
    if kind < 0.2:  # grey, from black to white
        level = int(25 + 215 * blue)
        return (level, level, level)
    if kind < 0.6:  # strong: one channel low, one high
        a, b, c = int(20 + 60 * blue), int(150 + 100 * green), int(30 + 200 * red)
        return ((a, b, c), (b, c, a), (c, a, b), (a, c, b), (b, a, c), (c, b, a))[min(int((kind - 0.2) * 15), 5)]
    strength = 220 if kind < 0.8 else 70  # or any, or any with little of it
    base = 20 + int((220 - strength) * (kind - 0.8) * 5) if kind >= 0.8 else 20
    return (base + int(strength * blue), base + int(strength * green), base + int(strength * red))


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
    """Draw one figure into a patch of ``size``.

    Far limbs first, then trunk and near limbs; the head where it belongs.
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
