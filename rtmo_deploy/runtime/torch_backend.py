"""Runs a checkpoint with PyTorch: the reference that everything else is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.model import RTMO, load_checkpoint
from rtmo_deploy.zoo.records import INPUT_MULTIPLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.model.head import Detections


def load(artifact: Artifact, device: str, threads: int | None) -> TorchBackend:
    """Load a checkpoint; see :func:`rtmo_deploy.runtime.backends.open_backend`."""
    if device != "cpu" and not torch.cuda.is_available():
        raise SetupError(
            f"PyTorch {torch.__version__} sees no CUDA device, so {device} cannot be used.",
            remedy="Use --device cpu, or install a CUDA build of PyTorch and a driver for it.",
        )
    if device != "cpu" and int(device.split(":")[1]) >= torch.cuda.device_count():
        raise SetupError(
            f"PyTorch sees {torch.cuda.device_count()} CUDA devices, so there is no {device}.",
            remedy="They are counted from cuda:0.",
        )
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchBackend(artifact, load_checkpoint(artifact.path).model, device)


class TorchBackend:
    """A network and where it runs. Puts out rows like an exported graph, zeros below a picture's people."""

    def __init__(self, artifact: Artifact, model: RTMO, device: str) -> None:
        self.artifact = artifact
        self.device = device
        self._model = model.eval().to(device)

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`."""
        sides = images.shape[2:]
        if (
            images.ndim != 4
            or images.dtype != np.float32
            or images.shape[1] != 3
            or not images.size
            or any(side % INPUT_MULTIPLE for side in sides)
        ):
            raise ArtifactError(
                f"It does not run on {images.dtype} {images.shape}.",
                remedy=f"It takes float32 (B, 3, H, W), H and W multiples of {INPUT_MULTIPLE}.",
                where=self.artifact.path,
            )
        decode = self.artifact.decode
        found = self._model.predict(
            torch.from_numpy(images).to(self.device),
            score_thr=decode.score_thr,
            nms_thr=decode.nms_thr,
            pre_topk=decode.pre_topk,
        )
        dets, keypoints = detections_to_rows(found)
        return {"dets": dets, "keypoints": keypoints}


def detections_to_rows(found: list[Detections]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Detections of a batch to ``dets`` (B, N, 5) and ``keypoints`` (B, N, K, 3), N the most people in a picture."""
    most = max((len(one.scores) for one in found), default=0)
    joints = found[0].keypoints.shape[1]
    dets = np.zeros((len(found), most, 5), np.float32)
    keypoints = np.zeros((len(found), most, joints, 3), np.float32)
    for i, one in enumerate(found):
        count = len(one.scores)
        dets[i, :count, :4] = one.boxes.cpu().numpy()
        dets[i, :count, 4] = one.scores.cpu().numpy()
        keypoints[i, :count, :, :2] = one.keypoints.cpu().numpy()
        keypoints[i, :count, :, 2] = one.keypoint_scores.cpu().numpy()
    return dets, keypoints
