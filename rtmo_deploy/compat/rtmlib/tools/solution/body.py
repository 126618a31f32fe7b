"""rtmlib's ``Body``: RTMO of the size that a mode names."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, ClassVar

from rtmo_deploy.compat.rtmlib.tools.elsewhere import only_in_rtmlib
from rtmo_deploy.compat.rtmlib.tools.pose_estimation.rtmo import RTMO
from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.records import published

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

_log = logging.getLogger(__name__)


class OneStage:
    """A solution of one network; calls it, and has its ``bboxes`` and ``poses`` of the last call."""

    pose_model: RTMO
    one_stage = True

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """People in an image; see :class:`RTMO`."""
        return self.pose_model(image)

    @property
    def bboxes(self) -> NDArray[np.float32]:
        """Boxes of the last call's detections: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the image."""
        return self.pose_model.bboxes

    @property
    def poses(self) -> Poses:
        """The detections of the last call, with boxes and scores, in the model's own keypoints."""
        return self.pose_model.poses


class Body(OneStage):
    """The RTMO model that a mode names: ``performance`` is rtmo-l, ``balanced`` rtmo-m, ``lightweight`` rtmo-s.

    As in rtmlib a ``pose`` with "rtmo" in it stands for the mode's model, whatever else it says. Without ``pose``,
    where rtmlib takes YOLOX and RTMPose, it is that model too, and the log says so.

    Args:
        det: A detector: refused, RTMO has none.
        det_input_size: Not used.
        pose: None, or something with "rtmo" in it.
        pose_input_size: Not used: the mode names the size too.
        mode: ``performance``, ``balanced`` or ``lightweight``.
        to_openpose: Give OpenPose's 18 keypoints instead of COCO's 17.
        backend: As in :class:`RTMO`.
        device: As in :class:`RTMO`.
        strict_compat: As in :class:`RTMO`.

    Raises:
        UsageError: It is about another network than RTMO, or there is no such mode.
        ModelError: As :class:`RTMO`.
        SetupError: As :class:`RTMO`.
    """

    RTMO_MODE: ClassVar[dict[str, dict[str, Any]]] = {
        mode: {"pose": published(name).onnx_url, "pose_input_size": (640, 640)}
        for mode, name in (("performance", "rtmo-l"), ("lightweight", "rtmo-s"), ("balanced", "rtmo-m"))
    }

    def __init__(
        self,
        det: str | None = None,
        det_input_size: Sequence[int] = (640, 640),
        pose: str | None = None,
        pose_input_size: Sequence[int] = (288, 384),
        mode: str = "balanced",
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        *,
        strict_compat: bool = False,
    ) -> None:
        if det is not None or (pose is not None and "rtmo" not in pose):
            raise only_in_rtmlib("Body with a detector or another pose model")
        if mode not in self.RTMO_MODE:
            raise UsageError(f"There is no mode '{mode}'.", remedy=f"Use one of: {', '.join(self.RTMO_MODE)}.")
        chosen = self.RTMO_MODE[mode]
        if pose is None:
            _log.warning("Body runs RTMO (%s), not YOLOX and RTMPose as in rtmlib.", chosen["pose"])
        elif os.path.exists(pose):  # noqa: PTH110
            _log.warning("Body takes %s, not %s; for that file use RTMO or Custom.", chosen["pose"], pose)
        self.pose_model = RTMO(
            chosen["pose"],
            model_input_size=chosen["pose_input_size"],
            to_openpose=to_openpose,
            backend=backend,
            device=device,
            strict_compat=strict_compat,
        )
