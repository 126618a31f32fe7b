"""Why a model does not find the people that are annotated: the usual mistakes, each undone on what it found.

As in :mod:`.causes`, nothing is decided here. A mistake is told if the same people fit the annotations much better once
it is undone; a model that is merely worse fits no better under any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.errors import ModelError
from rtmo_deploy.measure.agreement.causes import CROWD, order_told
from rtmo_deploy.measure.comparison import object_keypoint_similarity, sigmas_of
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.letterbox import LetterboxTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.data.sample import People
    from rtmo_deploy.measure.accuracy.detections import Detections
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.runtime.estimator import PoseEstimator

    Points = NDArray[np.float64]

#: A mistake against annotations must raise the mean OKS by so much, and by this factor when it is undone.
GAIN: Final = 0.1
FACTOR: Final = 1.25
#: With another input, where people are compared one by one: by so much, and by so many standard errors.
INPUT_GAIN: Final = 0.02
CERTAIN: Final = 3.0
#: Annotated images that are looked at, and those of them that the model is run on once more.
LOOKED_AT: Final = 64
RUN_AGAIN: Final = 16
#: Detections of an image that count, as in the evaluation.
PEOPLE: Final = 20

#: Mistakes with the letterbox, and how places that come from it are put right.
LETTERBOXES: Final[tuple[tuple[str, Callable[[Points, LetterboxTransform], Points]], ...]] = (
    ("the letterbox's padding was not taken away from their coordinates", lambda p, t: p - _padding(t)),
    ("a padding was taken away that the image does not have", lambda p, t: p + _padding(t)),
    ("the letterbox's scale was not undone", lambda p, t: p / t.scale),
    (
        "their coordinates were those of the network's input: the letterbox was not undone",
        lambda p, t: t.to_original(p),
    ),
)


def _padding(transform: LetterboxTransform) -> Points:
    """x, y in pixels of the image: how far it is from the input's corner."""
    return np.array(transform.offset) / transform.scale


def explain_misses(
    truth: Sequence[People],
    found: Sequence[Poses],
    skeleton: Skeleton,
    sigmas: Sequence[float],
    *,
    frames: Sequence[LetterboxTransform] = (),
    reversed_channels: Callable[[], Sequence[Poses]] | None = None,
) -> list[str]:
    """Try known mistakes on detections that do not fit the annotations.

    Args:
        truth: The annotated people of some images.
        found: The detections, in pixels of the image.
        skeleton: What the keypoints of both are.
        sigmas: ``(K,)`` OKS sigma of each.
        frames: Where each image lies in its network input; nothing is said of letterboxes without them.
        reversed_channels: Runs the model on the first of the images, on any number, with red and blue exchanged.

    Returns:
        A sentence for each mistake that would explain it; nothing for a model that fits.
    """
    if not sum(map(len, truth)):
        return []
    points = [one.keypoints.astype(np.float64) for one in found]
    before = fit(truth, points, sigmas)
    left_right = [places[:, skeleton.flip_indices()] for places in points]
    mistakes = [
        (words, [undo(places, frame) for places, frame in zip(points, frames, strict=True)])
        for words, undo in LETTERBOXES
        if frames
    ]
    tried = [(float(fit(truth, undone, sigmas).mean()), words) for words, undone in mistakes]
    causes = [_told(before, *max(tried))] if tried and _better(before, max(tried)[0]) else []
    flipped = float(fit(truth, left_right, sigmas).mean())
    if _better(before, flipped):
        causes.append(_told(before, flipped, "left and right of their keypoints were swapped"))
    else:
        causes += _order(truth, points, skeleton, sigmas)
    if reversed_channels is not None and not causes:
        causes += _channels(truth, points, sigmas, reversed_channels())
    return causes


def _better(before: Points, after: float) -> bool:
    return bool(after >= max(before.mean() + GAIN, FACTOR * before.mean()))


def _told(before: Points, after: float, words: str) -> str:
    return f"People fit the annotations as if {words} (mean OKS {before.mean():.2f}, {after:.2f} without that)."


def fit(truth: Sequence[People], found: Sequence[Points], sigmas: Sequence[float]) -> Points:
    """How well each annotated person was found.

    Args:
        truth: The annotated people.
        found: ``(N, K, 2)`` places found in each image.
        sigmas: ``(K,)``.

    Returns:
        ``(M,)`` the OKS over the labelled keypoints of the most similar one in the image, 0 to 1.
    """
    best = [_oks(one, places, sigmas).max(axis=1, initial=0.0) for one, places in zip(truth, found, strict=True)]
    return np.concatenate([np.zeros(0), *best])


def _oks(truth: People, found: Points, sigmas: Sequence[float]) -> Points:
    return object_keypoint_similarity(
        truth.keypoints, np.maximum(truth.areas, 1.0).astype(np.float64), found, sigmas, truth.visible > 0
    )


def _order(truth: Sequence[People], found: Sequence[Points], skeleton: Skeleton, sigmas: Sequence[float]) -> list[str]:
    """Whether keypoints come in another order."""
    rows = []
    for one, places in zip(truth, found, strict=True):
        alike = _oks(one, places, sigmas)
        for person, place in enumerate(alike.argmax(axis=1) if alike.size else ()):
            # Somebody this similar is the same person, for looking at single keypoints.
            if alike[person, place] >= 0.3 and np.isfinite(places[place]).all():
                rows.append((one.keypoints[person].astype(np.float64), places[place], one.visible[person] > 0))
    if len(rows) < CROWD:
        return []
    a, b, labelled = (np.stack(part) for part in zip(*rows, strict=True))
    return order_told(a, b, skeleton, labelled=labelled, sides=("the annotated", "the model"))


def _channels(
    truth: Sequence[People], found: Sequence[Points], sigmas: Sequence[float], other: Sequence[Poses]
) -> list[str]:
    """Whether people are found better with red and blue exchanged."""
    some = len(other)
    before = fit(truth[:some], found[:some], sigmas)
    after = fit(truth[:some], [one.keypoints.astype(np.float64) for one in other], sigmas)
    gain = after - before
    if len(gain) < CROWD or gain.mean() < INPUT_GAIN:
        return []
    if gain.mean() < CERTAIN * gain.std(ddof=1) / np.sqrt(len(gain)):
        return []
    text = f"People fit the annotations better with red and blue exchanged in {some} images"
    return [f"{text} (mean OKS {before.mean():.2f}, {after.mean():.2f} with them exchanged)."]


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
        estimator: The model; run on a few images with red and blue exchanged.
        dataset: The annotated images.
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
        frames=[_centred(image, estimator.input_hw) for image in images],
        reversed_channels=again,
    )


def _centred(image: NDArray[np.uint8], input_hw: tuple[int, int]) -> LetterboxTransform:
    """Where an image lies in a network input when it stands in the middle."""
    height, width = image.shape[:2]
    scale = min(input_hw[0] / height, input_hw[1] / width)
    offset = ((input_hw[1] - scale * width) / 2, (input_hw[0] - scale * height) / 2)
    return LetterboxTransform(scale, offset, (height, width), input_hw)


def _poses(detections: Detections, index: int, skeleton: Skeleton) -> Poses:
    """The best people of an image; boxes do not matter here."""
    rows = np.flatnonzero(detections.image == index)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")][:PEOPLE]
    points = detections.keypoints[rows]
    boxes = np.zeros((len(rows), 4), np.float32)
    return Poses(boxes, detections.scores[rows].astype(np.float32), points[..., :2], points[..., 2], skeleton)
