"""PyTorch's network and its decoding, timed apart; on a GPU by CUDA events.

The GPU part has not been run where this was written: there was no GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy.measure.bench.clock import DOWNLOAD, NETWORK, NMS_DCC, ROWS, UPLOAD
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime.torch_backend import detections_to_rows, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.clock import Clock
    from rtmo_deploy.model import Detections, HeadOutputs


class TorchRunner:
    """See :class:`rtmo_deploy.measure.bench.runners.Runner`. It computes what ``RTMO.predict`` computes.

    Args:
        artifact: A checkpoint; its thresholds are those that people are decoded with.
        device: ``cpu`` or ``cuda:N``.
        threads: Threads of operators on the CPU; None for PyTorch's own choice.
        compiled: Have ``torch.compile`` take the network; the decoding stays as it is.
    """

    def __init__(self, artifact: Artifact, device: str, threads: int | None, *, compiled: bool = False) -> None:
        load(artifact, device, threads)  # refuses a device that is not there, and sets the threads
        self.artifact = artifact
        self.device = device
        self.backend = "torch"
        self._model = load_checkpoint(artifact.path).model.eval().to(device)
        self._network: Any = torch.compile(self._model) if compiled else self._model
        self._on_gpu = device != "cpu"
        self.upload_stage = UPLOAD if self._on_gpu else None
        self.fetch_stage = DOWNLOAD if self._on_gpu else None
        self.compute_stages: tuple[str, ...] = (NETWORK, NMS_DCC)
        self.host_stage = ROWS
        self.facts: dict[str, Any] = {"threads": torch.get_num_threads(), "compiled": compiled}
        if self._on_gpu:
            self.facts |= {"device_name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}

    def upload(self, images: NDArray[np.float32]) -> torch.Tensor:
        """See :meth:`Runner.upload`."""
        tensor = torch.from_numpy(images).to(self.device)
        self._synchronise()
        return tensor

    @torch.no_grad()
    def compute(self, handle: torch.Tensor, clock: Clock) -> list[Detections]:
        """See :meth:`Runner.compute`."""
        height, width = handle.shape[-2:]
        decode = self.artifact.decode

        def people(heads: HeadOutputs) -> list[Detections]:
            size = (int(height), int(width))
            return self._model.head.decode(
                heads, size, score_thr=decode.score_thr, nms_thr=decode.nms_thr, pre_topk=decode.pre_topk
            )

        if not self._on_gpu:
            heads = self._network(handle)
            clock.lap(NETWORK)
            found = people(heads)
            clock.lap(NMS_DCC)
            return found
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(torch.device(self.device))
        marks[0].record(stream)
        heads = self._network(handle)
        marks[1].record(stream)
        found = people(heads)
        marks[2].record(stream)
        self._synchronise()
        clock.add(NETWORK, marks[0].elapsed_time(marks[1]))
        clock.add(NMS_DCC, marks[1].elapsed_time(marks[2]))
        clock.skip()
        return found

    def fetch(self, outputs: list[Detections]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Runner.fetch`."""
        dets, keypoints = detections_to_rows(outputs)
        return {"dets": dets, "keypoints": keypoints}

    def _synchronise(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self.device)
