"""Outlines: bodies as convex polygons, made ahead in one go because one by one it would take longer.

An outline is in standing heights, around the middle of the hips; all of a body's polygons lie in one array of
points, so that putting a body into an image is one multiplication.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from rtmo_deploy.data.synthetic.bodies import NECK, POINTS, sample_bodies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from rtmo_deploy.data.synthetic.bodies import Bodies

#: Bodies of one seed; each is used at any size, a little slimmer or stouter, and turned a little.
POOL: Final = 6144
_CHUNK: Final = 1024

FIXED: Final = 4
"""Binary digits after the point of the coordinates that are drawn."""

_ONE: Final = 1 << FIXED

_HEAD_AT, _HAND, _TOE = POINTS["head"], POINTS["left_hand"], POINTS["left_toe"]
#: Capsules: from point, to point, radius there and there. Left ones, then the right one of each.
_LIMBS: Final = (
    (5, 7, 0.034, 0.028), (6, 8, 0.034, 0.028), (7, 9, 0.027, 0.019), (8, 10, 0.027, 0.019),
    (11, 13, 0.05, 0.037), (12, 14, 0.05, 0.037), (13, 15, 0.036, 0.023), (14, 16, 0.036, 0.023),
    (15, _TOE, 0.026, 0.02), (16, _TOE + 1, 0.026, 0.02), (9, _HAND, 0.021, 0.021), (10, _HAND + 1, 0.021, 0.021),
    (NECK, _HEAD_AT, 0.03, 0.027),
)  # fmt: skip
_FROM, _TO = (np.array([row[i] for row in _LIMBS]) for i in (0, 1))
_LIMB_RADII: Final = np.array([row[2:] for row in _LIMBS])

#: Ellipses that the trunk consists of: around a point, radii across and along.
_ROUND: Final = (
    (5, 0.04, 0.036), (6, 0.04, 0.036), (11, 0.05, 0.05), (12, 0.05, 0.05), (POINTS["belly"], 0.08, 0.07),
)  # fmt: skip
#: Ellipses on the head: around a point, radii in half head heights: skull, face, ears, eyes, nose, mouth, hat, mane.
_ON_HEAD: Final = (
    (_HEAD_AT, 0.86, 1.02), (POINTS["face"], 0.74, 0.86), (3, 0.17, 0.24), (4, 0.17, 0.24), (1, 0.14, 0.12),
    (2, 0.14, 0.12), (0, 0.13, 0.17), (POINTS["mouth"], 0.26, 0.07), (POINTS["hat"], 0.96, 0.86),
    (_HEAD_AT, 1.05, 1.25),
)  # fmt: skip
_ROUND_AT, _HEAD_POINTS = (np.array([row[0] for row in table]) for table in (_ROUND, _ON_HEAD))
_ROUND_RADII, _HEAD_RADII = (np.array([row[1:] for row in table]) for table in (_ROUND, _ON_HEAD))

_HALF: Final = np.linspace(-math.pi / 2, math.pi / 2, 5)
_CAP: Final = np.stack((np.cos(_HALF), np.sin(_HALF)), axis=-1)
_TURN: Final = np.arange(12) * (math.pi / 6)
_CIRCLE: Final = np.stack((np.cos(_TURN), np.sin(_TURN)), axis=-1)
_AROUND: Final = np.arange(16) * (math.pi / 8) + 0.1
_DIRECTIONS: Final = np.stack((np.cos(_AROUND), np.sin(_AROUND)))
_BAND_EDGES: Final = np.array([[band + 0.3, band + 0.75] for band in range(5)]) / 5


def _slices(start: int, count: int, points: int) -> tuple[slice, ...]:
    return tuple(slice(start + i * points, start + (i + 1) * points) for i in range(count))


#: Where in an outline each polygon is, and the keypoints.
CAPSULES: Final = _slices(0, len(_LIMBS), 10)
ON_HEAD: Final = _slices(CAPSULES[-1].stop, len(_ON_HEAD), 12)
TRUNK, PELVIS, SKIRT = _slices(ON_HEAD[-1].stop, 3, 16)
BANDS: Final = _slices(SKIRT.stop, 5, 4)
JOINTS: Final = slice(BANDS[-1].stop, BANDS[-1].stop + 17)


class Plan(NamedTuple):
    """In which order a body is drawn, and what of its head is seen; sides are 0 for left, 1 for right."""

    far_arm: int
    far_leg: int
    arms_behind: tuple[bool, bool]
    legs_before: tuple[bool, bool]
    shown: tuple[bool, bool, bool, bool, bool]
    face: bool
    mouth: bool
    back: bool


class Outlines(NamedTuple):
    """The bodies of one seed."""

    x: NDArray[np.float32]  #: ``(POOL, V)``, to the right, in standing heights.
    y: NDArray[np.float32]  #: ``(POOL, V)``, down.
    head: NDArray[np.float64]  #: ``(POOL,)``, half a head's height.
    plans: list[Plan]

    @classmethod
    @lru_cache(maxsize=4)
    def of_seed(cls, seed: int) -> Outlines:
        """Draw the bodies of a seed; the last ones are kept, never changed."""
        rngs = [np.random.Generator(np.random.PCG64([seed, chunk, 1])) for chunk in range(POOL // _CHUNK)]
        return cls.of_bodies(sample_bodies(rng, _CHUNK) for rng in rngs)

    @classmethod
    def of_bodies(cls, chunks: Iterable[Bodies]) -> Outlines:
        """The outlines of all the bodies."""
        outlines, heads, plans = [], [], []
        for bodies in chunks:
            outlines.append(_outline(bodies).astype(np.float32))
            heads.append(bodies.head)
            plans += _plans(bodies)
        points = np.concatenate(outlines)
        x, y = np.ascontiguousarray(points[..., 0]), np.ascontiguousarray(points[..., 1])
        return cls(x, y, np.concatenate(heads), plans)

    def place(
        self, bodies: NDArray[np.int64], heights: NDArray[np.float64], jitter: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], NDArray[np.float64], list[list[int]]]:
        """Bodies of some heights in pixels, each in a patch of its own.

        Polygons ``(N, V, 2)`` in 1/2**FIXED pixel, keypoints ``(N, 17, 2)`` in pixels, patch heights and widths.
        """
        turn = 0.24 * (jitter[:, 1:] - 0.5)
        tall = heights[:, None]
        broad = tall * (0.88 + 0.24 * jitter[:, :1])
        cos, sin = 1 - turn * turn / 2, turn
        x, y = self.x[bodies], self.y[bodies]
        across = x * (cos * broad) - y * (sin * tall)
        down = x * (sin * broad) + y * (cos * tall)
        sizes = []
        for part in (down, across):
            origin = np.floor(part.min(1)) - 1
            part -= origin[:, None]
            sizes.append(np.ceil(part.max(1)).astype(np.int64) + 2)
        polygons = np.empty((*x.shape, 2), np.int32)
        polygons[..., 0], polygons[..., 1] = np.rint(across * _ONE), np.rint(down * _ONE)
        keypoints = np.stack((across[:, JOINTS], down[:, JOINTS]), axis=-1).round(2)
        return polygons, keypoints, np.stack(sizes, axis=-1).tolist()


def _outline(bodies: Bodies) -> NDArray[np.float64]:
    """All polygons of N bodies and their keypoints, ``(N, V, 2)``."""
    points, count = bodies.points, len(bodies.head)
    stout = bodies.stout[:, None, None]
    start, end = points[:, _FROM], points[:, _TO]
    along = end - start
    length = np.sqrt((along * along).sum(-1, keepdims=True))
    along = np.where(length > 1e-6, along / np.maximum(length, 1e-6), (1.0, 0.0))
    across = along[..., ::-1] * (-1.0, 1.0)
    cap = _CAP[:, :1] * along[:, :, None] + _CAP[:, 1:] * across[:, :, None]
    radii = (_LIMB_RADII * stout)[..., None, None]
    capsules = np.concatenate(
        (end[:, :, None] + radii[:, :, 1] * cap, start[:, :, None] - radii[:, :, 0] * cap), axis=2
    )

    round_ = _ellipses(points[:, _ROUND_AT], _ROUND_RADII * stout, bodies.head_roll)
    on_head = _ellipses(points[:, _HEAD_POINTS], _HEAD_RADII * bodies.head[:, None, None], bodies.head_roll)
    hips = round_[:, 2:4].reshape(count, -1, 2)
    knees = points[:, 13:15] - points[:, 11:13]
    hem = (round_[:, 2:4] + 0.62 * knees[:, :, None]).reshape(count, -1, 2)
    hulls = [_hull(part) for part in (round_.reshape(count, -1, 2), hips, np.concatenate((hips, hem), axis=1))]

    left, right = points[:, 5, None, None], points[:, 6, None, None]
    t = _BAND_EDGES[..., None]
    edges = np.stack((left + (points[:, 11, None, None] - left) * t, right + (points[:, 12, None, None] - right) * t))
    bands = np.stack((edges[0, :, :, 0], edges[1, :, :, 0], edges[1, :, :, 1], edges[0, :, :, 1]), axis=2)
    parts = (capsules, on_head, *hulls, bands, points[:, :17])
    return np.concatenate([part.reshape(count, -1, 2) for part in parts], axis=1)


def _ellipses(
    centres: NDArray[np.float64], radii: NDArray[np.float64], turned: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``(N, E, 12, 2)``, the upper half last, from centres and radii ``(N, E, 2)`` and angles ``(N,)``."""
    cos, sin = np.cos(turned)[:, None, None], np.sin(turned)[:, None, None]
    x, y = _CIRCLE[:, 0] * radii[..., :1], _CIRCLE[:, 1] * radii[..., 1:]
    return np.stack((x * cos - y * sin, x * sin + y * cos), axis=-1) + centres[:, :, None]


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A convex polygon of 16 of the points, the outermost in 16 directions; ``(N, P, 2)`` to ``(N, 16, 2)``."""
    x, y = points[..., :1], points[..., 1:]
    outermost = (x * _DIRECTIONS[0] + y * _DIRECTIONS[1]).argmax(1)
    return np.take_along_axis(points, outermost[..., None], axis=1)


def _plans(bodies: Bodies) -> list[Plan]:
    depths = bodies.depths
    arms = depths[:, 7:9] + depths[:, 9:11]
    thighs = depths[:, 13:15]
    cos = np.cos(bodies.head_yaw)
    columns = (
        (arms[:, 1] > arms[:, 0]).astype(np.int64),
        (thighs + depths[:, 11:13]).argmax(1),
        arms / 2 + depths[:, 5:7] > 0.02,
        thighs < -0.1,
        bodies.facing,
        cos > -0.3,
        cos > 0.1,
        cos < 0,
    )
    rows: list[list[Any]] = [
        [tuple(field) if isinstance(field, list) else field for field in row]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return [Plan(*row) for row in rows]
