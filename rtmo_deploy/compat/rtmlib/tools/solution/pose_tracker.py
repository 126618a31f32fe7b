"""rtmlib's ``PoseTracker``: the people of a video, with ids that stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.compat.rtmlib.tools.pose_estimation.rtmo import RTMO
from rtmo_deploy.errors import UsageError
from rtmo_deploy.track import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

#: Frames a second that are assumed where no times are given.
FRAME_RATE: Final = 30.0


class PoseTracker:
    """Finds people in the frames of one video, in order, and knows them again.

    With tracking the rows come in the order of their ids, the eldest first, those without an id last. Nobody is
    dropped: rtmlib leaves out small people whom it has not seen before. ``track_ids``, ``bboxes`` and ``poses`` belong
    to the last call; a video is for one thread.

    Args:
        solution: What makes the model: ``Body``, ``Custom``, or a ``functools.partial`` of them.
        det_frequency: Not used: a network of one stage finds everybody in every frame.
        tracking: Whether to give ids; without, rows are as the model gives them.
        tracking_thr: Not used: the tracker has its own rules.
        mode: Given to ``solution``, if it is not None.
        to_openpose: Given to ``solution``.
        backend: Given to ``solution``.
        device: Given to ``solution``.
        strict_compat: Given to ``solution``. With tracking nobody is N = 0 all the same: zeros are not tracked.

    Raises:
        UsageError: ``solution`` makes another model than RTMO, or as that says.
        ModelError: As :class:`RTMO`.
        SetupError: As :class:`RTMO`.
    """

    def __init__(
        self,
        solution: Callable[..., Any],
        det_frequency: int = 1,
        tracking: bool = True,
        tracking_thr: float = 0.3,
        mode: Any = None,
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        *,
        strict_compat: bool = False,
    ) -> None:
        options: dict[str, Any] = {"to_openpose": to_openpose, "backend": backend, "device": device}
        options |= {"mode": mode} if mode is not None else {}
        options |= {"strict_compat": True} if strict_compat else {}
        model = getattr(solution(**options), "pose_model", None)
        if not isinstance(model, RTMO):
            raise UsageError(
                f"PoseTracker tracks what RTMO finds, and {solution} makes a {type(model).__name__}.",
                remedy="Give Body, Custom, or a functools.partial of them, from rtmo_deploy.compat.rtmlib.",
            )
        self.pose_model = model
        self.det_model = None
        self.det_frequency = det_frequency
        self.tracking = tracking
        self.tracking_thr = tracking_thr
        self.reset()

    def reset(self) -> None:
        """Forget everybody: the next frame is the first of another video."""
        self.frame_cnt = 0
        self._tracker = Tracker()
        #: The detections of the last call with their ids, in the model's own keypoints.
        self.poses: Poses = replace(
            self.pose_model.poses[:0], track_ids=np.zeros(0, np.int64) if self.tracking else None
        )

    @property
    def track_ids(self) -> NDArray[np.int64] | None:
        """Ids of the last call's rows: ``(N,)`` int64, from 1, -1 where not known yet; None without tracking."""
        return self.poses.track_ids

    @property
    def track_ids_last_frame(self) -> list[int]:
        """Ids of the first rows, those whose id is known; empty without tracking. rtmlib's name for it."""
        return [] if self.track_ids is None else self.track_ids[self.track_ids > 0].tolist()

    @property
    def bboxes(self) -> NDArray[np.float32]:
        """Boxes of the last call's rows: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the image."""
        return self.poses.boxes

    def __call__(
        self, image: NDArray[np.uint8], *, time_s: float | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """People in the next frame.

        Args:
            image: ``(H, W, 3)`` uint8, BGR.
            time_s: When the frame was taken, in seconds; 30 frames a second if no times are given.

        Returns:
            Keypoints ``(N, K, 2)`` and scores ``(N, K)`` as of :class:`RTMO`.

        Raises:
            UsageError: The image is not such an array.
        """
        keypoints, scores = self.pose_model(image)
        found = replace(self.pose_model.poses, image_hw=image.shape[:2])
        time_s = self.frame_cnt / FRAME_RATE if time_s is None else time_s
        self.frame_cnt += 1
        if not self.tracking:
            self.poses = found
            return keypoints, scores
        found = self._tracker.update(found, time_s, image)
        ids = found.track_ids if found.track_ids is not None else np.full(len(found), -1, np.int64)
        order = np.argsort(np.where(ids < 0, np.iinfo(np.int64).max, ids), kind="stable")
        self.poses = found[order]
        return keypoints[: len(found)][order], scores[: len(found)][order]
