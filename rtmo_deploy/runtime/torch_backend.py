"""Runs a checkpoint with PyTorch: the reference that everything else is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtmo_deploy.errors import SetupError
from rtmo_deploy.model import RTMO, load_checkpoint
from rtmo_deploy.runtime.backends import check_input
from rtmo_deploy.runtime.clock import DOWNLOAD, NETWORK, NMS_DCC, UPLOAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact, DecodeContract
    from rtmo_deploy.model.head import Detections
    from rtmo_deploy.runtime.clock import Clock


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
    return TorchBackend(artifact, load_checkpoint(artifact.path, tell=False).model, device)


class TorchBackend:
    """A network and where it runs. Puts out rows like an exported graph, zeros below an image's people."""

    name = "torch"

    def __init__(self, artifact: Artifact, model: RTMO, device: str) -> None:
        self.artifact = artifact
        self.device = device
        self._model = model.eval().to(device)
        self._network: Any = self._model
        self.facts: dict[str, Any] = {"threads": torch.get_num_threads(), "compiled": False}
        if device != "cpu":
            self.facts |= {"device_name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}

    def compile(self) -> None:
        """Have ``torch.compile`` take the network of :meth:`timed`; the decoding stays as it is."""
        self._network = torch.compile(self._model)
        self.facts["compiled"] = True

    def __call__(
        self, images: NDArray[np.float32] | torch.Tensor, decode: DecodeContract | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`; ``decode`` has other thresholds for this call.

        Images may be a tensor too, on any device.
        """
        if not isinstance(images, torch.Tensor):
            check_input(images, self.artifact)
            images = torch.from_numpy(images)
        thresholds = _thresholds(decode or self.artifact.decode)
        return _rows(self._model.predict(images.to(self.device), **thresholds))

    @torch.no_grad()
    def timed(self, images: NDArray[np.float32], clock: Clock) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`. The GPU part has not been run: there was no GPU."""
        tensor = torch.from_numpy(images).to(self.device)
        size = (images.shape[2], images.shape[3])
        decode = self._model.head.decode
        if self.device == "cpu":
            heads = self._network(tensor)
            clock.lap(NETWORK)
            found = decode(heads, size, **_thresholds(self.artifact.decode))
            clock.lap(NMS_DCC)
            return _rows(found)
        torch.cuda.synchronize(self.device)
        clock.lap(UPLOAD)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(torch.device(self.device))
        marks[0].record(stream)
        heads = self._network(tensor)
        marks[1].record(stream)
        found = decode(heads, size, **_thresholds(self.artifact.decode))
        marks[2].record(stream)
        torch.cuda.synchronize(self.device)
        clock.add(NETWORK, marks[0].elapsed_time(marks[1]))
        clock.add(NMS_DCC, marks[1].elapsed_time(marks[2]))
        clock.skip()
        rows = _rows(found)
        clock.lap(DOWNLOAD)
        return rows


def _thresholds(decode: DecodeContract) -> dict[str, Any]:
    return {"score_thr": decode.score_thr, "nms_thr": decode.nms_thr, "pre_topk": decode.pre_topk}


def _rows(found: list[Detections]) -> dict[str, NDArray[np.float32]]:
    """Detections of a batch to ``dets`` (B, N, 5) and ``keypoints`` (B, N, K, 3), N the most in an image."""
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
    return {"dets": dets, "keypoints": keypoints}
