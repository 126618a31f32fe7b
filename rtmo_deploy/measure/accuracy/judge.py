"""The judge: object keypoint similarity and average precision, by faster-coco-eval, under COCO's or CrowdPose's rules.

The score of a detection is the person's score. Of each image the 20 best detections count. Crowds, and people whose
``num_keypoints`` is 0, are neither to be found nor to be missed. Under CrowdPose's rules a person's size is 0.53 of the
box, whatever the file says, and the figures by crowdedness split at ``crowdIndex`` 0.2 and 0.8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from rtmo_deploy.data.sample import AREA_OF_BOX, LARGEST_AREA, GroundTruth
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.measure.accuracy.detections import Detections
from rtmo_deploy.zoo.cache import identify_published
from rtmo_deploy.zoo.skeletons import CONVENTIONS, CROWDPOSE_14

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.data.sample import PoseDataset
    from rtmo_deploy.poses import Poses, Skeleton


ProtocolName = Literal["coco", "crowdpose"]


@dataclass(frozen=True)
class AccuracyReport:
    """What a judge found."""

    protocol: ProtocolName
    #: Figures by name, in the order of the protocol; fractions of 1, None where there is nothing to measure (no people
    #: of that size, no images of that crowdedness).
    metrics: Mapping[str, float | None]
    #: Images that were judged, those without people included.
    images: int
    #: Annotated people that count.
    people: int
    #: Detections, the wrong ones included; of each image the 20 best count.
    detections: int
    #: Name of the keypoint convention.
    skeleton: str
    #: OKS sigma of each keypoint, and where they come from: a convention, a file, or ``given``.
    sigmas: tuple[float, ...]
    sigmas_from: str = ""
    #: What a reader of the figures should know.
    notes: tuple[str, ...] = ()

    @property
    def ap(self) -> float:
        """Average precision; NaN where there is nobody to find."""
        value = self.metrics["AP"]
        return float("nan") if value is None else value


_NAMES: Final = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AR": "ar",
    "AR50": "ar50",
    "AP(E)": "ap_easy",
    "AP(M)": "ap_medium",
    "AP(H)": "ap_hard",
}


@dataclass(frozen=True)
class Published:
    """Figures that were published for a checkpoint, fractions of 1, and what they were measured on."""

    model: str
    dataset: str
    protocol: ProtocolName
    metrics: Mapping[str, float]
    #: By what the file was taken for that checkpoint.
    known_by: str = ""


def published_figures(artifact: Artifact, sha256: str) -> Published | None:
    """The published figures of a model, by its file's SHA-256, if it is a published checkpoint or made from one."""
    hashes = [sha256, *(parent.sha256 for parent in artifact.parents)]
    variant = next((found for found in map(identify_published, hashes) if found is not None), None)
    if variant is None:
        return None
    record = variant.accuracy
    protocol: ProtocolName = "crowdpose" if record.dataset.startswith("CrowdPose") else "coco"
    every = {name: getattr(record, field) for name, field in _NAMES.items()}
    figures = {name: value for name, value in every.items() if value is not None}
    return Published(variant.name, record.dataset, protocol, figures, variant.known_by)


#: The figures of each protocol, in the order in which they are reported everywhere.
METRICS: Final[dict[ProtocolName, tuple[str, ...]]] = {
    "coco": ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR", "AR50", "AR75", "AR(M)", "AR(L)"),
    "crowdpose": ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP(E)", "AP(M)", "AP(H)"),
}


def choose_protocol(wanted: str | None, skeleton: Skeleton, truth: GroundTruth) -> ProtocolName:
    """The protocol that is asked for; else CrowdPose's for its keypoints and files with a ``crowdIndex``, else COCO's.

    Raises:
        UsageError: There is no such protocol.
    """
    if wanted is None:
        crowded = bool(np.isfinite(truth.crowd_index).any())
        return "crowdpose" if crowded or skeleton.keypoints == CROWDPOSE_14.keypoints else "coco"
    for name in METRICS:
        if wanted == name:
            return name
    raise UsageError(f"There is no protocol '{wanted}'.", remedy=f"There are: {', '.join(METRICS)}.")


