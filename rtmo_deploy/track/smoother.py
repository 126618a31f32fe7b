"""Smoother: the One-Euro filter (Casiez, Roussel and Vogel, CHI 2012) over people and keypoints at once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

    Array = NDArray[Any]

#: Whoever was away for longer starts anew.
_GAP_S: Final = 0.25


class Smoother:
    """Takes the jitter out of keypoints and boxes, person by person, with the track ids of a :class:`Tracker`.

    A point that stands still is low-pass filtered at ``min_cutoff``; the faster it moves, the higher the cutoff.
    Speeds are in sizes of the person (square root of the box's area), so images of any size are treated alike.

    Args:
        min_cutoff: Cutoff of a point that stands still, Hz. Lower: less jitter, more lag.
        beta: How much the cutoff rises with the speed, Hz for one size a second. Higher: less lag, more jitter.
        speed_cutoff: Cutoff of the speed itself, Hz.
        visible: Keypoints below this score pass as they are, and the filter starts anew when they are back.
    """

    def __init__(
        self, *, min_cutoff: float = 1.0, beta: float = 5.0, speed_cutoff: float = 1.0, visible: float = 0.3
    ) -> None:
        if not (0 < min_cutoff < math.inf and 0 <= beta < math.inf and 0 < speed_cutoff < math.inf):
            raise UsageError(
                f"Keypoints cannot be smoothed with min_cutoff {min_cutoff}, beta {beta} and speed_cutoff "
                f"{speed_cutoff}.",
                remedy="The cutoffs are positive, beta is not negative.",
            )
        self.min_cutoff, self.beta, self.speed_cutoff, self.visible = min_cutoff, beta, speed_cutoff, visible
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        self._state: Array | None = None
        self._time = -math.inf

    def smooth(self, poses: Poses, time_s: float) -> Poses:
        """The next frame.

        Args:
            poses: Its detections with ``track_ids``; those of id -1 pass as they are.
            time_s: Its time in seconds, not before the last one's.

        Returns:
            The same rows, with smoothed ``keypoints`` and ``boxes``.

        Raises:
            UsageError: There are no track ids, time goes back, the skeleton changes, or a number is not finite.
        """
        ids = self._check(poses, time_s)
        self._time = time_s
        points = np.concatenate([poses.keypoints, poses.boxes.reshape(-1, 2, 2)], axis=1).astype(np.float64)
        seen = np.concatenate([poses.keypoint_scores >= self.visible, np.ones((len(poses), 2), bool)], axis=1)
        rows = np.zeros(
            len(poses),
            dtype=[
                ("id", "i8"), ("time", "f8"), ("points", "f8", points.shape[1:]), ("speed", "f8", points.shape[1:]),
                ("seen", "?", seen.shape[1:]),
            ],
        )  # fmt: skip
        rows["id"], rows["time"], rows["points"], rows["seen"] = ids, time_s, points, seen
        old = rows[:0] if self._state is None else self._state
        _, here, there = np.intersect1d(ids, old["id"], return_indices=True)
        if len(here):
            before = old[there]
            dt = (time_s - before["time"])[:, None, None]
            on = (before["seen"] & seen[here])[..., None] & (dt > 0) & (dt <= _GAP_S)
            size = np.sqrt(np.maximum(poses.boxes[here, 2:] - poses.boxes[here, :2], 1).prod(1))[:, None, None]
            step = np.where(dt > 0, points[here] - before["points"], 0)
            speed = step / np.maximum(dt, 1e-9)
            speed = before["speed"] + _alpha(dt, self.speed_cutoff) * (speed - before["speed"])
            fast = np.linalg.norm(speed, axis=-1, keepdims=True) / size
            smooth = before["points"] + _alpha(dt, self.min_cutoff + self.beta * fast) * step
            rows["points"][here] = np.where(on, smooth, points[here])
            rows["speed"][here] = np.where(on, speed, 0)
        absent = old[~np.isin(old["id"], ids) & (time_s - old["time"] <= _GAP_S)]
        self._state = np.concatenate([absent, rows[ids >= 0]])
        boxes = rows["points"][:, -2:].reshape(-1, 4)
        return replace(poses, keypoints=rows["points"][:, :-2], boxes=boxes)

    def _check(self, poses: Poses, time_s: float) -> Array:
        finding = ""
        points = None if self._state is None else self._state["seen"].shape[1] - 2
        if poses.track_ids is None:
            raise UsageError("Detections without track ids cannot be smoothed.", remedy="Track them first.")
        if not time_s >= self._time or not math.isfinite(time_s):
            finding = f"A frame at {time_s} s cannot follow one at {self._time} s."
        elif points not in {None, len(poses.skeleton)}:
            finding = f"A smoother of {points} keypoints was given {len(poses.skeleton)}."
        elif not (np.isfinite(poses.boxes).all() and np.isfinite(poses.keypoints).all()):
            finding = "The detections hold numbers that are not finite."
        if finding:
            raise UsageError(finding, remedy="Give the frames of one video in order, and reset() before another one.")
        return poses.track_ids


def _alpha(dt: Array, cutoff: Array | float) -> Array:
    """Weight of the new value of a first-order low-pass filter."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * cutoff * np.maximum(dt, 1e-9))))
