"""Names the mistake that would explain a disagreement: each common one is undone on the detections.

A mistake is told if both sides fit much better once it is undone. A model that is merely worse fits no better under
any, and gets no sentence. Nothing here decides whether models agree.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.errors import ModelError
from rtmo_deploy.measure.accuracy.judge import MAX_DETECTIONS
from rtmo_deploy.measure.comparison import match_people, object_keypoint_similarity, sigmas_of
from rtmo_deploy.plain import shorten
from rtmo_deploy.runtime.letterbox import letterbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.coco import CocoKeypoints
    from rtmo_deploy.data.sample import People
    from rtmo_deploy.measure.accuracy.detections import Detections
    from rtmo_deploy.poses import Poses, Skeleton
    from rtmo_deploy.runtime.estimator import PoseEstimator
    from rtmo_deploy.runtime.letterbox import LetterboxTransform

    Images = NDArray[np.float32]
    Points = NDArray[np.float64]
    #: ``b = scale * a + shift``, pixels.
    Move = tuple[float, Points]

#: An explanation must leave at most this share of the error.
LEFT: Final = 0.25
#: Errors below this many pixels have no explanation by place.
LEAST_PX: Final = 0.5
#: Errors below this many pixels have no explanation by input: two runtimes differ by as much.
LEAST_INPUT_PX: Final = 0.05
#: Detections with this OKS have been found again; share of the detections that another input must find again.
FOUND_AGAIN: Final = 0.9
MOST: Final = 0.75
#: Among so many people, half of an exchange is told too: noise may hide the other half.
CROWD: Final = 5
#: Keypoints that are named.
NAMED: Final = 4
#: Pairs of people, and images, in which a move is looked for.
PAIRS_TRIED: Final = 400
IMAGES_TRIED: Final = 8
#: Detections with this OKS after a move have matched. At least two must, and this share of them.
ALIKE: Final = 0.5
SHARE: Final = 0.5
#: Keypoints that spread less than this many pixels have no scale; a factor nearer to 1 than this is none.
LEAST_SPREAD: Final = 4.0
SAME_SCALE: Final = 1e-3
#: What else a network may have been made for, and how to feed it then.
INPUTS: Final[tuple[tuple[str, Callable[[Images], Images]], ...]] = (
    ("its channels reversed (RGB)", lambda x: x[:, ::-1]),
    ("values from 0 to 1", lambda x: x / np.float32(255)),
    ("its channels reversed and values from 0 to 1", lambda x: x[:, ::-1] / np.float32(255)),
)

#: A mistake against annotations must raise the mean OKS by so much, and by this factor, when it is undone.
GAIN: Final = 0.1
FACTOR: Final = 1.25
#: With another input, where people are compared one by one: by so much, and by so many standard errors.
INPUT_GAIN: Final = 0.02
CERTAIN: Final = 3.0
#: Annotated people with this OKS are the same person, for looking at single keypoints.
SAME_PERSON: Final = 0.3
#: Annotated images that are looked at, and those of them that the model is run on once more.
LOOKED_AT: Final = 64
RUN_AGAIN: Final = 16
#: Mistakes with the letterbox, and how each is undone.
LETTERBOXES: Final[tuple[tuple[str, Callable[[Points, LetterboxTransform], Points]], ...]] = (
    ("the letterbox's padding was not taken away from their coordinates", lambda p, t: p - _padding(t)),
    ("a padding was taken away that the image does not have", lambda p, t: p + _padding(t)),
    ("the letterbox's scale was not undone", lambda p, t: p / t.scale),
    (
        "their coordinates were those of the network's input: the letterbox was not undone",
        lambda p, t: t.to_original(p),
    ),
)


def find_causes(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    sigmas: Sequence[float],
    *,
    rerun: Callable[[Callable[[Images], Images]], list[Poses]] | None = None,
    on: Sequence[int] = (),
) -> list[str]:
    """Try known mistakes on the detections of two models that disagree, one entry an image.

    ``rerun`` runs the second model on the images of the indices ``on`` after a change of its input.
    """
    found = _place_told(reference, other, sigmas, None)
    if not found:
        found = _place_told(reference, other, sigmas, best_move(reference, other, sigmas))
    if rerun is not None and len(on):
        found += _input_told([reference[i] for i in on], [other[i] for i in on], sigmas, rerun)
    return found


def _place_told(
    reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float], move: Move | None
) -> list[str]:
    """Whether keypoints come in another order, or all of them elsewhere, as by another letterbox."""
    a, b = matched_points(reference, other, sigmas, move)
    if not len(a):
        return []
    told = order_told(a, b, reference[0].skeleton)
    fitted = None if told or _median(b - a) < LEAST_PX else fit_move(a, b)
    if fitted is None or _alike(reference, other, sigmas, fitted) < SHARE * sum(map(len, reference)):
        return told  # in the last case these are other people who happen to stand so
    scale, (dx, dy) = fitted
    how = "" if abs(scale - 1) <= SAME_SCALE else f"scaled by {scale:.4f} and "
    where = "Check the letterbox's padding and scale, strides and cell centres."
    return [f"The second model's keypoints fit the first's {how}shifted by {dx:+.2f}, {dy:+.2f} px. {where}"]


def matched_points(
    reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float], move: Move | None = None
) -> tuple[Points, Points]:
    """Keypoints ``(M, K, 2)`` of the people in both lists, as either has them; the first moved for the matching."""
    pairs = [
        (one.keypoints[i].astype(np.float64), two.keypoints[j].astype(np.float64))
        for one, two in zip(reference, other, strict=True)
        for i, j, oks in match_people(moved(one, move), two, sigmas)
        if move is None or oks >= ALIKE
    ]
    finite = [pair for pair in pairs if np.isfinite(pair).all()]
    stacked = np.array(finite, np.float64).reshape(-1, 2, len(sigmas), 2)
    return stacked[:, 0], stacked[:, 1]


def best_move(reference: Sequence[Poses], other: Sequence[Poses], sigmas: Sequence[float]) -> Move | None:
    """The move by which most people match; None if fewer than half of them do.

    Each two people of an image are taken for the same person, and the move between them for everybody's.
    """
    chosen = [n for n in range(len(reference)) if len(reference[n]) and len(other[n])][:IMAGES_TRIED]
    first, second = [reference[n] for n in chosen], [other[n] for n in chosen]
    pairs = (
        (a, b)
        for one, two in zip(first, second, strict=True)
        for a in one.keypoints.astype(np.float64)
        for b in two.keypoints.astype(np.float64)
        if np.isfinite(a).all() and np.isfinite(b).all()
    )
    tried = [move for a, b in islice(pairs, PAIRS_TRIED) for move in _moves(a, b)]
    counts = [_alike(first, second, sigmas, move) for move in tried]
    most = max(counts, default=0)
    return tried[counts.index(most)] if most >= max(2, SHARE * sum(map(len, first))) else None


def fit_move(a: Points, b: Points) -> Move | None:
    """The move that takes ``(M, K, 2)`` places to others: a shift where that is enough, else with a scale."""
    x, y = a.reshape(-1, 2), b.reshape(-1, 2)
    fits = _moves(x, y)
    rests = [_median(y - (scale * x + shift)) for scale, shift in fits]
    if min(rests) > LEFT * _median(y - x):
        return None
    # A shift that leaves hardly more than a scale does is the simpler explanation.
    return next(move for move, rest in zip(fits, rests, strict=True) if rest <= 1.5 * min(rests) + 0.1)


def _moves(x: Points, y: Points) -> list[Move]:
    """The shift that takes ``(N, 2)`` points to others; also with a scale, unless they are too near to each other."""
    fits = [(1.0, np.median(y - x, axis=0))]
    apart = x - x.mean(axis=0)
    spread = np.square(apart).sum()
    if np.sqrt(spread / len(x)) >= LEAST_SPREAD:
        scale = float((apart * (y - y.mean(axis=0))).sum() / spread)
        fits.append((scale, np.median(y - scale * x, axis=0)))
    return fits


def moved(people: Poses, move: Move | None) -> Poses:
    """The same people elsewhere."""
    if move is None:
        return people
    scale, shift = move
    return replace(
        people, boxes=scale * people.boxes + np.tile(shift, 2), keypoints=scale * people.keypoints + np.asarray(shift)
    )


def _alike(first: Sequence[Poses], second: Sequence[Poses], sigmas: Sequence[float], move: Move) -> int:
    """How many of the first lists' people are somebody of the second lists when they have been moved."""
    pairs = (match_people(moved(one, move), two, sigmas) for one, two in zip(first, second, strict=True))
    return sum(oks >= ALIKE for found in pairs for *_, oks in found)