def choose_sigmas(wanted: float | Sequence[float] | None, skeleton: Skeleton) -> tuple[float, ...]:
    """The sigmas that are asked for (one for all keypoints, or one each), else those of the skeleton.

    Raises:
        UsageError: None are asked for and the skeleton has none; or they are too few, too many, or not positive.
        InputDataError: None are asked for, and the skeleton's are a guess.
    """
    count = len(skeleton)
    if wanted is None:
        if skeleton.sigmas and skeleton.source.startswith("guessed from names"):
            raise InputDataError(
                f"The OKS sigmas of '{skeleton.name}' would be {skeleton.source}, and the average precision depends on "
                "them.",
                remedy=f"Say what the keypoints are with --skeleton ({', '.join(CONVENTIONS)} or a JSON file), or give "
                "--sigma.",
            )
        if not skeleton.sigmas:
            raise UsageError(
                f"Nobody has measured OKS sigmas for the keypoints of '{skeleton.name}', and without them there is no "
                "average precision.",
                remedy=f"Give one for all keypoints (--sigma 0.05; COCO's are 0.025 to 0.107) or {count} of them.",
            )
        return skeleton.sigmas
    sigmas = (float(wanted),) * count if isinstance(wanted, int | float) else tuple(map(float, wanted))
    if len(sigmas) != count:
        raise UsageError(
            f"{len(sigmas)} sigmas do not fit {count} keypoints.", remedy=f"Give one for all, or {count} of them."
        )
    if not all(math.isfinite(sigma) and sigma > 0 for sigma in sigmas):
        raise UsageError("A sigma is not positive.", remedy="COCO's are 0.025 to 0.107.")
    return sigmas


def require_people(truth: GroundTruth) -> None:
    """Refuse an evaluation of nobody.

    Raises:
        InputDataError: No annotated person counts.
    """
    if truth.num_people == 0:
        raise InputDataError(
            f"There is nobody to find in the {truth.num_images} annotated images: no annotation of the category has "
            "labelled keypoints and num_keypoints above 0, and is no crowd.",
            remedy="Check category_id, num_keypoints and iscrowd; 'rtmo-deploy data check --ann FILE' lists what was "
            "left out.",
        )


