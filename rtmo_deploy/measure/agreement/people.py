"""How far apart the people are that two models find: for each picture, and over all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rtmo_deploy.measure.agreement.matching import match_people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from rtmo_deploy.poses import Poses


@dataclass(frozen=True)
class Stray:
    """Somebody whom only one of the two models found.

    Attributes:
        picture: Name of the picture.
        only_in: ``a`` (missed by the second model) or ``b`` (extra).
        index: Place in that model's list.
        score: The person's score.
        margin: How far the score is above the threshold.
    """

    picture: str
    only_in: Literal["a", "b"]
    index: int
    score: float
    margin: float


@dataclass(frozen=True, eq=False)
class PictureAgreement:
    """One picture. Lengths are in pixels of the network input; what is not a number counts as infinitely far.

    Attributes:
        name: Name of the picture.
        people_a: People that the first model found and that count.
        people_b: The same of the second model.
        strays: Those whom only one found.
        oks: ``(M,)`` keypoint similarity of the matched people.
        keypoint_px: ``(M, K)`` distance of their keypoints.
        box_px: ``(M,)`` the worst of their four box coordinates.
        scores: ``(M, 2)`` the person's score in either.
        keypoint_score: ``(M,)`` the worst difference of a keypoint's score.
        pairs: ``(M, 2)`` their places in the two lists.
    """

    name: str
    people_a: int
    people_b: int
    strays: tuple[Stray, ...]
    oks: NDArray[np.float64]
    keypoint_px: NDArray[np.float64]
    box_px: NDArray[np.float64]
    scores: NDArray[np.float64]
    keypoint_score: NDArray[np.float64]
    pairs: NDArray[np.intp]

    @property
    def matched(self) -> int:
        """People in both."""
        return len(self.oks)

    @property
    def missed(self) -> int:
        """People only in the first."""
        return self.people_a - self.matched

    @property
    def extra(self) -> int:
        """People only in the second."""
        return self.people_b - self.matched

    def badness(self) -> tuple[float, float]:
        """What pictures are ranked by: strays and lost similarity first (to three digits), then pixels."""
        return round(len(self.strays) + float((1 - self.oks).sum()), 3), _most(self.keypoint_px)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; None stands for what is not finite, or where nobody is matched."""
        return {
            "name": self.name,
            "people_a": self.people_a,
            "people_b": self.people_b,
            "matched": self.matched,
            "missed": self.missed,
            "extra": self.extra,
            "oks_min": finite_or_none(self.oks.min()) if self.matched else None,
            "keypoint_px_max": finite_or_none(_most(self.keypoint_px)) if self.matched else None,
            "box_px_max": finite_or_none(_most(self.box_px)) if self.matched else None,
            "score_max": finite_or_none(_most(np.diff(self.scores))) if self.matched else None,
        }


