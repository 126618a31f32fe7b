"""The judge: object keypoint similarity and average precision, by faster-coco-eval, under COCO's or CrowdPose's rules.

The score of a detection is the person's score. Of each picture the 20 best detections count. Crowds, and people whose
``num_keypoints`` is 0, are neither to be found nor to be missed. Under CrowdPose's rules a person's size is 0.53 of the
box, whatever the file says, and the figures by crowdedness split at ``crowdIndex`` 0.2 and 0.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.data.sample import GroundTruth
from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.accuracy.detections import Detections
from rtmo_deploy.measure.accuracy.protocol import METRICS, choose_protocol, choose_sigmas, require_people, sigma_source
from rtmo_deploy.measure.accuracy.report import AccuracyReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import PoseDataset
    from rtmo_deploy.poses import Poses, Skeleton

#: Detections of a picture that count.
MAX_DETECTIONS: Final = 20
#: Upper ends of CrowdPose's easy and medium pictures, exclusive.
CROWD_EDGES: Final = (0.2, 0.8)
#: Share of a box that stands for a person's area where there is none.
AREA_OF_BOX: Final = 0.53
#: COCO's tools leave larger people out of every figure.
LARGEST_AREA: Final = 1e10

_AREAS: Final = {"": 0, "(M)": 1, "(L)": 2}


def evaluate_poses(
    dataset: PoseDataset,
    predictions: Sequence[Poses],
    *,
    protocol: str | None = None,
    sigmas: float | Sequence[float] | None = None,
) -> AccuracyReport:
    """Judge poses against a dataset.

    A dataset over an annotation file (:class:`~rtmo_deploy.data.coco.CocoKeypoints`) knows its crowds and is judged as
    the file says, without a picture being read. Of any other, each sample is read for its people, and a detection of
    somebody in ``Sample.ignore`` counts as wrong.

    Args:
        dataset: The annotated pictures.
        predictions: The poses found in each of them, in its order, in pixels of the picture.
        protocol: ``coco`` or ``crowdpose``; by the keypoints if not given.
        sigmas: One OKS sigma for all keypoints, or one each; those of the dataset's skeleton if not given.

    Raises:
        UsageError: The predictions do not fit the dataset, or there are no sigmas.
    """
    if len(predictions) != len(dataset):
        raise UsageError(
            f"There are poses of {len(predictions)} pictures, and {len(dataset)} pictures.",
            remedy="Give one Poses for each picture of the dataset, in its order.",
        )
    joints = len(dataset.skeleton)
    odd = next((poses for poses in predictions if len(poses.skeleton) != joints), None)
    if odd is not None:
        raise UsageError(
            f"The poses have {len(odd.skeleton)} keypoints, the dataset's people {joints}.",
            remedy="Judge a model on data with its own keypoints.",
        )
    found = getattr(dataset, "ground_truth", None)
    if found is None:
        people = (dataset[index].people for index in range(len(dataset)))
        truth = GroundTruth.from_people(people, joints)
    else:
        truth = found()
    detections = Detections.from_poses(predictions, joints)
    return judge(truth, detections, dataset.skeleton, protocol=protocol, sigmas=sigmas)


def judge(
    truth: GroundTruth,
    detections: Detections,
    skeleton: Skeleton,
    *,
    protocol: str | None = None,
    sigmas: float | Sequence[float] | None = None,
) -> AccuracyReport:
    """Judge detections.

    Args:
        truth: The annotated people.
        detections: The people found in these pictures.
        skeleton: What the keypoints of both are.
        protocol: ``coco`` or ``crowdpose``; by the keypoints if not given.
        sigmas: One OKS sigma for all keypoints, or one each; the skeleton's if not given.

    Raises:
        UsageError: There is no such protocol, or there are no sigmas.
        InputDataError: There is nobody to find, or the skeleton's sigmas are a guess.
    """
    name = choose_protocol(protocol, skeleton, truth)
    used = choose_sigmas(sigmas, skeleton)
    require_people(truth)
    evaluator = _Evaluator(truth, detections, used, crowdpose=name == "crowdpose")
    notes = []
    precision, recall = evaluator.run(None)
    metrics: dict[str, float | None] = {}
    for metric in METRICS[name]:
        if name == "crowdpose" and metric in ("AP(E)", "AP(M)", "AP(H)"):
            metrics[metric] = evaluator.at_crowdedness("EMH".index(metric[3]))
        else:
            metrics[metric] = _figure(precision if metric.startswith("AP") else recall, metric[2:])
    if name == "crowdpose" and not np.isfinite(truth.crowd_index).all():
        notes.append("Pictures without a crowdIndex are in none of AP(E), AP(M), AP(H).")
    if name == "coco" and detections.boxes is None and len(detections):
        notes.append("The predictions have no boxes: their sizes, for (M) and (L), are the extents of their keypoints.")
    if name == "coco" and not (truth.areas > 0).all():
        notes.append("Where no area is annotated, it is 0.53 of the box.")
    if not len(detections):
        notes.append("There are no detections.")
    return AccuracyReport(
        metrics=metrics,
        protocol=name,
        images=truth.num_images,
        people=truth.num_people,
        detections=len(detections),
        skeleton=skeleton.name,
        sigmas=used,
        sigmas_from=sigma_source(sigmas, skeleton),
        notes=tuple(notes),
    )


def _figure(values: NDArray[np.float64], which: str) -> float | None:
    """A figure of ``(T, ..., A)`` values over thresholds and areas, -1 where undefined; ``which``: 50, 75, (M), (L)."""
    chosen = values[..., _AREAS.get(which, 0)]
    if which.isdecimal():
        chosen = chosen[(int(which) - 50) // 5]
    defined = chosen[chosen > -1]
    return float(defined.mean()) if defined.size else None


class _Evaluator:
    """faster-coco-eval over a ground truth and detections."""

    def __init__(
        self, truth: GroundTruth, detections: Detections, sigmas: tuple[float, ...], *, crowdpose: bool
    ) -> None:
        from faster_coco_eval.core import COCO, COCOeval_faster

        # Of equal scores the picture with the smaller id comes first, as in the COCO tools.
        ids = truth.image_ids.tolist()
        order = sorted(range(len(ids)), key=lambda index: (isinstance(ids[index], str), ids[index]))
        self._rank = np.empty(len(ids), np.int64)
        self._rank[order] = np.arange(1, len(ids) + 1)
        self._crowd_index = truth.crowd_index
        shared: dict[str, Any] = {
            "images": [{"id": rank} for rank in range(1, len(ids) + 1)],
            "categories": [{"id": 1, "name": "person"}],
        }
        wanted = COCO({**shared, "annotations": self._wanted(truth)})
        given = COCO({**shared, "annotations": self._given(detections)})
        self._evaluator = COCOeval_faster(
            wanted,
            given,
            iouType="keypoints_crowd" if crowdpose else "keypoints",
            print_function=lambda *_: None,
            kpt_oks_sigmas=list(sigmas),
            use_area=not crowdpose,
        )
        self._evaluator.params.catIds = [1]
        self._evaluator.params.maxDets = [MAX_DETECTIONS]

    def _wanted(self, truth: GroundTruth) -> list[dict[str, Any]]:
        boxes = truth.boxes
        areas = np.where(truth.areas > 0, truth.areas, AREA_OF_BOX * boxes[:, 2] * boxes[:, 3])
        areas = np.minimum(areas, LARGEST_AREA)
        columns = zip(
            self._rank[truth.image].tolist(),
            boxes.tolist(),
            areas.tolist(),
            truth.crowd.tolist(),
            truth.num_keypoints.tolist(),
            [points.ravel().tolist() for points in truth.keypoints],
            strict=True,
        )
        return [
            {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
                "num_keypoints": count,
                "keypoints": points,
            }
            for number, (image, box, area, crowd, count, points) in enumerate(columns, 1)
        ]

    def _given(self, detections: Detections) -> list[dict[str, Any]]:
        columns = zip(
            self._rank[detections.image].tolist(),
            detections.areas.tolist(),
            detections.scores.tolist(),
            [points.ravel().tolist() for points in detections.keypoints],
            strict=True,
        )
        return [
            {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "area": area,
                "iscrowd": 0,
                "score": score,
                "keypoints": points,
            }
            for number, (image, area, score, points) in enumerate(columns, 1)
        ]

    def run(self, images: NDArray[np.bool_] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision ``(T, R, A)`` and recall ``(T, A)`` over some pictures, or over all."""
        ranks = self._rank if images is None else self._rank[images]
        self._evaluator.params.imgIds = sorted(ranks.tolist())
        self._evaluator.evaluate()
        self._evaluator.accumulate()
        figures = self._evaluator.eval
        return np.asarray(figures["precision"])[:, :, 0, :, 0], np.asarray(figures["recall"])[:, 0, :, 0]

    def at_crowdedness(self, which: int) -> float | None:
        """AP of the easy, medium or hard pictures, rounded to four digits as the reference does; None without any."""
        first, second = CROWD_EDGES
        lower, upper = ((-np.inf, first), (first, second), (second, np.inf))[which]
        chosen = (self._crowd_index >= lower) & (self._crowd_index < upper)
        if not chosen.any():
            return None
        figure = round(float(self.run(chosen)[0][..., 0].mean()), 4)
        return figure if figure >= 0 else None
