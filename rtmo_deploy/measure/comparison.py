"""Two lists of detections of the same images: who is who, and how far apart the two are."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from rtmo_deploy.data.sample import AREA_OF_BOX
from rtmo_deploy.errors import UsageError
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from rtmo_deploy.poses import Poses, Skeleton

#: Two detections may be the same person only if their boxes overlap by this much, or their keypoints are this similar.
#: Boxes count too, so that somebody whose keypoints are wrong is reported with a low OKS, not as two strangers.
LEAST_ALIKE: Final = 0.5
#: The same where keypoints alone decide.
LEAST_OKS: Final = 0.1
#: OKS sigma of keypoints without a measured one; the middle of COCO's.
USUAL_SIGMA: Final = 0.07
#: Scores closer than this are equal to within float noise, and their order means nothing.
ORDER_MARGIN: Final = 1e-5

#: Keys of the figures in ``parity --json``.
_COUNTS: Final = ("people_a", "people_b", "matched", "missed", "extra")
_JSON: Final = (
    *_COUNTS,
    *("oks_mean", "oks_min"),
    *("keypoint_px_mean", "keypoint_px_p50", "keypoint_px_p99", "keypoint_px_max", "box_px_mean", "box_px_max"),
    *("score_ratio", "score_max", "keypoint_score_max"),
)


@dataclass(frozen=True)
class Unmatched:
    """A detection of one model only: ``a`` (missed by the second) or ``b`` (extra).

    ``index`` is its place in that model's list, ``margin`` how far its score is above the threshold.
    """

    image: str
    only_in: Literal["a", "b"]
    index: int
    score: float
    margin: float


@dataclass(frozen=True, eq=False)
class ImageComparison:
    """One image. Lengths are in pixels of the network input; what is not finite counts as infinitely far.

    Attributes:
        name: Name of the image.
        unmatched: Detections that only one model found.
        oks: ``(M,)`` OKS of the matched ones.
        keypoint_px: ``(M, K)`` distance of their keypoints.
        box_px: ``(M, 4)`` difference of their box coordinates.
        scores: ``(M, 2)`` the score in either.
        keypoint_score: ``(M, K)`` difference of their keypoints' scores.
        pairs: ``(M, 2)`` their places in the two lists.
    """

    name: str
    unmatched: tuple[Unmatched, ...]
    oks: NDArray[np.float64]
    keypoint_px: NDArray[np.float64]
    box_px: NDArray[np.float64]
    scores: NDArray[np.float64]
    keypoint_score: NDArray[np.float64]
    pairs: NDArray[np.intp]

    @property
    def counts(self) -> dict[str, int]:
        """``people_a`` and ``people_b`` in either model; ``matched``, ``missed`` by the second and ``extra`` in it."""
        matched = len(self.oks)
        missed = sum(one.only_in == "a" for one in self.unmatched)
        extra = len(self.unmatched) - missed
        return dict(zip(_COUNTS, (matched + missed, matched + extra, matched, missed, extra), strict=True))

    def badness(self) -> tuple[float, float]:
        """What images are ranked by: unmatched detections and lost OKS first (to three digits), then pixels."""
        return round(len(self.unmatched) + float((1 - self.oks).sum()), 3), worst(self.keypoint_px)

    def in_order(self) -> bool:
        """Whether no detection of the second list stands behind one whose score is clearly lower."""
        places, scores = self.pairs[:, 1], self.scores[:, 0].astype(np.float32)
        behind = places[:, None] > places[None]
        clearly_better = scores[:, None] > scores[None] + ORDER_MARGIN
        return not bool(np.triu(behind & clearly_better, 1).any())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; None stands for what is not finite, or where nobody is matched."""
        measured = {
            "oks_min": float(self.oks.min(initial=1.0)),
            "keypoint_px_max": worst(self.keypoint_px),
            "box_px_max": worst(self.box_px),
            "score_max": worst(np.diff(self.scores)),
        }
        known = {name: plain(value) if len(self.oks) else None for name, value in measured.items()}
        return {"name": self.name, **self.counts, **known}