def _median(difference: Points) -> float:
    return float(np.median(np.linalg.norm(difference, axis=-1)))


def _input_told(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    sigmas: Sequence[float],
    rerun: Callable[[Callable[[Images], Images]], list[Poses]],
) -> list[str]:
    """Whether the second model agrees once its input is prepared otherwise."""

    def again(found: Sequence[Poses]) -> tuple[int, float]:
        """How many are found again, and the median distance of the keypoints of those who match."""
        lists = zip(reference, found, strict=True)
        same = sum(oks >= FOUND_AGAIN for one, two in lists for *_, oks in match_people(one, two, sigmas))
        a, b = matched_points(reference, found, sigmas)
        return same, _median(b - a) if len(a) else float("inf")

    people = sum(map(len, reference))
    same, before = again(other)
    for words, change in INPUTS if people else ():
        now, after = again(rerun(change))
        if now <= MOST * people:
            continue
        if 2 * same < now:
            return [f"The second model finds {now} of {people} people again when it is given {words}, else {same}."]
        if now >= same and before > LEAST_INPUT_PX and after <= LEFT * before:
            text = f"The second model's keypoints are {before:.2g} px off (median), and {after:.2g} px when it is given"
            return [f"{text} {words}."]
    return []


def order_told(
    a: Points,
    b: Points,
    skeleton: Skeleton,
    *,
    labelled: NDArray[np.bool_] | None = None,
    sides: tuple[str, str] = ("the first model's", "the second"),
) -> list[str]:
    """Whether the keypoints of the same M people, ``(M, K, 2)``, come in another order in a second list.

    ``labelled`` is ``(M, K)``: which of ``a`` are known, all if not given. ``sides`` is what the two lists are called.
    """
    distance = np.linalg.norm(a[:, :, None] - b[:, None], axis=-1)
    if labelled is not None:
        distance = np.where(labelled[:, :, None], distance, np.nan)
    joints = np.arange(len(skeleton))
    known = np.isfinite(distance).any(axis=(0, 2))
    middle = np.zeros((len(joints), len(joints)))
    middle[known] = np.nanmedian(distance[:, known], axis=0)
    nearest, own = middle.argmin(axis=1), np.diagonal(middle)
    wrong = joints[known & (nearest != joints) & (middle[joints, nearest] < LEFT * own) & (own > LEAST_PX)]
    if not len(wrong):
        return []
    sides_only = bool((nearest[wrong] == np.array(skeleton.flip_indices())[wrong]).all())
    if set(nearest[wrong]) != set(wrong) and not (sides_only and len(a) >= CROWD):
        return []  # no exchange of places: they are other people, or it is chance
    swapped = ", as if left and right were swapped" if sides_only else ""
    names, (first, second) = skeleton.keypoints, sides
    told = shorten((f"{names[i]} is nearest to where {second} has {names[nearest[i]]}" for i in wrong), NAMED)
    return [f"Keypoints fit in another order{swapped}: {first} {told} (median over {len(a)} people)."]


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
    progress("looking for common mistakes")
    with_people = [index for index in range(len(dataset)) if len(dataset.people(index))][:LOOKED_AT]
    images = [dataset.image(index) for index in with_people]
    found = []
    for index in with_people:
        rows = np.flatnonzero(detections.image == index)
        best = rows[np.argsort(-detections.scores[rows], kind="stable")][:MAX_DETECTIONS]
        found.append(detections.keypoints[best, :, :2])

    def reversed_channels() -> list[NDArray[np.float32]]:
        progress("running the model with channels reversed")
        try:
            poses = estimator.predict([np.ascontiguousarray(image[..., ::-1]) for image in images[:RUN_AGAIN]])
        except ModelError:
            return []  # what it puts out is not finite; nothing is explained by that
        return [people.keypoints[np.flatnonzero(people.scores > score_thr)[:MAX_DETECTIONS]] for people in poses]

    skeleton = estimator.artifact.skeleton
    return explain_misses(
        [dataset.people(index) for index in with_people],
        found,
        skeleton,
        sigmas_of(skeleton),
        frames=[letterbox(image, estimator.input_hw)[1] for image in images],
        reversed_channels=reversed_channels,
    )


