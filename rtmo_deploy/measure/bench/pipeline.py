"""One measured call: from the image's file to the drawn poses, stage by stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.bench.options import spinning_entries
from rtmo_deploy.runtime.backends import choose_backend, open_backend, parse_device
from rtmo_deploy.runtime.clock import DECODE_FILE, DRAW, LETTERBOX, NMS_DCC, ROWS, UNLETTERBOX, Clock
from rtmo_deploy.runtime.decode import outputs_to_poses, poses_to_original
from rtmo_deploy.runtime.draw import draw_poses
from rtmo_deploy.runtime.estimator import PoseEstimator, read_artifact

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.options import Contender
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.backends import Backend
    from rtmo_deploy.runtime.letterbox import LetterboxTransform


def contender_artifact(contender: Contender) -> Artifact:
    """What a contender's file is, with the thresholds and the placement that it is to run with."""
    artifact = read_artifact(Path(contender.model))
    fixed = artifact.input.batch
    if fixed not in {None, contender.batch}:
        raise UsageError(
            f"{artifact.path.name} takes {fixed} image{'s' if fixed > 1 else ''} at a time only; a batch of "
            f"{contender.batch} was asked for.",
            remedy=f"Give --batch {fixed}, or export the model without a fixed batch.",
        )
    if artifact.kind is Kind.CHECKPOINT:
        if contender.thresholds is not None:
            score_thr, nms_thr = contender.thresholds
            artifact = replace(artifact, decode=replace(artifact.decode, score_thr=score_thr, nms_thr=nms_thr))
        if contender.placement is not None:
            artifact = replace(artifact, input=replace(artifact.input, placement=contender.placement))
    return artifact


def open_pipeline(contender: Contender, artifact: Artifact) -> Pipeline:
    """Open a contender's model in its runtime."""
    device, threads = parse_device(contender.device), contender.threads
    record = choose_backend(
        artifact.kind, device, backend=contender.backend, target=artifact.target, what=artifact.path.name
    )
    if contender.compiled and record.name != "torch":
        raise UsageError("Only PyTorch compiles a network.", remedy="Leave --compile away.", where=artifact.path)
    backend: Any
    if record.name == "onnxruntime":
        from rtmo_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend

        backend = OnnxRuntimeBackend(artifact, device, threads, spinning_entries(contender.spinning))
    else:
        backend = open_backend(artifact, device, backend=record.name, threads=threads)
    if contender.compiled:
        backend.compile()
    return Pipeline(record.name, backend, contender.input_hw)


class Pipeline:
    """A model that is ready to be measured.

    ``name`` is the runtime's; images are letterboxed to ``input_hw`` (height, width), None for the model's own.
    """

    def __init__(self, name: str, backend: Backend, input_hw: tuple[int, int] | None) -> None:
        self.name, self.backend = name, backend
        self._model = PoseEstimator(backend, input_hw=input_hw)
        self.input_hw, self._coordinates = self._model.input_hw, self._model.coordinates
        #: The host has the whole decoding of a raw graph left to do, of others rows only.
        self._host_stage = ROWS if self._coordinates is None else NMS_DCC

    def call(self, paths: Sequence[Path]) -> tuple[dict[str, float], float, list[int]]:
        """One call from end to end.

        Returns:
            Milliseconds by stage; milliseconds from the files to the poses, without drawing; and the number of
            instances that were found in each image.
        """
        clock = Clock()
        images = [read_image(path) for path in paths]
        clock.lap(DECODE_FILE)
        tensor, transforms = self._letterbox(images)
        clock.lap(LETTERBOX)
        found = self._run(tensor, clock)
        clock.lap(self._host_stage)
        placed = [poses_to_original(poses, transform) for poses, transform in zip(found, transforms, strict=True)]
        clock.lap(UNLETTERBOX)
        total = clock.total()
        for image, poses in zip(images, placed, strict=True):
            draw_poses(image, poses)
        clock.lap(DRAW)
        return clock.times, total, [len(poses) for poses in placed]

    def network(self, paths: Sequence[Path]) -> tuple[dict[str, float], float, list[int]]:
        """As :meth:`call`, of which only the network counts; reading, letterbox and copies are done and not counted."""
        tensor, _ = self._letterbox([read_image(path) for path in paths])
        clock = Clock()
        found = self._run(tensor, clock)
        counted = {stage: value for stage, value in clock.times.items() if "->" not in stage}
        return counted, sum(counted.values()), [len(poses) for poses in found]

    def facts(self) -> dict[str, Any]:
        """JSON-ready facts of this contender: runtime, device, input size, and what the backend adds."""
        size = list(self.input_hw)
        return {"backend": self.name, "device": self.backend.device, "input_hw": size, **self.backend.facts}

    def _letterbox(self, images: Sequence[NDArray[np.uint8]]) -> tuple[Any, list[LetterboxTransform]]:
        placed = [self._model.place(image) for image in images]
        return self._model.tensor(placed), [one.transform for one in placed]

    def _run(self, tensor: Any, clock: Clock) -> list[Poses]:
        outputs = self.backend.timed(tensor, clock)
        return outputs_to_poses(outputs, self.input_hw, self.backend.artifact, self._coordinates)
