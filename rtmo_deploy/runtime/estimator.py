"""PoseEstimator: images in, poses out, whatever runs underneath."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.artifact import Artifact, DecodeMode, read_companion
from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import CHECKPOINT, FORMATS, MODEL, Format, Kind, likely_kind, require
from rtmo_deploy.runtime.backends import Backend, open_backend
from rtmo_deploy.runtime.decode import decode_raw, rows_to_poses
from rtmo_deploy.runtime.letterbox import LetterboxTransform, Placement, letterbox, to_tensor
from rtmo_deploy.zoo.locate import locate_model

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.decode import Array, Coordinates


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint, by its bytes; by its suffix where they do not tell."""
    return likely_kind(path) in CHECKPOINT.kinds


def read_artifact(path: Path, *, trust: bool = False) -> Artifact:
    """What a file is: a checkpoint, an engine, an OpenVINO or an ONNX model, by its bytes.

    Args:
        path: The file.
        trust: Take an engine, which is executable code, even if its record is missing or belongs to other bytes.

    Raises:
        ModelError: It is none of these, damaged, or not to be trusted.
    """
    kind = require(path, MODEL)
    if kind in CHECKPOINT.kinds:
        from rtmo_deploy.model import load_checkpoint

        return load_checkpoint(path).artifact()
    more = {"trust": trust} if kind is Kind.ENGINE else {}
    artifact: Artifact = Format.load(FORMATS[kind].reader)(path, **more)
    return artifact


def outputs_to_poses(
    outputs: Mapping[str, Array],
    input_hw: tuple[int, int],
    artifact: Artifact,
    coordinates: Coordinates | None = None,
) -> list[Poses]:
    """A backend's outputs to detections in network-input pixels, one entry an image.

    ``coordinates`` is the classifier that a ``raw`` graph leaves to the host.
    """
    skeleton = artifact.skeleton
    if "dets" not in outputs or "keypoints" not in outputs:
        if coordinates is None:
            raise ArtifactError(
                "It is a raw graph, and nothing was given to turn its pose vectors into keypoints.",
                remedy="Export it with --decode onnx or fixed.",
                where=artifact.path,
            )
        return decode_raw(outputs, input_hw, artifact.decode, skeleton, coordinates)
    dets, keypoints = outputs["dets"], outputs["keypoints"]
    if dets.ndim != 3 or dets.shape[2] != 5 or keypoints.shape != (*dets.shape[:2], len(skeleton), 3):
        raise ArtifactError(
            f"Its graph puts out dets {list(dets.shape)} and keypoints {list(keypoints.shape)}, and by its metadata "
            f"it has {len(skeleton)} keypoints.",
            remedy="Export the model again.",
            where=artifact.path,
        )
    return rows_to_poses(dets, keypoints, input_hw, artifact.decode, skeleton)


