"""rtmlib's ``RTMO``: one image to keypoints, with rtmlib's pre- and postprocessing around this package's backends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.compat.rtmlib.tools.object_detection.post_processings import multiclass_nms
from rtmo_deploy.compat.rtmlib.tools.pose_estimation.post_processings import convert_coco_to_openpose
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.backends import BACKENDS, open_backend
from rtmo_deploy.runtime.decode import coordinates_of, outputs_to_poses
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.letterbox import Placement, letterbox
from rtmo_deploy.zoo.locate import locate_model
from rtmo_deploy.zoo.records import require_input_size
from rtmo_deploy.zoo.skeletons import COCO_17

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

_log = logging.getLogger(__name__)


class RTMO:
    """An RTMO model, called as rtmlib's.

    ``bboxes`` and ``poses`` belong to the last call. Several threads may call one object; they then read what the
    latest of them found.

    Args:
        onnx_model: An ONNX file, as here or MMDeploy exported it, or OpenMMLab's ``.zip`` around one; or the address
            of one of them. Besides what rtmlib takes: a checkpoint, an OpenVINO model, a TensorRT engine, a name such
            as ``rtmo-s``.
        model_input_size: Height and width that images are scaled into, multiples of 32.
        mean: Subtracted from the image's values, with ``std``; RTMO's models take neither.
        std: What the values are then divided by.
        nms_thr: Of two detections whose boxes overlap by more than this IoU, the one with the lower score is dropped.
        score_thr: Detections with a score not above this are dropped.
        to_openpose: Give OpenPose's 18 keypoints instead of COCO's 17.
        backend: ``onnxruntime``, ``openvino``, ``tensorrt`` or ``torch``. A file that only one of them runs is run by
            that one if ``onnxruntime`` is given, which is the default; the log says so.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        strict_compat: Where there is nobody, give one skeleton of zeros, as rtmlib does.

    Raises:
        ModelError: The file cannot be used.
        SetupError: A package or the device is missing, or the file cannot be fetched.
        UsageError: The backend does not run this file, or the model does not take that size.
    """

    def __init__(
        self,
        onnx_model: str | os.PathLike[str],
        model_input_size: Sequence[int] = (640, 640),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        nms_thr: float = 0.45,
        score_thr: float = 0.7,
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        *,
        strict_compat: bool = False,
    ) -> None:
        path = locate_model(onnx_model)
        self._artifact = read_artifact(path)
        self._runs = open_backend(self._artifact, device, backend=_backend_for(self._artifact, backend))
        self._coordinates = coordinates_of(self._artifact)
        if to_openpose and len(self._artifact.skeleton) != len(COCO_17):
            raise UsageError(
                f"A model of {len(self._artifact.skeleton)} keypoints has not the {len(COCO_17)} of COCO, from which "
                "OpenPose's are made.",
                remedy="Leave to_openpose away.",
                where=path,
            )
        self.onnx_model = str(path)
        self.model_input_size = _input_size(self._artifact, model_input_size)
        self.mean, self.std = mean, std
        self.nms_thr, self.score_thr = nms_thr, score_thr
        self.to_openpose, self.strict_compat = to_openpose, strict_compat
        self.backend, self.device = self._runs.name, self._runs.device
        #: The detections of the last call, with boxes and scores, in the model's own keypoints.
        self.poses = Poses.empty(self._artifact.skeleton)
        _log.info("%s runs in %s on %s.", path, self.backend, self.device)

    @property
    def bboxes(self) -> NDArray[np.float32]:
        """Boxes of the last call's detections: ``(N, 4)`` float32, x1, y1, x2, y2 in pixels of the image."""
        return self.poses.boxes

    def __call__(
        self, image: NDArray[np.uint8], nms_thr: float | None = None, score_thr: float | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """People in an image.

        Args:
            image: ``(H, W, 3)`` uint8, BGR.
            nms_thr: Instead of the object's own.
            score_thr: Instead of the object's own.

        Returns:
            Keypoints ``(N, K, 2)`` float32, x, y in pixels of the image, and their scores ``(N, K)`` float32, best
            person first. N is 0 where there is nobody, unless ``strict_compat`` was asked for.

        Raises:
            UsageError: The image is not such an array.
        """
        tensor, ratio = self.preprocess(image)
        keypoints, scores = self.postprocess(self.inference(tensor), ratio, nms_thr, score_thr)
        return convert_coco_to_openpose(keypoints, scores) if self.to_openpose else (keypoints, scores)

    def preprocess(self, img: NDArray[np.uint8]) -> tuple[NDArray[Any], float]:
        """The image as the network takes it, top left in a grey canvas, height, width, channels; and its scale."""
        canvas, transform = letterbox(img, self.model_input_size, Placement.TOP_LEFT)
        if self.mean is None or self.std is None:
            return canvas, transform.scale
        return (canvas - np.array(self.mean)) / np.array(self.std), transform.scale

    def inference(self, img: NDArray[Any]) -> list[NDArray[np.float32]]:
        """What the network puts out for a preprocessed image: ``(1, N, 5)`` boxes with scores, ``(1, N, K, 3)``."""
        tensor = np.ascontiguousarray(img.transpose(2, 0, 1)[None], np.float32)
        # A model with a fixed batch size is fed the image as often as it takes.
        outputs = self._runs(np.repeat(tensor, self._artifact.input.batch or 1, axis=0))
        if "dets" in outputs:
            return [outputs["dets"][:1], outputs["keypoints"][:1]]
        size = (img.shape[0], img.shape[1])
        found = outputs_to_poses(outputs, size, self._artifact, self._coordinates)[0]
        dets = np.concatenate([found.boxes, found.scores[:, None]], axis=-1)
        return [dets[None], np.concatenate([found.keypoints, found.keypoint_scores[..., None]], axis=-1)[None]]

    def postprocess(
        self,
        outputs: Sequence[NDArray[np.float32]],
        ratio: float = 1.0,
        nms_thr: float | None = None,
        score_thr: float | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Detections of one image from the network's outputs: its thresholds and its suppression in image pixels."""
        boxes, box_scores = outputs[0][0, :, :4] / ratio, outputs[0][0, :, 4]
        keypoints, scores = outputs[1][0, :, :, :2] / ratio, outputs[1][0, :, :, 2]
        nms_thr = self.nms_thr if nms_thr is None else nms_thr
        score_thr = self.score_thr if score_thr is None else score_thr
        keep = multiclass_nms(boxes, box_scores[:, None], nms_thr, score_thr)[1]
        keep = np.zeros(0, np.intp) if keep is None else keep
        skeleton = self._artifact.skeleton
        self.poses = Poses(boxes[keep], box_scores[keep], keypoints[keep], scores[keep], skeleton)
        if not len(keep) and self.strict_compat:
            return np.zeros((1, len(skeleton), 2), np.float32), np.zeros((1, len(skeleton)), np.float32)
        return keypoints[keep], scores[keep]


def _backend_for(artifact: Artifact, asked: str) -> str | None:
    """The name of this package's backend for one of rtmlib's; None where the file decides."""
    own = [record.name for record in BACKENDS if artifact.kind in record.kinds]
    if asked == "opencv":
        raise UsageError(
            "OpenCV's network module does not run RTMO's graphs.", remedy="Use the backend onnxruntime or openvino."
        )
    if asked == "tensorrt" and artifact.kind is not Kind.ENGINE:
        raise UsageError(
            "TensorRT runs engines, and this is none.",
            remedy="Build one on the machine that will run it, and give its path: rtmo-deploy build-trt MODEL",
            where=artifact.path,
        )
    if asked == "onnxruntime" and asked not in own:
        _log.warning("%s does not run in onnxruntime; it runs in %s.", artifact.path, own[0])
        return None
    return asked


def _input_size(artifact: Artifact, given: Sequence[int]) -> tuple[int, int]:
    size, contract = (int(given[0]), int(given[1])), artifact.input
    require_input_size(size, where="model_input_size")
    if size != (contract.height, contract.width) and not contract.dynamic_hw:
        raise UsageError(
            f"It takes images of {contract.height}x{contract.width} only, and model_input_size is {size}.",
            remedy=f"Give model_input_size=({contract.height}, {contract.width}).",
            where=artifact.path,
        )
    return size
