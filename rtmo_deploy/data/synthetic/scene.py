"""A scene: cut-outs laid on a canvas one over the other, with exact account of who is still visible."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np

from rtmo_deploy.data.sample import People
from rtmo_deploy.data.synthetic.figures import HAIRS, SKINS, some_colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.data.synthetic.figures import Colour, Cutout


#: Fourth channel of a pixel that belongs to nobody.
NOBODY: Final = 255
_SHIFT: Final = 4
_REDUCED: Final = 4
_POOL: Final = 2048
"""Things that there are; each is used in images of any size and at any place."""


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
    """An image without people, ``(height, width, 4)`` uint8: BGR, and ``NOBODY``."""
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
        mix = _horizon(u, height)
    elif kind < 0.75:  # stripes or checks
        mix = _pattern(u, height, width)
    elif kind < 0.9:
        mix = _value_noise(u[20], u[21], 0.6 * u[9], height, width)[..., :1] >> 1
    else:
        mix = np.zeros((height, 1, 1), np.int16)
    ground = first + ((second - first) * mix >> 7)
    strength = int(130 * u[10] ** 2)
    if strength > 4:
        noise = _value_noise(u[22], u[23], u[11], height, width)
        noise = noise if u[15] < 0.6 else noise[..., :1]
        ground = ground + ((noise - 128) * strength >> 7)
    full = np.empty((height, width, 3), np.uint8)
    full[:] = ground.clip(0, 255)
    return full


def _ramp(u: list[float], height: int, width: int) -> NDArray[np.int16]:
    """0..128 across the image, ``(height, width, 1)``."""
    y = np.arange(height) * int(128 * u[9]) // height
    x = np.arange(width) * int(128 * u[16]) // width
    mix = (y.astype(np.int16)[:, None] + x.astype(np.int16)) // 2
    return (128 - mix if u[17] < 0.5 else mix)[..., None]


def _horizon(u: list[float], height: int) -> NDArray[np.int16]:
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
    """Boxes, balls, poles, sticks, plates: outlines ``(POOL, 12, 2)``, in shares of the image's shorter side."""
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
    if u[0] >= 0.25:
        return some_colour(*u[1:])
    colours = SKINS if u[0] < 0.15 else HAIRS
    return colours[int(u[1] * len(colours))]