class PoseEstimator:
    """Finds people in images.

    Args:
        backend: What runs the network.
        input_hw: Height and width that images are letterboxed to, multiples of 32; the artifact's if not given.

    Raises:
        UsageError: The artifact does not take that size.
    """

    def __init__(self, backend: Backend, *, input_hw: tuple[int, int] | None = None) -> None:
        self.backend = backend
        self.artifact = backend.artifact
        contract = self.artifact.input
        own = (contract.height, contract.width)
        if input_hw not in {None, own} and not contract.dynamic_hw:
            raise UsageError(
                f"{self.artifact.path.name} takes images of {own[0]}x{own[1]} only.",
                remedy="Leave --imgsz away, or export the model without --static.",
            )
        self.input_hw = input_hw or own
        if any(side < 1 or side % contract.multiple for side in self.input_hw):
            raise UsageError(
                f"Images cannot be letterboxed to {self.input_hw[0]}x{self.input_hw[1]} (height x width).",
                remedy=f"Both must be positive multiples of {contract.multiple}.",
            )
        #: The classifier that a ``raw`` graph leaves to the host; None for other graphs.
        self.coordinates = coordinates_of(self.artifact)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        backend: str | None = None,
        input_hw: tuple[int, int] | None = None,
        threads: int | None = None,
        precision: str | None = None,
        trust: bool = False,
    ) -> PoseEstimator:
        """Open a model: a checkpoint, an engine, ONNX made by this project or by MMDeploy, or a model by name.

        Args:
            path: The file, or a name such as ``rtmo-s``, whose checkpoint is fetched if need be.
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            backend: Runtime, if there is a choice.
            input_hw: Height and width that images are letterboxed to; the model's own if not given.
            threads: Threads a CPU runtime may use.
            precision: What floats are computed in, where the runtime has a choice; see :func:`open_backend`.
            trust: Load an engine even if its record is missing or belongs to other bytes.

        Raises:
            ModelError: The file cannot be used.
            SetupError: A package or the device is missing.
            UsageError: The model does not take that size.
        """
        artifact = read_artifact(locate_model(path), trust=trust)
        opened = open_backend(artifact, device, backend=backend, threads=threads, precision=precision)
        return cls(opened, input_hw=input_hw)

    def __call__(self, image: str | os.PathLike[str] | NDArray[np.uint8]) -> Poses:
        """People in one image, given as a file or as ``(H, W, 3)`` uint8 BGR.

        Raises:
            InputDataError: The image cannot be read.
        """
        return self.predict([image])[0]

    def predict(self, images: Sequence[str | os.PathLike[str] | NDArray[np.uint8]], *, batch: int = 8) -> list[Poses]:
        """People in each image, in pixels of that image.

        Args:
            images: Files, or ``(H, W, 3)`` uint8 BGR arrays, of any sizes.
            batch: Images that are read and run at a time; a model with a fixed batch size takes that many.

        Raises:
            InputDataError: An image cannot be read.
            ArtifactError: The network puts out something that is not a number.
            UsageError: ``batch`` is not positive.
        """
        if batch < 1:
            raise UsageError(f"A batch of {batch} images is not possible.", remedy="Give a positive number.")
        size = self.artifact.input.batch or batch
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        return [poses for chunk in chunks for poses in self._predict_batch(chunk)]

    def _predict_batch(self, images: Sequence[str | os.PathLike[str] | NDArray[np.uint8]]) -> list[Poses]:
        contract = self.artifact.input
        arrays = [image if isinstance(image, np.ndarray) else read_image(image) for image in images]
        placed = [letterbox(array, self.input_hw, Placement(contract.placement)) for array in arrays]
        canvases = [canvas for canvas, _ in placed]
        # A model with a fixed batch size is fed its last image again to fill the last batch.
        filled = canvases + [canvases[-1]] * ((contract.batch or 0) - len(canvases))
        outputs = self.backend(to_tensor(filled))
        found = outputs_to_poses(outputs, self.input_hw, self.artifact, self.coordinates)[: len(canvases)]
        for poses in found:
            for name in ("boxes", "scores", "keypoints", "keypoint_scores"):
                if not np.isfinite(getattr(poses, name)).all():
                    raise ArtifactError(
                        f"Its {name} are not finite on this image.",
                        remedy="Its weights are damaged, or its precision is too low; 'rtmo-deploy validate' tells "
                        "more.",
                        where=self.artifact.path,
                    )
        return [poses_to_original(poses, transform) for poses, (_, transform) in zip(found, placed, strict=True)]


def poses_to_original(poses: Poses, transform: LetterboxTransform) -> Poses:
    """Poses in network-input pixels to pixels of the image."""
    boxes, keypoints = transform.boxes_to_original(poses.boxes), transform.to_original(poses.keypoints)
    return replace(poses, boxes=boxes, keypoints=keypoints)


def coordinates_of(artifact: Artifact) -> Coordinates | None:
    """The second file of a ``raw`` graph, opened; None where there is none to open."""
    if artifact.decode.mode is not DecodeMode.RAW:
        return None
    content = read_companion(artifact)
    return None if content is None else open_coordinates(content, where=artifact.path)


def open_coordinates(model: Path | bytes, *, where: object = None) -> Coordinates:
    """The classifier of a ``raw`` graph's companion file, as a function; runs on the CPU."""
    from rtmo_deploy.runtime.onnx_file import load_onnx, parse_onnx
    from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

    name = where or model
    # It comes with a stranger's model: checked as that is.
    checked = load_onnx(model) if isinstance(model, Path) else parse_onnx(model, Path(str(name)))
    session = open_session(checked.SerializeToString(), where=name)

    def run(pose_vecs: Array, boxes: Array, priors: Array) -> Array:
        feeds = {"pose_vecs": pose_vecs, "boxes": boxes, "priors": priors}
        return run_session(session, feeds, where=name)["keypoints"]

    return run