@dataclass(frozen=True)
class Figures:
    """How far apart two models are over all images. None where nobody is matched; infinite where something is not.

    ``matched`` are detections of both models, ``missed`` of the first and ``extra`` of the second only. Distances are
    in pixels of the network input.

    Attributes:
        wild: Matched ones whose keypoints are left out, see :func:`compare_people`.
        in_order: Whether the matched ones stand in the same order in every image.
        box_px_mean, box_px_max: Worst coordinate of a box, averaged over detections, and of all.
        coordinate_px_mean: Box coordinates, averaged over all.
        score_ratio: Median of the second's score over the first's.
        score_max, keypoint_score_max: Worst difference of a detection's and of a keypoint's score.
    """

    images: int = 1
    people_a: int = 0
    people_b: int = 0
    matched: int = 0
    missed: int = 0
    extra: int = 0
    wild: int = 0
    in_order: bool = True
    oks_mean: float | None = None
    oks_min: float | None = None
    keypoint_px_mean: float | None = None
    keypoint_px_p50: float | None = None
    keypoint_px_p99: float | None = None
    keypoint_px_max: float | None = None
    box_px_mean: float | None = None
    box_px_max: float | None = None
    coordinate_px_mean: float | None = None
    score_ratio: float | None = None
    score_max: float | None = None
    keypoint_score_mean: float | None = None
    keypoint_score_max: float | None = None

    @property
    def unmatched(self) -> int:
        """Detections of one model only."""
        return self.missed + self.extra

    @property
    def oks(self) -> float | None:
        """Mean OKS of the first model's detections, 0 for the missed; None of nobody."""
        if not self.people_a:
            return None
        return (self.oks_mean or 0.0) * self.matched / self.people_a

    def to_dict(self, names: Mapping[str, str] | None = None, *, nobody: float | None = None) -> dict[str, Any]:
        """JSON-ready form: some figures under the keys given; None stands for what is not finite.

        Args:
            names: Figure to its key; those of ``parity --json`` if not given.
            nobody: What stands for a figure of no matched detections.
        """
        chosen = {"images": "pictures", **{name: name for name in _JSON}} if names is None else names
        found = {key: getattr(self, name) for name, key in chosen.items()}
        return {key: nobody if value is None else plain(value) for key, value in found.items()}

    @classmethod
    def largest(cls, found: Sequence[Figures]) -> Figures:
        """The largest of each figure."""
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            known = [getattr(one, name) for one in found if getattr(one, name) is not None]
            values[name] = max(known, default=None)
        return cls(**values)


def sigmas_of(skeleton: Skeleton) -> tuple[float, ...]:
    """The skeleton's OKS sigmas, or middling ones where its convention has none."""
    return skeleton.sigmas or (USUAL_SIGMA,) * len(skeleton)


