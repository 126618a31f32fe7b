"""A model that was judged, and what would explain that it finds less than it should: see :mod:`.annotated`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.errors import ModelError
from rtmo_deploy.measure.agreement.annotated import Frame, explain_misses
from rtmo_deploy.measure.agreement.matching import sigmas_of
from rtmo_deploy.poses import Poses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.measure.accuracy.detections import Detections
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.runtime.estimator import PoseEstimator

#: Pictures that are looked at, and those of them that the model is run on once more.
LOOKED_AT: Final = 64
RUN_AGAIN: Final = 16
#: People of a picture that count, as for the judge.
PEOPLE: Final = 20


def explain_evaluation(
    estimator: PoseEstimator,
    dataset: CocoKeypoints,
    detections: Detections,
    *,
    score_thr: float = 0.1,
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Try known mistakes on what a model found in a dataset.

    Args:
        estimator: The model; run on a few pictures with red and blue exchanged.
        dataset: The annotated pictures.
        detections: Whom it found in them.
        score_thr: People with a score not above this do not count.
        progress: Told what is being done.

    Returns:
        A sentence for each mistake that would explain misses; nothing for a model that finds what it should.
    """
    progress("looking for usual mistakes")
    with_people = [index for index in range(len(dataset)) if len(dataset.people(index))][:LOOKED_AT]
    skeleton = estimator.artifact.skeleton
    images = [dataset.image(index) for index in with_people]

    def again() -> list[Poses]:
        progress("running the model with channels reversed")
        turned = [np.ascontiguousarray(image[..., ::-1]) for image in images[:RUN_AGAIN]]
        try:
            found = estimator.predict(turned)
        except ModelError:
            return []  # what it puts out is not finite; nothing is explained by that
        return [people[np.flatnonzero(people.scores > score_thr)[:PEOPLE]] for people in found]

    return explain_misses(
        [dataset.people(index) for index in with_people],
        [_poses(detections, index, skeleton) for index in with_people],
        skeleton,
        sigmas_of(skeleton),
        frames=_frames(images, estimator.input_hw),
        reversed_channels=again,
    )


def _frames(images: Sequence[NDArray[np.uint8]], input_hw: tuple[int, int]) -> list[Frame]:
    return [Frame((image.shape[0], image.shape[1]), input_hw) for image in images]


def _poses(detections: Detections, index: int, skeleton: Skeleton) -> Poses:
    """The best people of a picture; boxes do not matter here."""
    rows = np.flatnonzero(detections.image == index)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")][:PEOPLE]
    points = detections.keypoints[rows]
    boxes = np.zeros((len(rows), 4), np.float32)
    return Poses(boxes, detections.scores[rows].astype(np.float32), points[..., :2], points[..., 2], skeleton)