@dataclass(frozen=True)
class PeopleAgreement:
    """All pictures. None where nobody is matched; infinite where something is not a number.

    Attributes:
        pictures: Pictures compared.
        people_a: People that the first model found.
        people_b: People that the second model found.
        matched: People in both.
        missed: People only in the first.
        extra: People only in the second.
        oks_mean, oks_min: Keypoint similarity of matched people.
        keypoint_px_mean, keypoint_px_p50, keypoint_px_p99, keypoint_px_max: Distance of their keypoints, pixels of the
            network input.
        box_px_mean, box_px_max: Worst coordinate of a box, averaged over people, and of all.
        score_ratio: Median of the second's person score over the first's.
        score_max: Worst difference of a person's score.
        keypoint_score_max: Worst difference of a keypoint's score.
    """

    pictures: int
    people_a: int
    people_b: int
    matched: int
    missed: int
    extra: int
    oks_mean: float | None = None
    oks_min: float | None = None
    keypoint_px_mean: float | None = None
    keypoint_px_p50: float | None = None
    keypoint_px_p99: float | None = None
    keypoint_px_max: float | None = None
    box_px_mean: float | None = None
    box_px_max: float | None = None
    score_ratio: float | None = None
    score_max: float | None = None
    keypoint_score_max: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; None stands for what is not finite as well."""
        return {key: finite_or_none(value) for key, value in asdict(self).items()}


def compare_picture(
    name: str, one: Poses, two: Poses, sigmas: ArrayLike, score_thr: float, counted: float = 0.0
) -> PictureAgreement:
    """Match the people that two models found in one picture, and measure how far apart they are.

    Args:
        name: Name of the picture.
        one: People of the first model, in network-input pixels.
        two: People of the second, in the same pixels.
        sigmas: ``(K,)`` OKS sigma of each keypoint.
        score_thr: The models' own threshold, which all scores passed.
        counted: A person counts if the score in either model is above this.
    """
    everybody = match_people(one, two, sigmas)
    paired = ({i for i, _, _ in everybody}, {j for _, j, _ in everybody})
    matched = [pair for pair in everybody if max(one.scores[pair[0]], two.scores[pair[1]]) > counted]
    first, second = [i for i, _, _ in matched], [j for _, j, _ in matched]
    a, b = one[first], two[second]
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported, not warned about
        keypoints = np.linalg.norm(a.keypoints.astype(np.float64) - b.keypoints, axis=-1)
        boxes = np.abs(a.boxes.astype(np.float64) - b.boxes)
        seen = np.abs(a.keypoint_scores.astype(np.float64) - b.keypoint_scores)
    sides: tuple[tuple[Literal["a", "b"], Poses, set[int]], ...] = (("a", one, paired[0]), ("b", two, paired[1]))
    strays = tuple(
        Stray(name, side, index, float(people.scores[index]), float(people.scores[index]) - score_thr)
        for side, people, found in sides
        for index in range(len(people))
        if index not in found and not people.scores[index] <= counted
    )
    return PictureAgreement(
        name=name,
        people_a=len(matched) + sum(stray.only_in == "a" for stray in strays),
        people_b=len(matched) + sum(stray.only_in == "b" for stray in strays),
        strays=strays,
        oks=np.array([oks for *_, oks in matched], np.float64),
        keypoint_px=_far_if_odd(keypoints),
        box_px=_far_if_odd(boxes).max(axis=1, initial=0.0),
        scores=np.stack([a.scores, b.scores], axis=1).astype(np.float64),
        keypoint_score=_far_if_odd(seen).max(axis=1, initial=0.0),
        pairs=np.array([first, second], np.intp).T.reshape(-1, 2),
    )


def summarise(pictures: Sequence[PictureAgreement]) -> PeopleAgreement:
    """Figures over all pictures; percentiles are over single keypoints (linear interpolation)."""
    counts = {
        name: sum(getattr(picture, name) for picture in pictures)
        for name in ("people_a", "people_b", "matched", "missed", "extra")
    }
    if not counts["matched"]:
        return PeopleAgreement(pictures=len(pictures), **counts)
    oks = np.concatenate([picture.oks for picture in pictures])
    pixels = np.concatenate([picture.keypoint_px.ravel() for picture in pictures])
    boxes = np.concatenate([picture.box_px for picture in pictures])
    scores = np.concatenate([picture.scores for picture in pictures])
    seen = np.concatenate([picture.keypoint_score for picture in pictures])
    ratios = scores[:, 1] / np.maximum(scores[:, 0], 1e-9)
    return PeopleAgreement(
        pictures=len(pictures),
        **counts,
        oks_mean=float(oks.mean()),
        oks_min=float(oks.min()),
        keypoint_px_mean=float(pixels.mean()),
        keypoint_px_p50=_percentile(pixels, 50),
        keypoint_px_p99=_percentile(pixels, 99),
        keypoint_px_max=_most(pixels),
        box_px_mean=float(boxes.mean()),
        box_px_max=_most(boxes),
        score_ratio=float(np.median(ratios)),
        score_max=_most(np.diff(scores)),
        keypoint_score_max=_most(seen),
    )


def finite_or_none(value: Any) -> Any:
    """JSON has no infinity: None in its place; NumPy's numbers become Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _percentile(values: NDArray[np.float64], q: float) -> float:
    """A percentile; infinite if it falls on or beside a value that is."""
    with np.errstate(invalid="ignore"):  # inf - inf between two infinite neighbours
        value = float(np.percentile(values, q))
    return value if np.isfinite(value) else float("inf")


def _far_if_odd(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.inf)


def _most(values: NDArray[np.float64]) -> float:
    """Largest magnitude; infinite where there is a NaN, so that no comparison lets it pass."""
    worst = float(np.abs(values).max(initial=0.0))
    return worst if np.isfinite(worst) else float("inf")
