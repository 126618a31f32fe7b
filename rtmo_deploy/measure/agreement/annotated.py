"""Why a model does not find the people that are annotated: the usual mistakes, each undone on what it found.

As with :mod:`.causes`, nothing is decided here. A mistake is told if the same people fit the annotations much better
once it is undone; a model that is merely worse fits no better under any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.measure.agreement.causes import order_told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import People
    from rtmo_deploy.poses import Poses, Skeleton

    Points = NDArray[np.float64]

#: A mistake that is undone must raise the people's mean similarity by so much, and by this factor.
GAIN: Final = 0.1
FACTOR: Final = 1.25
#: With another input, where people are compared one by one: by so much, and by so many standard errors.
INPUT_GAIN: Final = 0.02
CERTAIN: Final = 3.0
#: Somebody this similar is the same person, for looking at single keypoints.
SAME: Final = 0.3
#: People that are asked for the order of keypoints.
LEAST_PEOPLE: Final = 5


@dataclass(frozen=True)
class Frame:
    """A picture and the network input that it was put into.

    Attributes:
        picture_hw: Height and width of the picture, pixels.
        input_hw: Height and width of the network input, pixels.
    """

    picture_hw: tuple[int, int]
    input_hw: tuple[int, int]

    @property
    def scale(self) -> float:
        """Input pixels for a pixel of the picture."""
        return min(self.input_hw[0] / self.picture_hw[0], self.input_hw[1] / self.picture_hw[1])

    @property
    def padding(self) -> Points:
        """x, y in pixels of the picture: how far from the input's corner it is when it stands in the middle."""
        spare = [side / self.scale - own for side, own in zip(self.input_hw, self.picture_hw, strict=True)]
        return np.array(spare[::-1]) / 2

    @property
    def stretch(self) -> Points:
        """Factors in x and y by which a picture is smaller that was stretched to the input, against its letterbox."""
        height, width = (side / (own * self.scale) for side, own in zip(self.input_hw, self.picture_hw, strict=True))
        return np.array([width, height])


Undo = tuple[str, "Callable[[Points, Frame], Points]"]

#: Mistakes with the frame, and how places are put right that come from it.
FRAMES: Final[tuple[Undo, ...]] = (
    ("the letterbox's padding was not taken away from their coordinates", lambda p, f: p - f.padding),
    ("a padding was taken away that the picture does not have", lambda p, f: p + f.padding),
    ("the letterbox's scale was not undone", lambda p, f: p / f.scale),
    (
        "their coordinates were those of the network's input: the letterbox was not undone",
        lambda p, f: p / f.scale - f.padding,
    ),
    ("the picture was stretched to the network's input, and not letterboxed", lambda p, f: (p + f.padding) / f.stretch),
    ("x and y were exchanged", lambda p, _: p[..., ::-1]),
)


def explain_misses(
    truth: Sequence[People],
    found: Sequence[Poses],
    skeleton: Skeleton,
    sigmas: Sequence[float],
    *,
    frames: Sequence[Frame] = (),
    reversed_channels: Callable[[], Sequence[Poses]] | None = None,
) -> list[str]:
    """Try known mistakes on people that do not fit the annotations.

    Args:
        truth: The annotated people of some pictures.
        found: Whom the model found in them, in pixels of the picture.
        skeleton: What the keypoints of both are.
        sigmas: ``(K,)`` OKS sigma of each.
        frames: The pictures and their network inputs; nothing is said of letterboxes without them.
        reversed_channels: Runs the model on the first of the pictures, on any number, with red and blue exchanged.

    Returns:
        A sentence for each mistake that would explain it; nothing for a model that fits.
    """
    people = sum(map(len, truth))
    if not people:
        return []
    points = [one.keypoints.astype(np.float64) for one in found]
    before = fit(truth, points, sigmas)
    told = []
    for words, undo in FRAMES if frames else ():
        undone = [undo(places, frame) for places, frame in zip(points, frames, strict=True)]
        after = fit(truth, undone, sigmas)
        if _better(before, after):
            told.append((float(after.mean()), f"People fit the annotations as if {words}"))
    causes = [f"{text} (mean OKS {before.mean():.2f}, {after:.2f} without that)." for after, text in sorted(told)[-1:]]
    causes += _order(truth, points, skeleton, sigmas, before)
    if reversed_channels is not None and not causes:
        causes += _channels(truth, points, sigmas, reversed_channels())
    return causes


def fit(truth: Sequence[People], found: Sequence[Points], sigmas: Sequence[float]) -> Points:
    """How well each annotated person was found.

    Args:
        truth: The annotated people.
        found: ``(N, K, 2)`` places found in each picture.
        sigmas: ``(K,)``.

    Returns:
        ``(M,)`` the similarity (OKS over the labelled keypoints) of the most similar one in the picture, 0 to 1.
    """
    best = [_similarity(one, places, sigmas).max(axis=1, initial=0.0) for one, places in zip(truth, found, strict=True)]
    return np.concatenate([np.zeros(0), *best])


def _similarity(truth: People, found: Points, sigmas: Sequence[float]) -> Points:
    """OKS ``(M, N)`` over the labelled keypoints; 0 for people without any, and for what is not finite."""
    labelled = (truth.visible > 0).astype(np.float64)
    variance = 2 * np.maximum(truth.areas, 1.0)[:, None, None] * np.square(2 * np.asarray(sigmas, np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        square = np.square(truth.keypoints[:, None].astype(np.float64) - found[None]).sum(-1)
        alike = np.nan_to_num(np.exp(-square / variance), nan=0.0) * labelled[:, None]
    return np.asarray(alike.sum(-1) / np.maximum(labelled.sum(-1), 1.0)[:, None], np.float64)


def _better(before: Points, after: Points) -> bool:
    return bool(after.mean() >= max(before.mean() + GAIN, FACTOR * before.mean()))


def _order(
    truth: Sequence[People], found: Sequence[Points], skeleton: Skeleton, sigmas: Sequence[float], before: Points
) -> list[str]:
    """Whether left and right are swapped, or keypoints come in another order otherwise."""
    flipped = [places[:, skeleton.flip_indices()] for places in found]
    after = fit(truth, flipped, sigmas)
    if _better(before, after):
        text = "People fit the annotations as if left and right of their keypoints were swapped"
        return [f"{text} (mean OKS {before.mean():.2f}, {after.mean():.2f} without that)."]
    rows = []
    for one, places in zip(truth, found, strict=True):
        alike = _similarity(one, places, sigmas)
        if not alike.size:
            continue
        for person, place in enumerate(alike.argmax(axis=1)):
            if alike[person, place] >= SAME and np.isfinite(places[place]).all():
                rows.append((one.keypoints[person].astype(np.float64), places[place], one.visible[person] > 0))
    if len(rows) < LEAST_PEOPLE:
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
    if len(gain) < LEAST_PEOPLE or gain.mean() < INPUT_GAIN:
        return []
    if gain.mean() < CERTAIN * gain.std(ddof=1) / np.sqrt(len(gain)):
        return []
    text = f"People fit the annotations better with red and blue exchanged in {some} images"
    return [f"{text} (mean OKS {before.mean():.2f}, {after.mean():.2f} with them exchanged)."]
