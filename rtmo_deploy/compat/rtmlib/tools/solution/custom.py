"""rtmlib's ``Custom``: RTMO with a model of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy.compat.rtmlib.tools.elsewhere import only_in_rtmlib
from rtmo_deploy.compat.rtmlib.tools.pose_estimation.rtmo import RTMO
from rtmo_deploy.compat.rtmlib.tools.solution.body import OneStage
from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Custom(OneStage):
    """RTMO with a model of one's own: ``Custom(pose_class="RTMO", pose="rtmo-s.onnx", pose_input_size=(640, 640))``.

    Args:
        det_class: A detector: refused, RTMO has none.
        det: Not used.
        det_input_size: Not used.
        det_mode: Not used.
        det_categories: Not used.
        pose_class: ``RTMO``.
        pose: As ``onnx_model`` of :class:`RTMO`.
        pose_input_size: Height and width that images are scaled into, multiples of 32.
        mode: Not used.
        to_openpose: Give OpenPose's 18 keypoints instead of COCO's 17.
        backend: As in :class:`RTMO`.
        device: As in :class:`RTMO`.
        strict_compat: As in :class:`RTMO`.

    Raises:
        UsageError: It is about another network than RTMO, or there is no ``pose``.
        ModelError: As :class:`RTMO`.
        SetupError: As :class:`RTMO`.
    """

    def __init__(
        self,
        det_class: str | None = None,
        det: str | None = None,
        det_input_size: Sequence[int] | None = (640, 640),
        det_mode: str = "human",
        det_categories: Sequence[int] | None = None,
        pose_class: str | None = None,
        pose: str | None = None,
        pose_input_size: Sequence[int] = (192, 256),
        mode: Any = None,
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        *,
        strict_compat: bool = False,
    ) -> None:
        foreign = det_class or (pose_class if pose_class not in {None, "RTMO"} else None)
        if foreign is not None:
            raise only_in_rtmlib(f"Custom with {foreign}")
        if pose_class is None or pose is None:
            raise UsageError("Custom was given no model.", remedy="Give pose_class='RTMO' and pose='model.onnx'.")
        self.pose_model = RTMO(
            pose,
            model_input_size=pose_input_size,
            to_openpose=to_openpose,
            backend=backend,
            device=device,
            strict_compat=strict_compat,
        )