def sample_things(
    rng: np.random.Generator, count: int, height: int, width: int
) -> list[tuple[NDArray[np.int32], Colour]]:
    """Things to stand about, alone or in groups of four: convex outlines ``(12, 2)`` in 1/16 pixel, and colours."""
    outlines, colours = _things()
    which = rng.integers(0, _POOL, count)
    where = rng.random((count + 1, 2))
    if where[count, 0] < 0.5:  # the image's things stand in groups
        where = where[np.arange(count) // 4] + 0.14 * (where[:count] - 0.5)
    place = where[:count] * (width, height)
    pixels = outlines[which] * min(height, width) + place[:, None]
    shapes = np.rint(pixels * (1 << _SHIFT)).astype(np.int32)
    return [(shape, colours[index]) for shape, index in zip(shapes, which.tolist(), strict=True)]


def _lines(canvas: NDArray[np.uint8], u: list[float], height: int, width: int) -> None:
    """A fence, cables, or a grid: parallel lines through the whole image."""
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


#: Their numbers, and NOBODY, share one byte.
MOST_PEOPLE: Final = 60
#: What must remain of a person: this share of the whole figure, so many keypoints, a box of so many pixels.
_LEAST_SHARE: Final = 0.45
_LEAST_KEYPOINTS: Final = 4
_LEAST_SIDES: Final = (3, 8)
#: By which keypoints, itself included, a place can be told: the face by any part of it, a limb's joint by the next
#: ones. Shoulders and hips always can.
_TOLD_BY: Final = (
    *((0, 1, 2, 3, 4),) * 5, (), (), (5, 7, 9), (6, 8, 10), (7, 9), (8, 10),
    (), (), (11, 13, 15), (12, 14, 16), (13, 15), (14, 16),
)  # fmt: skip
_TELLS: Final = np.array([[other in told for other in range(17)] for told in _TOLD_BY])
_ALWAYS: Final = ~_TELLS.any(1)
#: Its stub knows no scalars.
_COMPARE: Final[Any] = cv2.compare


class Scene:
    """A canvas, ``(h, w, 4)`` uint8: BGR and the number of the person who is on top, or ``NOBODY``.

    Every person stays visible enough to be annotated, unless they ``hide``.
    """

    def __init__(self, canvas: NDArray[np.uint8], *, hide: bool = False) -> None:
        self.canvas: Any = canvas
        self._least_share, self._least_keypoints, self._least_sides = (
            (0.0, 0, (0, 0)) if hide else (_LEAST_SHARE, _LEAST_KEYPOINTS, _LEAST_SIDES)
        )
        self.height, self.width = canvas.shape[:2]
        self.boxes: list[tuple[int, int, int, int]] = []
        """x, y, width, height of each person."""
        self._areas: list[int] = []
        self._spare: list[int] = []
        """How many more pixels may be covered."""
        self._keypoints = np.zeros((MOST_PEOPLE, 17, 2))
        self._pixels = np.zeros((MOST_PEOPLE, 17, 2), np.int64)
        self._visible = np.zeros((MOST_PEOPLE, 17), bool)
        self._inside = np.ones((MOST_PEOPLE, 17), bool)

    def add_person(self, cutout: Cutout, left: int, top: int) -> bool:
        """Lay a figure over what is there; False, and nothing, if too little of somebody would remain visible."""
        cut = self._cut(cutout.patch, cutout.parts, left, top)
        if cut is None:
            return False
        patch, mask, where = cut
        whole, area = cv2.countNonZero(cutout.parts), cv2.countNonZero(mask)
        if area < self._least_share * whole:
            return False
        corner = np.array((left, top))
        pixels = cutout.pixels + corner
        inside = cutout.known & ((pixels >= 0) & (pixels < (self.width, self.height))).all(1)
        visible = cutout.bare & inside
        x, y, w, h = cv2.boundingRect(mask)
        least, most = self._least_sides
        if min(w, h) < least or max(w, h) < most or np.count_nonzero(visible) < self._least_keypoints:
            return False
        number, box = len(self.boxes), (x + where[2], y + where[0], w, h)
        if not self._lay(patch, mask, where, box, number):
            return False
        self.boxes.append(box)
        self._areas.append(area)
        self._spare.append(int(area - self._least_share * whole))
        self._keypoints[number] = cutout.keypoints + corner
        self._pixels[number] = pixels
        self._visible[number] = visible
        self._inside[number] = inside
        return True

    def add_thing(self, patch: NDArray[np.uint8], mask: NDArray[np.uint8], left: int, top: int) -> bool:
        """Lay an object over what is there, unless too little of somebody would remain visible."""
        cut = self._cut(patch, mask, left, top)
        if cut is None:
            return False
        patch, mask, where = cut
        return self._lay(patch, mask, where, (where[2], where[0], mask.shape[1], mask.shape[0]), NOBODY)

    def _cut(
        self, patch: NDArray[np.uint8], mask: NDArray[np.uint8], left: int, top: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int, int, int]] | None:
        """The part of a patch and its mask that lies on the canvas, and its rows and columns there."""
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + mask.shape[0], self.height), min(left + mask.shape[1], self.width)
        if y0 >= y1 or x0 >= x1:
            return None
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        return patch[part], np.ascontiguousarray(mask[part]), (y0, y1, x0, x1)

    def _lay(
        self,
        patch: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        where: tuple[int, int, int, int],
        box: tuple[int, int, int, int],
        number: int,
    ) -> bool:
        """Copy a patch onto the canvas where its mask is, and take account of whom it covers; or do nothing."""
        y0, y1, x0, x1 = where
        under = self.canvas[y0:y1, x0:x1]
        left, top, w, h = box
        taken: list[tuple[int, int, NDArray[np.bool_]]] = []
        ids: Any = None
        for other, (x, y, across, down) in enumerate(self.boxes):
            if x >= left + w or left >= x + across or y >= top + h or top >= y + down:
                continue
            if ids is None:
                ids = cv2.extractChannel(under, 3)
            lost = cv2.countNonZero(cv2.bitwise_and(_COMPARE(ids, other, cv2.CMP_EQ), mask))
            if not lost:
                continue
            if lost > self._spare[other]:
                return False
            columns, rows = self._pixels[other].T
            hit = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
            hit[hit] = mask[rows[hit] - y0, columns[hit] - x0] > 0
            still = self._visible[other] & ~hit
            if np.count_nonzero(still) < self._least_keypoints:
                return False
            taken.append((other, lost, still))
        for other, lost, still in taken:
            self._spare[other] -= lost
            self._visible[other] = still
        patch[..., 3] = number
        cv2.copyTo(patch, mask, under)
        return True

    def visible_shares(self) -> NDArray[np.float64]:
        """How much of each person's silhouette within the image is on top, 0 to 1, ``(N,)``."""
        pixels = np.bincount(self.canvas[..., 3].ravel(), minlength=NOBODY + 1)[: len(self.boxes)]
        return np.asarray(pixels / np.maximum(self._areas, 1))

    def people(self) -> People:
        """Everybody on the canvas, farthest first."""
        count = len(self.boxes)
        if not count:
            return People.empty(17)
        visible = self._visible[:count]
        inside = self._inside[:count] & (_ALWAYS | (visible[:, None] & _TELLS).any(2))
        boxes = np.array(self.boxes, np.float32)
        boxes[:, 2:] += boxes[:, :2]
        return People(
            boxes,
            np.where(inside[..., None], np.round(self._keypoints[:count], 2), 0),
            inside.astype(np.float32) + visible,
            np.array(self._areas, np.float32),
        )
