"""Figures: an outline in the colours of a look, drawn as a cut-out into a small image of its own.

Every part is one convex polygon in fixed point (1/16 pixel); an integer coordinate is the centre of a pixel. The
fourth channel of a cut-out says which part of the body is on top, which makes silhouettes and visibility exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cv2
import numpy as np

from rtmo_deploy.data.synthetic.outlines import BANDS, CAPSULES, FIXED, ON_HEAD
from rtmo_deploy.data.synthetic.outlines import PELVIS as PELVIS_AT
from rtmo_deploy.data.synthetic.outlines import SKIRT as SKIRT_AT
from rtmo_deploy.data.synthetic.outlines import TRUNK as TRUNK_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rtmo_deploy.data.synthetic.outlines import Plan


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
    (196, 220, 246), (170, 200, 236), (150, 185, 226), (125, 166, 212), (100, 142, 198), (80, 118, 172),
    (62, 92, 140), (48, 70, 108), (38, 52, 82),
)  # fmt: skip
HAIRS: Final = (
    (22, 22, 26), (34, 40, 52), (36, 56, 84), (44, 76, 118), (90, 150, 200), (130, 190, 226), (40, 70, 170),
    (150, 150, 155), (215, 215, 218),
)  # fmt: skip
_USED: Final = 40


class Look(NamedTuple):
    """What a figure wears. Arms and legs are left, right, from the end inwards."""

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


#: The parts of the body that show each keypoint.
_SHOWING: Final = (
    *((HEAD,),) * 5, (TRUNK, LEFT_ARM), (TRUNK, RIGHT_ARM), *((LEFT_ARM,), (RIGHT_ARM,)) * 2,
    (TRUNK, LEFT_LEG), (TRUNK, RIGHT_LEG), *((LEFT_LEG,), (RIGHT_LEG,)) * 2,
)  # fmt: skip
_SHOWN_BY: Final = np.array([[part in shown for part in range(PARTS)] for shown in _SHOWING])
_KEYPOINTS: Final = np.arange(17)


class Cutout(NamedTuple):
    """One figure by itself."""

    patch: NDArray[np.uint8]  #: ``(h, w, 4)``: BGR and the part of the body, 0 where it is not.
    parts: NDArray[np.uint8]  #: ``(h, w)``, the fourth channel.
    keypoints: NDArray[np.float64]  #: ``(17, 2)``, in the patch's pixels.
    pixels: NDArray[np.int64]  #: ``(17, 2)``, the pixels that they are in.
    bare: NDArray[np.bool_]  #: ``(17,)``, whether the part that the keypoint belongs to is on top there.
    known: NDArray[np.bool_]  #: ``(17,)``, whether the keypoint can be told: not eyes at the far side of a head.


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

    def fill(where: slice | NDArray[np.int32], paint: Paint) -> None:
        polygon = polygons[where] if isinstance(where, slice) else where
        cv2.fillConvexPoly(patch, polygon, paint, cv2.LINE_8, FIXED)

    def limbs(
        kind: tuple[tuple[slice, ...], ...], paints: tuple[tuple[Paint, Paint, Paint], ...], far: int, *sides: bool
    ) -> None:
        for side in (far, 1 - far):
            for piece, paint in zip(kind[side], paints[side], strict=True) if sides[side] else ():
                fill(piece, paint)

    limbs(_ARMS, look.arms, plan.far_arm, *plan.arms_behind)
    if look.long_hair and not plan.back:
        fill(_MANE, look.hair)
    limbs(_LEGS, look.legs, plan.far_leg, *(not before for before in plan.legs_before))
    _trunk(fill, look, skirt=look.skirt and True not in plan.legs_before)
    limbs(_LEGS, look.legs, plan.far_leg, *plan.legs_before)
    _head(fill, look, plan)
    if plan.face:
        _face(fill, polygons, look, plan, large=head_px >= _LARGE_HEAD_PX)
    _ears_and_hat(fill, look, plan)
    limbs(_ARMS, look.arms, plan.far_arm, *(not behind for behind in plan.arms_behind))

    parts: Any = cv2.extractChannel(patch, 3)
    pixels = np.rint(keypoints).astype(np.int64)
    bare = _SHOWN_BY[_KEYPOINTS, parts[pixels[:, 1], pixels[:, 0]]]
    bare[:5] &= plan.shown
    known = np.ones(17, bool)
    known[:5] = plan.shown
    if look.long_hair:
        bare[3:5] = False
    return Cutout(patch, parts, keypoints, pixels, bare, known)


def _trunk(fill: Callable[[slice, Paint], None], look: Look, *, skirt: bool) -> None:
    if skirt:
        fill(SKIRT_AT, look.trousers)
    fill(TRUNK_AT, look.shirt)
    for band in BANDS[: look.stripes]:
        fill(band, look.second)
    if not skirt and not look.dress:
        fill(PELVIS_AT, look.trousers)
    fill(_NECK, look.skin_shade)


def _head(fill: Callable[[slice, Paint], None], look: Look, plan: Plan) -> None:
    for side in () if look.long_hair else (0, 1):
        if not plan.shown[3 + side]:
            fill(_EARS[side], look.skin)
    if look.long_hair and plan.back:
        fill(_MANE, look.hair)
    fill(_SKULL, look.hair)


def _face(
    fill: Callable[[slice | NDArray[np.int32], Paint], None],
    polygons: NDArray[np.int32],
    look: Look,
    plan: Plan,
    *,
    large: bool,
) -> None:
    fill(_FACE, look.skin)
    if plan.shown[0]:
        fill(_NOSE, look.nose)
    if plan.mouth:
        fill(_MOUTH, look.mouth)
    for side in (0, 1):
        if not plan.shown[1 + side]:
            continue
        eye = polygons[_EYES[side]]
        if large:
            fill(eye, look.eye)
            eye = (eye + (eye[0] + eye[6]) // 2) // 2
        fill(eye, look.iris)


def _ears_and_hat(fill: Callable[[slice, Paint], None], look: Look, plan: Plan) -> None:
    for side in () if look.long_hair else (0, 1):
        if plan.shown[3 + side]:
            fill(_EARS[side], look.skin_shade)
    if look.hat is not None:
        fill(_HAT, look.hat)