def explain_misses(
    truth: Sequence[People],
    found: Sequence[NDArray[np.float32]],
    skeleton: Skeleton,
    sigmas: Sequence[float],
    *,
    frames: Sequence[LetterboxTransform] = (),
    reversed_channels: Callable[[], Sequence[NDArray[np.float32]]] | None = None,
) -> list[str]:
    """Try known mistakes on ``(N, K, 2)`` keypoints, in pixels of each image, that do not fit the annotations.

    ``frames`` are where the images lie in the network input; nothing is said of letterboxes without them.
    ``reversed_channels`` runs the model on the first images, on any number, with red and blue exchanged.
    """
    if not sum(map(len, truth)):
        return []
    points = [places.astype(np.float64) for places in found]
    before = float(fit(truth, points, sigmas).mean())

    def told(mistakes: list[tuple[str, list[Points]]]) -> list[str]:
        """The mistake without which people fit best, if that is much better."""
        after, words = max((float(fit(truth, undone, sigmas).mean()), words) for words, undone in mistakes)
        if after < max(before + GAIN, FACTOR * before):
            return []
        return [f"People fit the annotations as if {words} (mean OKS {before:.2f}, {after:.2f} without that)."]

    causes: list[str] = []
    if frames:
        placed = list(zip(points, frames, strict=True))
        causes = told([(words, [undo(places, frame) for places, frame in placed]) for words, undo in LETTERBOXES])
    flipped = [places[:, skeleton.flip_indices()] for places in points]
    causes += told([("left and right of their keypoints were swapped", flipped)]) or _annotated_order_told(
        truth, points, skeleton, sigmas
    )
    if reversed_channels is not None and not causes:
        causes = _channels_told(truth, points, sigmas, reversed_channels())
    return causes


