"""What 8 bits cost: the people that a quantised model finds, against the annotations and against the float32 model.

Average precision alone hides two things that clients notice: keypoints that move a little, and confidences that are
squeezed while their order stays. So each person of the float32 model is looked for among the quantised model's, and
their keypoint similarity (OKS) and the ratio of their scores are reported as well.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.artifact import read_companion, write_companion
from rtmo_deploy.errors import ModelError, UsageError
from rtmo_deploy.measure.accuracy import Detections, judge
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.estimator import PoseEstimator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.data.sample import GroundTruth, PoseDataset
    from rtmo_deploy.poses import Poses, Skeleton

#: OKS sigma of keypoints whose own nobody has measured; the middle of COCO's.
SIGMA = 0.07
#: People are the same only if their similarity is at least this.
LEAST_OKS = 0.1
#: A person's area is this share of the box, as the judge takes it where none is annotated.
AREA_OF_BOX = 0.53


@dataclass(frozen=True)
class Likeness:
    """How alike two lists of people are, picture by picture.

    Attributes:
        matched: People in both.
        missed: People only in the first.
        extra: People only in the second.
        oks: Mean similarity of the first's people to theirs in the second, 0 for the missed; None of nobody.
        score_ratio: Median of the second's score over the first's, of those in both; None where there is nobody.
        keypoint_px: Mean distance of their keypoints, pixels of the original picture; None where there is nobody.
    """

    matched: int
    missed: int
    extra: int
    oks: float | None
    score_ratio: float | None
    keypoint_px: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dict(vars(self))


@dataclass(frozen=True)
class Verdict:
    """What a model is worth.

    Attributes:
        ap: AP, 0 to 1; None where the pictures have no annotations that fit the model, or
            nobody to find.
        likeness: To the float32 model.
    """

    ap: float | None
    likeness: Likeness

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ap": self.ap, "against_fp32": self.likeness.to_dict()}


class Judge:
    """Judges models that differ in their precision only, on the same pictures, by ONNX Runtime on the CPU.

    Args:
        artifact: The float32 model; its companion, if it has one, lies beside it.
        dataset: The pictures.
        threads: Threads an operator may use.
        progress: Told how many images the float32 model has done.

    Raises:
        UsageError: There is no picture.
    """

    def __init__(
        self,
        artifact: Artifact,
        dataset: PoseDataset,
        *,
        threads: int | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        if not len(dataset):
            raise UsageError("There is no picture to judge by.", remedy="Judge by one or more.")
        self.artifact, self.dataset, self.threads = artifact, dataset, threads
        self._fits = _same_keypoints(dataset.skeleton, artifact.skeleton)
        self._sigmas = artifact.skeleton.sigmas or (SIGMA,) * len(artifact.skeleton)
        self._truth: GroundTruth | None = None
        self._reference = self._people(artifact.path, "judging the float32 model", progress)
        self.baseline = self._verdict(self._reference)

    def __call__(self, model: onnx.ModelProto, *, progress: Callable[[str], None] = lambda _: None) -> Verdict:
        """Judge a model that was made of the float32 one; ``progress`` is told how many images are done.

        Raises:
            ModelError: It does not run, or puts out something that is not a number.
        """
        with tempfile.TemporaryDirectory(prefix="rtmo-deploy-") as folder:
            path = Path(folder) / self.artifact.path.name
            path.write_bytes(model.SerializeToString())
            write_companion(self.artifact, read_companion(self.artifact), path)
            try:
                people = self._people(path, "judging the INT8 model", progress)
            except ModelError as error:
                raise type(error)(
                    f"Quantised, it does not work: {error.finding}",
                    remedy="Calibrate with other pictures or another --method.",
                    where=self.artifact.path,
                ) from error
        return self._verdict(people)

    def _people(self, path: Path, what: str, progress: Callable[[str], None]) -> list[Poses]:
        estimator = PoseEstimator.open(path, device="cpu", backend="onnxruntime", threads=self.threads)
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
            report = judge(self._truth, detections, self.artifact.skeleton, sigmas=self._sigmas)
            ap = report.metrics["AP"]
        return Verdict(ap, likeness(self._reference, people, self._sigmas))


def _same_keypoints(one: Skeleton, two: Skeleton) -> bool:
    """Whether two conventions have the same keypoints in the same order, as far as they name them."""
    unnamed = type(one).generic(len(two)).keypoints
    return len(one) == len(two) and (one.keypoints == two.keypoints or unnamed in (one.keypoints, two.keypoints))


def likeness(reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]) -> Likeness:
    """Match the people of each picture one to one, most similar first, and compare them.

    Args:
        reference: One entry a picture.
        other: The same pictures, in the same pixels.
        sigmas: OKS sigma of each keypoint.
    """
    similarity: list[float] = []
    ratios: list[float] = []
    distances: list[NDArray[np.float32]] = []
    missed = extra = 0
    for one, two in zip(reference, other, strict=True):
        pairs = _pairs(_oks(one, two, np.asarray(sigmas)))
        missed += len(one) - len(pairs)
        extra += len(two) - len(pairs)
        for i, j, oks in pairs:
            similarity.append(oks)
            ratios.append(float(two.scores[j] / max(float(one.scores[i]), 1e-9)))
            distances.append(np.linalg.norm(one.keypoints[i] - two.keypoints[j], axis=-1))
    people = len(similarity) + missed
    return Likeness(
        matched=len(similarity),
        missed=missed,
        extra=extra,
        oks=sum(similarity) / people if people else None,
        score_ratio=float(np.median(ratios)) if ratios else None,
        keypoint_px=float(np.mean(distances)) if distances else None,
    )


def _oks(one: Poses, two: Poses, sigmas: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, M)`` similarity of everybody to everybody: mean over keypoints of exp(-d^2 / (2 area (2 sigma)^2))."""
    sides = np.maximum(one.boxes[:, 2:] - one.boxes[:, :2], 1.0).astype(np.float64)
    area = AREA_OF_BOX * sides.prod(axis=1)
    square = np.square(one.keypoints[:, None].astype(np.float64) - two.keypoints[None]).sum(-1)
    return np.asarray(np.exp(-square / (2 * area[:, None, None] * np.square(2 * sigmas))).mean(-1))


def _pairs(oks: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    found: list[tuple[int, int, float]] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for flat in np.argsort(-oks, axis=None, kind="stable").tolist():
        i, j = divmod(flat, oks.shape[1])
        value = float(oks[i, j])
        if value < LEAST_OKS:
            break
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            found.append((i, j, value))
    return found