#: Detections of an image that count.
MAX_DETECTIONS: Final = 20
#: Crowdedness of CrowdPose's easy, medium and hard images, the upper end exclusive.
CROWD_RANGES: Final = {"AP(E)": (-math.inf, 0.2), "AP(M)": (0.2, 0.8), "AP(H)": (0.8, math.inf)}

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
    the file says, without an image being read. Of any other, each sample is read for its people, and a detection of
    somebody in ``Sample.ignore`` counts as wrong.

    Args:
        dataset: The annotated images.
        predictions: The poses found in each of them, in its order, in pixels of the image.
        protocol: ``coco`` or ``crowdpose``; by the keypoints if not given.
        sigmas: One OKS sigma for all keypoints, or one each; those of the dataset's skeleton if not given.

    Raises:
        UsageError: The predictions do not fit the dataset, or there are no sigmas.
    """
    if len(predictions) != len(dataset):
        raise UsageError(
            f"There are poses of {len(predictions)} images, and {len(dataset)} images.",
            remedy="Give one Poses for each image of the dataset, in its order.",
        )
    joints = len(dataset.skeleton)
    other = next((poses for poses in predictions if len(poses.skeleton) != joints), None)
    if other is not None:
        raise UsageError(
            f"The poses have {len(other.skeleton)} keypoints, the dataset's people {joints}.",
            remedy="Judge a model on data with its own keypoints.",
        )
    annotated = getattr(dataset, "ground_truth", None)
    if annotated is None:
        truth = GroundTruth.from_people((dataset[index].people for index in range(len(dataset))), joints)
    else:
        truth = annotated()
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
        detections: The people found in these images.
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
    evaluator, ranks = _evaluator(truth, detections, used, crowdpose=name == "crowdpose")
    notes = []
    precision, recall = _run(evaluator, ranks)
    metrics: dict[str, float | None] = {}
    for metric in METRICS[name]:
        if name == "crowdpose" and metric in CROWD_RANGES:
            lower, upper = CROWD_RANGES[metric]
            metrics[metric] = _crowded(evaluator, ranks[(truth.crowd_index >= lower) & (truth.crowd_index < upper)])
        else:
            metrics[metric] = _figure(precision if metric.startswith("AP") else recall, metric[2:])
    if name == "crowdpose" and not np.isfinite(truth.crowd_index).all():
        notes.append("Images without a crowdIndex are in none of AP(E), AP(M), AP(H).")
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
        sigmas_from="given" if sigmas is not None else skeleton.source or skeleton.name,
        notes=tuple(notes),
    )


def _figure(values: NDArray[np.float64], which: str) -> float | None:
    """A figure of ``(T, ..., A)`` values over thresholds and areas, -1 where undefined; ``which``: 50, 75, (M), (L)."""
    chosen = values[..., _AREAS.get(which, 0)]
    if which.isdecimal():
        chosen = chosen[(int(which) - 50) // 5]
    defined = chosen[chosen > -1]
    return float(defined.mean()) if defined.size else None


def _evaluator(
    truth: GroundTruth, detections: Detections, sigmas: tuple[float, ...], *, crowdpose: bool
) -> tuple[Any, NDArray[np.int64]]:
    """faster-coco-eval over a ground truth and detections, and the id that each image has there."""
    from faster_coco_eval.core import COCO, COCOeval_faster

    # Of equal scores the image with the smaller id comes first, as in the COCO tools.
    ids = truth.image_ids.tolist()
    order = sorted(range(len(ids)), key=lambda index: (isinstance(ids[index], str), ids[index]))
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(1, len(ids) + 1)
    areas = np.where(truth.areas > 0, truth.areas, AREA_OF_BOX * truth.boxes[:, 2] * truth.boxes[:, 3])
    count = len(detections)
    wanted = _entries(
        image_id=ranks[truth.image],
        bbox=truth.boxes,
        area=np.minimum(areas, LARGEST_AREA),
        iscrowd=truth.crowd.astype(int),
        num_keypoints=truth.num_keypoints,
        keypoints=truth.keypoints.reshape(len(areas), -1),
    )
    given = _entries(
        image_id=ranks[detections.image],
        area=detections.areas,
        iscrowd=np.zeros(count, int),
        score=detections.scores,
        keypoints=detections.keypoints.reshape(count, -1) if count else np.zeros((0, 0)),
    )
    shared: dict[str, Any] = {
        "images": [{"id": rank} for rank in range(1, len(ids) + 1)],
        "categories": [{"id": 1, "name": "person"}],
    }
    evaluator = COCOeval_faster(
        COCO({**shared, "annotations": wanted}),
        COCO({**shared, "annotations": given}),
        iouType="keypoints_crowd" if crowdpose else "keypoints",
        print_function=lambda *_: None,
        kpt_oks_sigmas=list(sigmas),
        use_area=not crowdpose,
    )
    evaluator.params.catIds = [1]
    evaluator.params.maxDets = [MAX_DETECTIONS]
    return evaluator, ranks


def _entries(**columns: NDArray[Any]) -> list[dict[str, Any]]:
    """Annotations as COCO has them, from the columns of a table of them."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"id": number, "category_id": 1, **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows, 1)
    ]


def _run(evaluator: Any, ranks: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision ``(T, R, A)`` and recall ``(T, A)`` over images."""
    evaluator.params.imgIds = sorted(ranks.tolist())
    evaluator.evaluate()
    evaluator.accumulate()
    figures = evaluator.eval
    return np.asarray(figures["precision"])[:, :, 0, :, 0], np.asarray(figures["recall"])[:, 0, :, 0]


def _crowded(evaluator: Any, ranks: NDArray[np.int64]) -> float | None:
    """AP of images of one crowdedness, rounded to four digits as the reference does; None without any."""
    if not ranks.size:
        return None
    figure = round(float(_run(evaluator, ranks)[0][..., 0].mean()), 4)
    return figure if figure >= 0 else None