def object_keypoint_similarity(
    keypoints: NDArray[Any],
    areas: NDArray[Any],
    other: NDArray[Any],
    sigmas: ArrayLike,
    labelled: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """OKS (COCO keypoint evaluation) of everybody to everybody.

    The mean over the labelled keypoints of ``exp(-d^2 / (2 area (2 sigma)^2))``.

    Args:
        keypoints: ``(N, K, 2)`` pixels.
        areas: ``(N,)`` square pixels.
        other: ``(M, K, 2)`` in the same pixels.
        sigmas: ``(K,)`` one a keypoint.
        labelled: ``(N, K)`` the keypoints that count; all if not given.

    Returns:
        ``(N, M)`` from 0 to 1; a keypoint that is not finite counts as 0, and so does somebody without labelled ones.
    """
    variance = 2 * areas[:, None, None] * np.square(2 * np.asarray(sigmas, np.float64))
    weights = np.ones(keypoints.shape[:2]) if labelled is None else labelled.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        square = np.square(keypoints[:, None].astype(np.float64) - other[None]).sum(-1)
        alike = np.nan_to_num(np.exp(-square / variance), nan=0.0) * weights[:, None]
    return np.asarray(alike.sum(-1) / np.maximum(weights.sum(-1), 1.0)[:, None], np.float64)


def similarity(one: Poses, two: Poses, sigmas: ArrayLike) -> NDArray[np.float64]:
    """``(N, M)`` OKS of N detections to M in the same pixels; the area is 0.53 of the first one's box."""
    sides = np.maximum(one.boxes[:, 2:].astype(np.float64) - one.boxes[:, :2], 1.0)
    return object_keypoint_similarity(one.keypoints, AREA_OF_BOX * sides.prod(axis=1), two.keypoints, sigmas)


def box_overlap(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of boxes ``(N, 4)`` and ``(M, 4)``, x1, y1, x2, y2: ``(N, M)``; 0 if not finite."""
    first, second = one.astype(np.float64)[:, None], two.astype(np.float64)[None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
        common = np.maximum(sides, 0).prod(-1)
        whole = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1) - common
        return np.asarray(np.nan_to_num(common / whole, nan=0.0, posinf=0.0, neginf=0.0), np.float64)


def match_people(one: Poses, two: Poses, sigmas: ArrayLike, *, boxes: bool = True) -> list[tuple[int, int, float]]:
    """Pair the detections of two lists, in the same pixels, one to one, the most alike first.

    Two are as alike as their OKS, with ``(K,)`` sigmas, plus the overlap of their ``boxes``, unless these do not count.
    Returned are the indices in both lists and the OKS of each pair, in the first list's order.
    """
    if not len(one) or not len(two):
        return []
    oks = alike = similarity(one, two, sigmas)
    possible = oks >= LEAST_OKS
    if boxes:
        overlap = box_overlap(one.boxes, two.boxes)
        alike, possible = oks + overlap, np.maximum(oks, overlap) >= LEAST_ALIKE
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for flat in np.argsort(np.where(possible, -alike, 1.0), axis=None, kind="stable").tolist():
        i, j = divmod(flat, len(two))
        if not possible[i, j]:
            break
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return [(i, j, float(oks[i, j])) for i, j in sorted(pairs.items())]


def compare_image(
    name: str,
    one: Poses,
    two: Poses,
    sigmas: ArrayLike,
    score_thr: float = 0.0,
    counted: float = 0.0,
    *,
    boxes: bool = True,
) -> ImageComparison:
    """Match the detections of two models in one image, and measure how far apart they are.

    A detection counts if the score in either model is above ``counted``; all scores passed ``score_thr``, the models'
    own threshold. ``sigmas`` and ``boxes`` are those of :func:`match_people`.
    """
    everybody = match_people(one, two, sigmas, boxes=boxes)
    # What is not a number counts: it must not pass for nobody.
    matched = [(i, j, oks) for i, j, oks in everybody if not np.maximum(one.scores[i], two.scores[j]) <= counted]
    first, second = [i for i, _, _ in matched], [j for _, j, _ in matched]
    a, b = one[first], two[second]
    sides: tuple[tuple[Literal["a", "b"], Poses, set[int]], ...] = (
        ("a", one, {i for i, _, _ in everybody}),
        ("b", two, {j for _, j, _ in everybody}),
    )
    unmatched = tuple(
        Unmatched(name, side, index, float(people.scores[index]), float(people.scores[index]) - score_thr)
        for side, people, found in sides
        for index in range(len(people))
        if index not in found and not people.scores[index] <= counted
    )
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported, not warned about
        return ImageComparison(
            name=name,
            unmatched=unmatched,
            oks=np.array([oks for *_, oks in matched], np.float64),
            keypoint_px=_far_if_not_finite(np.linalg.norm(a.keypoints.astype(np.float64) - b.keypoints, axis=-1)),
            box_px=_far_if_not_finite(np.abs(a.boxes.astype(np.float64) - b.boxes)),
            scores=np.stack([a.scores, b.scores], axis=1).astype(np.float64),
            keypoint_score=_far_if_not_finite(np.abs(a.keypoint_scores.astype(np.float64) - b.keypoint_scores)),
            pairs=np.array([first, second], np.intp).T.reshape(-1, 2),
        )


def compare_people(
    reference: Sequence[Poses],
    other: Sequence[Poses],
    *,
    boxes: bool = True,
    input_hw: tuple[int, int] | None = None,
) -> Figures:
    """Match the detections of each image one to one, the most alike first, and measure how far apart they are.

    Args:
        reference: One entry an image.
        other: The same images, in the same pixels.
        boxes: See :func:`match_people`.
        input_hw: Height and width of the network input, pixels. Detections whose keypoints lie, in the reference, more
            than its longer side outside of it are left out of the pixels: a network that is not trained yet makes such.

    Raises:
        UsageError: They are of other numbers of images or keypoints.
    """
    if len(reference) != len(other):
        raise UsageError(
            f"There are poses of {len(reference)} images, and of {len(other)}.",
            remedy="Give one Poses for each image, in the same order.",
        )
    compared, wild = [], 0
    for one, two in zip(reference, other, strict=True):
        if len(one.skeleton) != len(two.skeleton):
            raise UsageError(
                f"Poses of {len(one.skeleton)} keypoints cannot be compared with those of {len(two.skeleton)}.",
                remedy="Compare models of the same keypoints.",
            )
        image = compare_image("", one, two, sigmas_of(one.skeleton), counted=-math.inf, boxes=boxes)
        if input_hw is not None:
            keypoints, margin = one.keypoints[image.pairs[:, 0]], max(input_hw)
            near = (keypoints >= -margin) & (keypoints <= np.array(input_hw[::-1]) + margin)
            kept = near.all(axis=(1, 2))
            wild += int((~kept).sum())
            image = replace(image, keypoint_px=image.keypoint_px[kept], box_px=image.box_px[kept])
        compared.append(image)
    return replace(summarise(compared), wild=wild)


def summarise(images: Sequence[ImageComparison]) -> Figures:
    """Figures over all images; percentiles are over single keypoints (linear interpolation)."""
    counts: dict[str, Any] = {name: sum(image.counts[name] for image in images) for name in _COUNTS}
    if not counts["matched"]:
        return Figures(images=len(images), **counts)
    oks = np.concatenate([image.oks for image in images])
    pixels = np.concatenate([image.keypoint_px.ravel() for image in images])
    boxes = np.concatenate([image.box_px for image in images])
    scores = np.concatenate([image.scores for image in images])
    keypoint_scores = np.concatenate([image.keypoint_score.ravel() for image in images])
    return Figures(
        images=len(images),
        **counts,
        in_order=all(image.in_order() for image in images),
        oks_mean=float(oks.mean()),
        oks_min=float(oks.min()),
        keypoint_px_mean=_mean(pixels),
        keypoint_px_p50=_percentile(pixels, 50),
        keypoint_px_p99=_percentile(pixels, 99),
        keypoint_px_max=worst(pixels),
        box_px_mean=_mean(boxes.max(axis=1, initial=0.0)),
        box_px_max=worst(boxes),
        coordinate_px_mean=_mean(boxes),
        score_ratio=float(np.median(scores[:, 1] / np.maximum(scores[:, 0], 1e-9))),
        score_max=worst(np.diff(scores)),
        keypoint_score_mean=_mean(keypoint_scores),
        keypoint_score_max=worst(keypoint_scores),
    )


def worst(values: NDArray[Any]) -> float:
    """Largest magnitude; infinite where there is a NaN, so that no comparison lets it pass."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest if math.isfinite(largest) else math.inf


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0


def _percentile(values: NDArray[np.float64], q: float) -> float:
    """A percentile; infinite if it falls on or beside a value that is."""
    if not values.size:
        return 0.0
    with np.errstate(invalid="ignore"):  # inf - inf between two infinite neighbours
        value = float(np.percentile(values, q))
    return value if math.isfinite(value) else math.inf


def _far_if_not_finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.inf)
