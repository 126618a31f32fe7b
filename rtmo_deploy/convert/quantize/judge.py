"""Judges a quantised model: its detections against the annotations and against the float32 model's.

Average precision alone hides two things that clients notice: keypoints that move a little, and confidences that are
squeezed while their order stays. So each detection of the float32 model is looked for among the quantised model's, and
their OKS and the ratio of their scores are reported as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.artifact import MODEL_LOG, Target, read_companion, write_companion
from rtmo_deploy.convert.graph import copy_of
from rtmo_deploy.convert.step import write_metadata
from rtmo_deploy.errors import InputDataError, ModelError, UsageError
from rtmo_deploy.files import temporary_folder
from rtmo_deploy.measure.accuracy import Detections, judge
from rtmo_deploy.measure.accuracy.run import common_skeleton
from rtmo_deploy.measure.comparison import compare_people, sigmas_of
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.estimator import PoseEstimator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.data.sample import GroundTruth, PoseDataset
    from rtmo_deploy.measure.comparison import Figures
    from rtmo_deploy.poses import Poses, Skeleton

#: Names of the figures in the JSON form.
_JSON: Final = {
    "matched": "matched",
    "missed": "missed",
    "extra": "extra",
    "oks": "oks",
    "score_ratio": "score_ratio",
    "keypoint_px_mean": "keypoint_px",
}


@dataclass(frozen=True)
class Verdict:
    """What a model is worth."""

    ap: float | None  #: 0 to 1; None where the images have no annotations that fit the model, or nobody to find.
    against_fp32: Figures  #: How far its detections are from the float32 model's, in pixels of the original image.

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ap": self.ap, "against_fp32": self.against_fp32.to_dict(_JSON)}


class Judge:
    """Judges models that differ in their precision only, on the same images, on the CPU.

    An INT8 model runs in the runtime that it is for, in 8 bits, where that can be had. Elsewhere it is computed in
    float32 and rounded as in 8 bits, which the runtime's own 8 bits may differ from.

    Args:
        artifact: The float32 model; its companion, if it has one, lies beside it.
        dataset: The images.
        target: Runtime that the models are for.
        threads: Threads an operator may use.
        progress: Told how many images the float32 model has done.

    Raises:
        UsageError: There is no image.
    """

    def __init__(
        self,
        artifact: Artifact,
        dataset: PoseDataset,
        target: Target,
        *,
        threads: int | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        if not len(dataset):
            raise UsageError("There is no image to judge by.", remedy="Judge by one or more.")
        self.artifact, self.dataset, self.threads = artifact, dataset, threads
        self._target = target
        #: Runtime, how it computes 8 bits, and whether these are the target's own.
        self.how, self.native, self._opening = _judged_in(target)
        self._fits = _same_keypoints(artifact.skeleton, dataset.skeleton)
        self._truth: GroundTruth | None = None
        reference = {"backend": "onnxruntime"}
        self._reference = self._people(artifact.path, reference, "judging the float32 model", progress)
        self.baseline = self._verdict(self._reference)

    def __call__(self, model: onnx.ModelProto, *, progress: Callable[[str], None] = lambda _: None) -> Verdict:
        """Judge a model that was made of the float32 one; ``progress`` is told how many images are done.

        Raises:
            ModelError: It does not run, or puts out something that is not a number.
        """
        with temporary_folder() as folder:
            path = folder / self.artifact.path.name
            marked = copy_of(model)
            write_metadata(marked, replace(self.artifact, path=path, precision="int8", target=self._target))
            path.write_bytes(marked.SerializeToString())
            write_companion(self.artifact, read_companion(self.artifact), path)
            MODEL_LOG.addFilter(_silent)  # the float32 model's notes are said, and ``how`` says what is emulated
            try:
                people = self._people(path, self._opening, "judging the INT8 model", progress)
            except ModelError as error:
                raise type(error)(
                    f"Quantised, it does not work: {error.finding}",
                    remedy="Calibrate with other images or another --method.",
                    where=self.artifact.path,
                ) from error
            finally:
                MODEL_LOG.removeFilter(_silent)
        return self._verdict(people)

    def _people(
        self, path: Path, opening: Mapping[str, str], what: str, progress: Callable[[str], None]
    ) -> list[Poses]:
        estimator = PoseEstimator.open(path, device="cpu", threads=self.threads, **opening)
        found, truth = [], []
        collects = self._truth is None and self._fits
        annotated = getattr(self.dataset, "ground_truth", None)
        read = getattr(self.dataset, "image", None)
        for index in range(len(self.dataset)):
            if read is not None and annotated is not None:
                image = read(index)
            else:
                sample = self.dataset[index]
                image = sample.image
                truth += [sample.people] if collects else []
            found += estimator.predict([image], batch=1)
            progress(Count(what, index + 1, len(self.dataset)))
        if collects:
            from rtmo_deploy.data.sample import GroundTruth

            self._truth = annotated() if annotated else GroundTruth.from_people(truth, len(self.dataset.skeleton))
        return found

    def _verdict(self, people: Sequence[Poses]) -> Verdict:
        ap = None
        if self._truth is not None:
            detections = Detections.from_poses(people, len(self.artifact.skeleton))
            report = judge(self._truth, detections, self.artifact.skeleton, sigmas=sigmas_of(self.artifact.skeleton))
            ap = report.metrics["AP"]
        return Verdict(ap, compare_people(self._reference, people, boxes=False))


def _silent(_: object) -> bool:
    return False


def _judged_in(target: Target) -> tuple[str, bool, Mapping[str, str]]:
    """Where INT8 models for a runtime are judged on this machine, in words; whether in its own 8 bits; how it opens."""
    emulated, here = "in float32, rounded as in 8 bits", {"backend": "onnxruntime"}
    if target is Target.TENSORRT:
        return f"ONNX Runtime, {emulated}", False, here
    if target is Target.OPENVINO:
        if find_spec("openvino") is None:
            return f"ONNX Runtime, {emulated}: OpenVINO is not installed", False, here
        from rtmo_deploy.runtime.openvino_backend import saturates

        name, here, otherwise = "OpenVINO", {"backend": "openvino"}, {"precision": "fp32"}
    else:
        from rtmo_deploy.runtime.onnxruntime_backend import saturates

        name, otherwise = "ONNX Runtime", {}  # which emulates by itself
    if saturates():
        return f"{name}, {emulated}: this CPU has no VNNI", False, {**here, **otherwise}
    return f"{name}, in 8 bits", True, here


def _same_keypoints(model: Skeleton, data: Skeleton) -> bool:
    """Whether a model and annotations have the same keypoints in the same order, as far as they name them."""
    try:
        common_skeleton(model, data, told=False)
    except (UsageError, InputDataError):
        return False
    return True