def _padding(transform: LetterboxTransform) -> Points:
    """x, y in pixels of the image: how far it is from the input's corner."""
    return np.array(transform.offset) / transform.scale


def fit(truth: Sequence[People], found: Sequence[NDArray[np.floating]], sigmas: Sequence[float]) -> Points:
    """``(M,)`` for each annotated person the largest OKS, 0 to 1, of those found in the image."""
    best = [_oks(one, places, sigmas).max(axis=1, initial=0.0) for one, places in zip(truth, found, strict=True)]
    return np.concatenate([np.zeros(0), *best])


def _oks(truth: People, found: NDArray[np.floating], sigmas: Sequence[float]) -> Points:
    areas = np.maximum(truth.areas, 1.0).astype(np.float64)
    return object_keypoint_similarity(truth.keypoints, areas, found, sigmas, truth.visible > 0)


def _annotated_order_told(
    truth: Sequence[People], found: Sequence[Points], skeleton: Skeleton, sigmas: Sequence[float]
) -> list[str]:
    rows = []
    for one, places in zip(truth, found, strict=True):
        alike = _oks(one, places, sigmas)
        for person, place in enumerate(alike.argmax(axis=1) if alike.size else ()):
            if alike[person, place] >= SAME_PERSON and np.isfinite(places[place]).all():
                rows.append((one.keypoints[person].astype(np.float64), places[place], one.visible[person] > 0))
    if len(rows) < CROWD:
        return []
    a, b, labelled = (np.stack(part) for part in zip(*rows, strict=True))
    return order_told(a, b, skeleton, labelled=labelled, sides=("the annotated", "the model"))


def _channels_told(
    truth: Sequence[People],
    found: Sequence[Points],
    sigmas: Sequence[float],
    other: Sequence[NDArray[np.float32]],
) -> list[str]:
    """Whether people are found better with red and blue exchanged."""
    some = len(other)
    before, after = fit(truth[:some], found[:some], sigmas), fit(truth[:some], other, sigmas)
    gain = after - before
    if len(gain) < CROWD or gain.mean() < max(INPUT_GAIN, CERTAIN * gain.std(ddof=1) / np.sqrt(len(gain))):
        return []
    text = f"People fit the annotations better with red and blue exchanged in {some} images"
    return [f"{text} (mean OKS {before.mean():.2f}, {after.mean():.2f} with them exchanged)."]
