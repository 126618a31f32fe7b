"""From the picture's file to the drawn people, stage by stage: what one measured call is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.bench.clock import DECODE_FILE, DRAW, LETTERBOX, MERGED, UNLETTERBOX, Clock
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.draw import draw_poses
from rtmo_deploy.runtime.estimator import PoseEstimator, open_coordinates, outputs_to_poses, read_artifact
from rtmo_deploy.runtime.letterbox import Placement, letterbox, to_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.options import Contender
    from rtmo_deploy.measure.bench.runners import Runner
    from rtmo_deploy.runtime.decode import Coordinates
    from rtmo_deploy.runtime.letterbox import LetterboxTransform

    Array = NDArray[np.float32]


def contender_artifact(contender: Contender) -> Artifact:
    """What a contender's file is, with the thresholds and the placement that it is asked to run with.

    Raises:
        ModelError: The file cannot be used.
        UsageError: It takes another batch size than the contender is to run with.
    """
    artifact = read_artifact(Path(contender.model))
    fixed = artifact.input.batch
    if fixed is not None and fixed != contender.batch:
        raise UsageError(
            f"{artifact.path.name} takes {fixed} picture{'s' if fixed > 1 else ''} at a time only; a batch of "
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


class _AsBackend:
    """A runner as the backend that the estimator's checks ask for; it is not called."""

    def __init__(self, runner: Runner) -> None:
        self.artifact = runner.artifact
        self.device = runner.device

    def __call__(self, images: Array) -> Mapping[str, Array]:
        raise NotImplementedError


class Pipeline:
    """A model that is ready to be measured.

    Args:
        runner: What runs the network.
        input_hw: Height and width that pictures are letterboxed to; None for the model's own.

    Raises:
        UsageError: The model does not take that size.
        ArtifactError: The second file of a raw graph is missing.
    """

    def __init__(self, runner: Runner, input_hw: tuple[int, int] | None) -> None:
        self.runner = runner
        self.input_hw = PoseEstimator(_AsBackend(runner), input_hw=input_hw).input_hw
        self._coordinates = _coordinates(runner.artifact)

    def call(self, paths: Sequence[Path]) -> tuple[dict[str, float], float, list[int]]:
        """One call from end to end.

        Returns:
            Milliseconds by stage; milliseconds from the files to the poses, which drawing, being for the eye, is not
            part of; and the number of people that were found in each.
        """
        runner, clock = self.runner, Clock()
        images = [read_image(path) for path in paths]
        clock.lap(DECODE_FILE)
        tensor, transforms = self._letterbox(images)
        clock.lap(LETTERBOX)
        handle = runner.upload(tensor)
        if runner.upload_stage is not None:
            clock.lap(runner.upload_stage)
        computed = runner.compute(handle, clock)
        outputs = runner.fetch(computed)
        if runner.fetch_stage is not None:
            clock.lap(runner.fetch_stage)
        found = outputs_to_poses(outputs, self.input_hw, runner.artifact, self._coordinates)
        clock.lap(runner.host_stage)
        placed = [_to_original(poses, transform) for poses, transform in zip(found, transforms, strict=True)]
        clock.lap(UNLETTERBOX)
        total = clock.total()
        for image, poses in zip(images, placed, strict=True):
            draw_poses(image, poses)
        clock.lap(DRAW)
        return clock.times, total, [len(poses) for poses in placed]

    def network(self, paths: Sequence[Path]) -> tuple[dict[str, float], list[int]]:
        """One call of which only the network is timed; reading, letterbox and copies are done and not counted.

        Returns:
            Milliseconds by stage, and the number of people that were found in each.

        Raises:
            UsageError: This runtime cannot tell the network from the copies.
        """
        runner = self.runner
        if any(stage == MERGED or stage.startswith("copies+") for stage in runner.compute_stages):
            raise UsageError(
                f"The runtime '{runner.backend}' does not tell the network from the copies on {runner.device}.",
                remedy="Use --protocol e2e.",
            )
        tensor, _ = self._letterbox([read_image(path) for path in paths])
        handle = runner.upload(tensor)
        clock = Clock()
        computed = runner.compute(handle, clock)
        counted = {stage: value for stage, value in clock.times.items() if "->" not in stage}
        found = outputs_to_poses(runner.fetch(computed), self.input_hw, runner.artifact, self._coordinates)
        return counted, [len(poses) for poses in found]

    def _letterbox(self, images: Sequence[NDArray[np.uint8]]) -> tuple[Array, list[LetterboxTransform]]:
        placement = Placement(self.runner.artifact.input.placement)
        pairs = [letterbox(image, self.input_hw, placement) for image in images]
        return to_tensor([canvas for canvas, _ in pairs]), [transform for _, transform in pairs]

    def facts(self) -> dict[str, Any]:
        """What a result says of this contender."""
        return {
            "backend": self.runner.backend,
            "device": self.runner.device,
            "input_hw": list(self.input_hw),
            **self.runner.facts,
        }


def _to_original(poses: Poses, transform: LetterboxTransform) -> Poses:
    return Poses(
        boxes=transform.boxes_to_original(poses.boxes),
        scores=poses.scores,
        keypoints=transform.to_original(poses.keypoints),
        keypoint_scores=poses.keypoint_scores,
        skeleton=poses.skeleton,
    )


def _coordinates(artifact: Artifact) -> Coordinates | None:
    """The classifier of a raw graph; that it is the right file was checked when the estimator was made."""
    if artifact.kind is not Kind.ONNX or artifact.decode.mode is not DecodeMode.RAW:
        return None
    if artifact.companion is None:
        raise ArtifactError(
            "It is a raw graph without a companion file, so nobody can be decoded.",
            remedy="Export it again.",
            where=artifact.path,
        )
    return open_coordinates(artifact.path.with_name(artifact.companion.name))
