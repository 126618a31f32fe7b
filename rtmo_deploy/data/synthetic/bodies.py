"""Bodies: proportions, poses and views of made-up people, as points and depths. Knows no pixels and no colours.

A body is measured in its own standing height. In the body's frame the axes are left, down, forward (of that body),
from the middle of its hips. The camera's axes are x right, y down, z away from the viewer: a body of yaw 0 faces
the viewer, and its left is at image right; at yaw pi it is seen from behind; at yaw pi/2 it walks to image right
and its left side is the far one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Points of a body: the 17 of COCO, then these.
_EXTRA: Final = ("left_hand", "right_hand", "left_toe", "right_toe", "neck", "head", "face", "mouth", "hat", "belly")
POINTS: Final = {name: 17 + index for index, name in enumerate(_EXTRA)}
NECK, HEAD, TOES = POINTS["neck"], POINTS["head"], slice(POINTS["left_toe"], POINTS["right_toe"] + 1)

#: Nose, eyes, ears, face, mouth and hat in the head's frame (left, down, forward), in half head heights.
_HEAD: Final = np.array([
    (0.0, 0.2, 0.98), (0.36, -0.06, 0.76), (-0.36, -0.06, 0.76), (0.84, 0.08, -0.06), (-0.84, 0.08, -0.06),
    (0.0, 0.13, 0.24), (0.0, 0.55, 0.8), (0.0, -0.34, 0.0),
])  # fmt: skip
_HEAD_POINTS: Final = [0, 1, 2, 3, 4, POINTS["face"], POINTS["mouth"], POINTS["hat"]]
#: A point of the head is seen where it is nearer to the viewer than this (nose, eyes, ears), in half head heights.
_SEEN_NEARER: Final = np.array([0.2, -0.15, -0.15, 0.25, 0.25])

#: Columns of an activity: lowest and highest angle, radians. Arms: abduction (sideways, up), flexion (forward), then
#: how much the forearm turns on in either way; legs the same; torso: lean forward, lean sideways; stride: amplitude.
_COLUMNS: Final = 19
_Range = tuple[float, float]


def _activity(
    arm: tuple[_Range, _Range, _Range, _Range],
    leg: tuple[_Range, _Range, _Range],
    torso: tuple[_Range, _Range] = ((-0.05, 0.12), (-0.1, 0.1)),
    stride: _Range = (0.0, 0.0),
    *,
    other_arm: tuple[_Range, _Range, _Range, _Range] | None = None,
    roll: _Range = (-0.08, 0.08),
    twist: _Range = (-0.2, 0.2),
) -> list[_Range]:
    """A row of the table: both arms, both legs (abduction, flexion, knee), torso, stride, roll, twist."""
    return [*arm, *(other_arm or arm), *leg, *leg, *torso, stride, roll, twist]


_HANGING: Final = ((0.05, 0.35), (-0.3, 0.4), (-0.25, 0.15), (0.0, 0.9))
_RAISED: Final = ((1.5, 2.9), (-0.3, 0.3), (-0.2, 1.3), (-0.4, 0.4))
_FREE: Final = ((0.0, 2.4), (-0.5, 1.6), (-0.6, 1.2), (0.0, 1.5))
_AKIMBO: Final = ((0.5, 0.9), (-0.5, 0.0), (-1.7, -1.1), (0.2, 0.7))
_STRAIGHT: Final = ((0.0, 0.2), (-0.1, 0.15), (0.0, 0.15))
#: Share of the people, activity.
_ACTIVITIES: Final = (
    (0.24, _activity(_HANGING, _STRAIGHT)),
    (0.06, _activity(_AKIMBO, ((0.05, 0.3), (-0.1, 0.1), (0.0, 0.15)))),
    (0.24, _activity(_HANGING, ((0.0, 0.1), (-0.05, 0.05), (0.0, 0.6)), stride=(0.2, 0.6))),
    (
        0.09,
        _activity(
            ((0.05, 0.4), (-0.1, 0.2), (-0.2, 0.1), (1.0, 1.9)),
            ((0.0, 0.15), (0.1, 0.4), (0.2, 1.6)),
            ((0.1, 0.4), (-0.1, 0.1)),
            (0.5, 1.1),
        ),
    ),
    (0.07, _activity(_RAISED, ((0.0, 0.4), (-0.1, 0.3), (0.0, 0.4)))),
    (0.09, _activity(_RAISED, _STRAIGHT, other_arm=_HANGING)),
    (0.06, _activity(_FREE, ((0.0, 0.5), (-0.3, 0.6), (0.0, 0.9)), ((-0.2, 0.4), (-0.25, 0.25)), roll=(-0.2, 0.2))),
    (
        0.06,
        _activity(((0.0, 0.4), (0.0, 0.9), (-0.3, 0.1), (0.2, 1.2)), ((0.05, 0.4), (1.2, 1.65), (1.0, 1.8))),
    ),
    (
        0.04,
        _activity(
            ((0.0, 0.6), (0.2, 1.4), (-0.3, 0.3), (0.2, 1.4)),
            ((0.1, 0.6), (1.2, 2.0), (1.6, 2.4)),
            ((0.2, 0.7), (-0.1, 0.1)),
        ),
    ),
    (0.03, _activity(_FREE, ((0.1, 0.7), (-0.2, 0.9), (0.3, 1.7)), roll=(-0.3, 0.3))),
    (0.02, _activity(_FREE, ((0.0, 0.4), (-0.1, 0.8), (0.0, 1.2)), roll=(1.2, 1.9))),
)
_SHARES: Final = np.cumsum([share for share, _ in _ACTIVITIES])
_LOW: Final = np.array([[low for low, _ in row] for _, row in _ACTIVITIES])
_SPAN: Final = np.array([[high - low for low, high in row] for _, row in _ACTIVITIES])
_SIDES: Final = np.array([1.0, -1.0])
#: Left upper arm, right upper arm, forearms, thighs, shins: the side of each.
_LIMB_SIDES: Final = np.tile(_SIDES, 4)
_LENGTHS: Final = np.array([0.165, 0.165, 0.15, 0.15, 0.25, 0.25, 0.245, 0.245])


class Bodies(NamedTuple):
    """N bodies as the camera sees them, in units of their standing height; angles in radians."""

    points: NDArray[np.float64]  #: ``(N, P, 2)``, x right, y down, from the middle of the hips; as in ``POINTS``.
    depths: NDArray[np.float64]  #: ``(N, P)``, away from the viewer.
    facing: NDArray[np.bool_]  #: ``(N, 5)``, whether nose, eyes and ears are on the side of the head that is seen.
    head: NDArray[np.float64]  #: ``(N,)``, half the height of the head.
    head_yaw: NDArray[np.float64]
    head_roll: NDArray[np.float64]  #: Clockwise.
    stout: NDArray[np.float64]  #: Factor on widths.


def sample_bodies(rng: np.random.Generator, count: int) -> Bodies:
    """Draw proportions, activity and direction of view of ``count`` bodies."""
    pose = rng.random((count, _COLUMNS))
    u = rng.random((count, 20))
    # In the order of the activities' columns; strides are not applied yet.
    activity = np.minimum(np.searchsorted(_SHARES, u[:, 13] * _SHARES[-1]), len(_SHARES) - 1)
    angles = _LOW[activity] + _SPAN[activity] * pose
    swapped = u[:, 14] < 0.5
    angles[swapped, :8] = angles[swapped][:, [4, 5, 6, 7, 0, 1, 2, 3]]
    # Mostly facing the viewer, often seen from behind, sometimes any way.
    yaw = np.where(u[:, 0] < 0.6, 1.3 * (u[:, 1] - 0.5), 2 * math.pi * u[:, 1])
    yaw = np.where((u[:, 0] >= 0.6) & (u[:, 0] < 0.75), math.pi + 1.2 * (u[:, 1] - 0.5), yaw)
    return _bodies(angles, yaw, u)


def walking_body(rng: np.random.Generator, phase: NDArray[np.float64], yaw: NDArray[np.float64]) -> Bodies:
    """One body in F moments of its walk: where in its step it is, radians, NaN for standing; its direction ``(F,)``."""
    u = np.repeat(rng.random((1, 20)), len(phase), axis=0)
    u[:, [7, 9]] *= (0.3, 0.0)  # from hardly above, and looking where it walks
    u[:, 10:13] = 0.5
    u[:, 2] += 0.25  # an adult
    u[:, 15] = np.nan_to_num(phase) / (2 * math.pi)
    angles = np.zeros((len(phase), _COLUMNS))
    angles[:, [0, 4]], angles[:, [3, 7]] = 0.12, 0.35
    walks = ~np.isnan(phase)
    angles[:, 16] = 0.4 * walks
    for column, side in ((10, 1), (13, -1)):  # the knee of the leg that swings forward is bent
        angles[:, column] = walks * (0.1 + 0.6 * np.maximum(0.0, side * np.cos(np.nan_to_num(phase))))
    return _bodies(angles, yaw, u)


def _bodies(angles: NDArray[np.float64], yaw: NDArray[np.float64], u: NDArray[np.float64]) -> Bodies:
    """Bodies from the angles of their joints, their direction, and 20 numbers in 0..1 each for all the rest."""
    count = len(u)
    child = np.where(u[:, 2] < 0.25, u[:, 3], 0.0)  # 0: adult, 1: a small child
    stout = 0.85 + 0.5 * u[:, 4] ** 2 + 0.15 * child
    head = 0.074 + 0.016 * u[:, 5] + 0.032 * child
    limbs = _LENGTHS * (1 - 0.14 * child + 0.1 * (u[:, 6] - 0.5))[:, None]

    body = np.empty((count, 17 + len(_EXTRA), 3))
    _place_joints(body, angles, limbs, stout, child, u)
    pitch = 0.3 * u[:, 7, None]  # looked at from a little above
    right, down, depths = _turned(body, yaw)
    points = np.stack((right, down * np.cos(pitch) - depths * np.sin(pitch)), axis=-1)

    head_yaw = yaw + angles[:, 18] + 1.6 * (u[:, 8] - 0.5) * u[:, 9]
    tilt = 0.35 * (u[:, 10] - 0.5) + 0.35 * (u[:, 11] - 0.5)
    right, down, nearness = _turned(_HEAD, head_yaw)
    features = _rotated(right, down, tilt) * head[:, None, None]
    points[:, _HEAD_POINTS] = features + points[:, HEAD, None]
    depths[:, _HEAD_POINTS] = depths[:, HEAD, None] + nearness * head[:, None]

    roll = angles[:, 17] * np.where((u[:, 12] < 0.5) & (angles[:, 17] > 1), -1, 1)
    points = _rotated(points[..., 0], points[..., 1], roll)
    facing = nearness[:, :5] < _SEEN_NEARER
    return Bodies(points, depths, facing, head, head_yaw, roll + tilt, stout)


def _place_joints(
    body: NDArray[np.float64],
    angles: NDArray[np.float64],
    limbs: NDArray[np.float64],
    stout: NDArray[np.float64],
    child: NDArray[np.float64],
    u: NDArray[np.float64],
) -> None:
    """Fill ``body`` (N, P, 3), in the body's frame, but for the head's points."""
    lean, side = angles[:, 14], angles[:, 15]
    stride = angles[:, 16] * np.sin(2 * math.pi * u[:, 15])
    swing = stride[:, None] * _SIDES
    arm, leg = angles[:, :8].reshape(-1, 2, 4), angles[:, 8:14].reshape(-1, 2, 3)
    upper_flex = arm[..., 1] - 0.9 * swing + 0.6 * lean[:, None]
    thigh_flex = leg[..., 1] + swing
    abduction = np.concatenate((arm[..., 0], arm[..., 0] + arm[..., 2], leg[..., 0], 0.4 * leg[..., 0]), axis=1)
    flexion = np.concatenate((upper_flex, upper_flex + arm[..., 3], thigh_flex, thigh_flex - leg[..., 2]), axis=1)
    across, rest = np.sin(abduction), np.cos(abduction)
    direction = np.stack((_LIMB_SIDES * across, rest * np.cos(flexion), rest * np.sin(flexion)), axis=-1)
    limb = direction * limbs[..., None]

    trunk = (0.295 + 0.03 * (u[:, 16] - 0.5) - 0.01 * child)[:, None]
    up = np.stack((np.sin(side), -np.cos(side) * np.cos(lean), np.cos(side) * np.sin(lean)), axis=-1)
    twist = angles[:, 18]
    width = (0.1 + 0.028 * u[:, 17] - 0.012 * child) * (0.75 + 0.25 * stout)
    line = np.stack((np.cos(twist), np.sin(side), -np.sin(twist)), axis=-1) * width[:, None]
    chest = up * trunk

    body[:, 5:7] = chest[:, None] + line[:, None] * _SIDES[:, None]
    body[:, 7:9] = body[:, 5:7] + limb[:, 0:2]
    body[:, 9:11] = body[:, 7:9] + limb[:, 2:4]
    body[:, 17:19] = body[:, 9:11] + direction[:, 2:4] * 0.035
    body[:, 11:13] = 0.0
    body[:, 11:13, 0] = _SIDES * ((0.056 + 0.016 * u[:, 18]) * (0.7 + 0.3 * stout))[:, None]
    body[:, 13:15] = body[:, 11:13] + limb[:, 4:6]
    body[:, 15:17] = body[:, 13:15] + limb[:, 6:8]
    shin = direction[:, 6:8]  # a foot stands at a right angle to its shin, and turns out a little
    body[:, TOES, 0] = body[:, 15:17, 0] + 0.025 * _SIDES
    body[:, TOES, 1] = body[:, 15:17, 1] - 0.085 * shin[..., 2] + 0.03 * shin[..., 1]
    body[:, TOES, 2] = body[:, 15:17, 2] + 0.085 * shin[..., 1] + 0.03 * shin[..., 2]
    body[:, NECK] = chest + up * 0.012
    body[:, HEAD] = chest + up * (0.115 + 0.02 * child + 0.01 * u[:, 19])[:, None]
    body[:, POINTS["belly"]] = chest * 0.3
    body[:, POINTS["belly"], 2] += 0.05 * (stout - 0.85)
    body[:, _HEAD_POINTS] = 0.0


def _turned(
    points: NDArray[np.float64], yaw: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Points ``(..., P, 3)`` turned by yaw ``(N,)``: to the right, down and away from the viewer, ``(N, P)``."""
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    left, down, forward = points[..., 0], points[..., 1], points[..., 2]
    return left * cos + forward * sin, down, left * sin - forward * cos


def _rotated(x: NDArray[np.float64], y: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, P, 2)``, clockwise by ``(N,)`` radians."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack((x * cos - y * sin, x * sin + y * cos), axis=-1)
