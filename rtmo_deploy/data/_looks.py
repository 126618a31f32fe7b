"""Looks: the colours of a made-up person's skin, hair and clothes, and what kind of clothes they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

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

    Attributes:
        skin: Colour of the face.
        skin_shade: Neck and ears.
        nose: Colour of the nose.
        mouth: Colour of the mouth.
        eye: White of the eyes.
        iris: Colour of the eyes.
        hair: Colour of the hair; the skin's where there is none.
        shirt: Colour of the upper half.
        second: Colour of the stripes.
        trousers: Colour of the lower half, skirts too.
        hat: Colour of a hat, or None.
        arms: Left, right: colours of hand, forearm, upper arm; not quite the trunk's, to stand out from it.
        legs: Left, right: colours of shoe, shin, thigh.
        stripes: Number of stripes on the shirt, up to 5.
        skirt: A skirt instead of trousers.
        dress: Upper and lower half of one piece.
        long_hair: Down to the shoulders, over the ears.
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
