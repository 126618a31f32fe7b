"""Backgrounds without people: gradients, rooms, landscapes, patterns, noise; and things that stand about in them.

The large forms are made at a quarter of the size and enlarged; things have edges as crisp as those of the figures,
and the colours, rounded ends and sticks of which figures consist, so that none of these says "person" by itself.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np

from rtmo_deploy.data._looks import HAIRS, SKINS, some_colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.data._looks import Colour

#: Fourth channel of a pixel that belongs to nobody.
NOBODY: Final = 255
_SHIFT: Final = 4
_REDUCED: Final = 4
_POOL: Final = 2048
"""Things that there are; each is used in pictures of any size and at any place."""


def _templates() -> NDArray[np.float64]:
    """Outlines within -1..1: ellipse, rectangle, triangle, lozenge; ``(4, 12, 2)``."""
    angle = np.arange(12) * (math.pi / 6) + math.pi / 12
    circle = np.stack((np.cos(angle), np.sin(angle)), axis=-1)
    square = circle / np.abs(circle).max(1, keepdims=True)
    triangle = np.repeat([(0.0, -1.0), (1.0, 1.0), (-1.0, 1.0)], 4, axis=0)
    lozenge = circle / np.abs(circle).sum(1, keepdims=True)
    return np.stack((circle, square, triangle, lozenge))


_OUTLINES: Final = _templates()
#: Which outline a thing has, twelve equally likely ones: mostly boxes, balls and sticks.
_KINDS: Final = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 2, 3])


def draw_background(rng: np.random.Generator, height: int, width: int, clutter: float) -> NDArray[np.uint8]:
    """A picture without people.

    Args:
        rng: Source of randomness.
        height: Pixels.
        width: Pixels.
        clutter: Density of things, 1 for the usual.

    Returns:
        ``(height, width, 4)`` uint8: BGR, and ``NOBODY``.
    """
    u: list[float] = rng.random(24).tolist()
    small = _ground(u, max(height // _REDUCED, 4), max(width // _REDUCED, 4))
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    canvas: Any = cv2.cvtColor(large, cv2.COLOR_BGR2BGRA)  # its fourth channel is 255
    if u[12] < 0.85:
        count = int(clutter * 18 * u[13] ** 1.5)
        for outline, colour in sample_things(rng, count, height, width):
            cv2.fillConvexPoly(canvas, outline, (*colour, NOBODY), cv2.LINE_8, _SHIFT)
    if u[14] < 0.3 * clutter:
        _lines(canvas, u, height, width)
    return cast("NDArray[np.uint8]", canvas)


def _ground(u: list[float], height: int, width: int) -> NDArray[np.uint8]:
    """The large forms, ``(height, width, 3)`` uint8."""
    first = np.array(some_colour(u[0] * 0.9 + 0.1, u[1], u[2], u[3]), np.int16)
    second = np.array(some_colour(u[4] * 0.9 + 0.1, u[5], u[6], u[7]), np.int16)
    kind = u[8]
    if kind < 0.3:  # a gradient, in any direction
        mix = _ramp(u, height, width)
    elif kind < 0.6:  # a wall and a floor, or sky and ground
        mix = _horizon(u, height, width)
    elif kind < 0.75:  # stripes or checks
        mix = _pattern(u, height, width)
    elif kind < 0.9:
        mix = _value_noise(u[20], u[21], 0.6 * u[9], height, width)[..., :1] >> 1
    else:
        mix = np.zeros((height, 1, 1), np.int16)
    picture = first + ((second - first) * mix >> 7)
    strength = int(130 * u[10] ** 2)
    if strength > 4:
        noise = _value_noise(u[22], u[23], u[11], height, width)
        noise = noise if u[15] < 0.6 else noise[..., :1]
        picture = picture + ((noise - 128) * strength >> 7)
    grounds = np.empty((height, width, 3), np.uint8)
    grounds[:] = picture.clip(0, 255)
    return grounds


def _ramp(u: list[float], height: int, width: int) -> NDArray[np.int16]:
    """0..128 across the picture, ``(height, width, 1)``."""
    y = np.arange(height) * int(128 * u[9]) // height
    x = np.arange(width) * int(128 * u[16]) // width
    mix = (y.astype(np.int16)[:, None] + x.astype(np.int16)) // 2
    return (128 - mix if u[17] < 0.5 else mix)[..., None]


def _horizon(u: list[float], height: int, width: int) -> NDArray[np.int16]:  # noqa: ARG001 - the same in every column
    """One colour above, the other below, each getting darker or lighter; ``(height, 1, 1)``, 0..128."""
    edge = max(1, int(height * (0.25 + 0.55 * u[9])))
    slope = int(60 * u[16])
    column = np.empty(height, np.int16)
    column[:edge] = np.arange(edge) * slope // edge
    column[edge:] = 128 - np.arange(height - edge) * slope // max(height - edge, 1)
    return column[:, None, None]


def _pattern(u: list[float], height: int, width: int) -> NDArray[np.int16]:
    """Stripes in any direction, or checks; ``(height, width, 1)``, 0 or up to 128."""
    contrast = 32 + int(96 * u[9])
    period = 3 + int(height * 0.2 * u[16])
    turn = int(17 * u[17]) - 8
    across, down = (16, turn) if u[18] < 0.5 else (turn, 16)
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    cells = (across * x + down * y) // (16 * period)
    if u[19] < 0.4:
        cells = cells + (across * y - down * x) // (16 * period)
    return ((cells & 1) * contrast).astype(np.int16)[..., None]


_FIELD: Final = 256
_KNOTS: Final = (8, 14, 24, 44, 80, 150)


@lru_cache(maxsize=len(_KNOTS))
def _field(knots: int) -> NDArray[np.int16]:
    """Smooth noise, 0..255, with so many knots in either direction; ``(256, 256, 3)``."""
    rng = np.random.Generator(np.random.PCG64([11, knots]))
    coarse = rng.integers(0, 256, (knots, knots, 3), dtype=np.uint8)
    field = np.asarray(cv2.resize(coarse, (_FIELD, _FIELD), interpolation=cv2.INTER_LINEAR_EXACT), np.int16)
    field.setflags(write=False)
    return field


def _value_noise(x: float, y: float, fineness: float, height: int, width: int) -> NDArray[np.int16]:
    """A window of smooth noise, ``(height, width, 3)``, 0..255; where and how fine is given in 0..1."""
    field = _field(_KNOTS[int(fineness * len(_KNOTS))])
    tall, wide = min(height, _FIELD), min(width, _FIELD)
    top, left = int(y * (_FIELD - tall + 1)), int(x * (_FIELD - wide + 1))
    window = field[top : top + tall, left : left + wide]
    if (tall, wide) == (height, width):
        return window
    large = cv2.resize(window.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(large, np.int16)


@lru_cache(maxsize=1)
def _things() -> tuple[NDArray[np.float32], list[Colour]]:
    """Boxes, balls, poles, sticks, plates: outlines ``(POOL, 12, 2)``, in shares of the picture's shorter side."""
    u = np.random.Generator(np.random.PCG64([13, 0])).random((_POOL, 12))
    size = 0.015 + 0.22 * u[:, 3] ** 3
    long = u[:, 4] < 0.4
    aspect = np.where(long, 0.06 + 0.2 * u[:, 5], 0.35 + 0.65 * u[:, 5])
    length = np.where(long, 1.5 * size + 0.08, size)
    upright = np.where(u[:, 7] < 0.7, 0.5 * math.pi, 0.0)
    angle = np.where(u[:, 6] < 0.45, upright, 2 * math.pi * u[:, 7])
    outline = _OUTLINES[_KINDS[(u[:, 8] * len(_KINDS)).astype(np.int64)]]
    shape = outline * np.stack((length, length * aspect), axis=-1)[:, None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = shape[..., 0], shape[..., 1]
    turned = np.stack((x * cos - y * sin, x * sin + y * cos), axis=-1)
    colours = np.random.Generator(np.random.PCG64([13, 1])).random((_POOL, 5))
    return turned.astype(np.float32), [_thing_colour(row) for row in colours.tolist()]


def _thing_colour(u: list[float]) -> Colour:
    """Mostly any colour, sometimes that of skin or hair; takes five numbers in 0..1."""
    if u[0] < 0.15:
        return SKINS[int(u[1] * len(SKINS))]
    if u[0] < 0.25:
        return HAIRS[int(u[1] * len(HAIRS))]
    return some_colour(u[1], u[2], u[3], u[4])


def sample_things(
    rng: np.random.Generator, count: int, height: int, width: int
) -> list[tuple[NDArray[np.int32], Colour]]:
    """Things to stand about, alone or in groups of four: convex outlines ``(12, 2)`` in 1/16 pixel, and colours."""
    outlines, colours = _things()
    which = rng.integers(0, _POOL, count)
    where = rng.random((count + 1, 2))
    if where[count, 0] < 0.5:  # the picture's things stand in groups
        where = where[np.arange(count) // 4] + 0.14 * (where[:count] - 0.5)
    place = where[:count] * (width, height)
    pixels = outlines[which] * min(height, width) + place[:, None]
    shapes = np.rint(pixels * (1 << _SHIFT)).astype(np.int32)
    return [(shape, colours[index]) for shape, index in zip(shapes, which.tolist(), strict=True)]


def _lines(canvas: NDArray[np.uint8], u: list[float], height: int, width: int) -> None:
    """A fence, cables, or a grid: parallel lines through the whole picture."""
    colour = (*some_colour(u[18], u[19], u[20], u[21]), NOBODY)
    thickness = 1 + int(0.02 * height * u[22])
    step = max(thickness + 3, int(0.2 * height * u[23]) + 6)
    lean = int((u[17] - 0.5) * width)
    if u[16] < 0.5:
        for y in range(step // 2, height, step):
            cv2.line(canvas, (0, y), (width, y + lean // 4), colour, thickness)
    else:
        for x in range(step // 2, width, step):
            cv2.line(canvas, (x, 0), (x + lean // 4, height), colour, thickness)
