"""Synthetic videos: walking people whose identity, keypoints and visibility are known in every frame.

A video is a function of the scene, the seed and the options. A scene says who is where at what time; everything
else (bodies, clothes, gait, what hides whom) follows from it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import cv2
import numpy as np

from rtmo_deploy.data.sample import Sample
from rtmo_deploy.data.synthetic.bodies import walking_body
from rtmo_deploy.data.synthetic.figures import draw_figure, looks_of_seed
from rtmo_deploy.data.synthetic.outlines import Outlines
from rtmo_deploy.data.synthetic.scene import Scene, draw_background
from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.skeletons import COCO_17

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from rtmo_deploy.data.synthetic.figures import Look
    from rtmo_deploy.poses import Skeleton

    Rng = np.random.Generator

#: People of whom less is visible than this are not annotated.
_LEAST_VISIBLE: Final = 0.2
#: Heights of a body that it walks with one double step.
_STEP: Final = 0.75
#: Slower than this, in heights a second, a body stands.
_STANDS: Final = 0.05
_LEAST_SIDE: Final = 64


class Walker(NamedTuple):
    """Where somebody is: at each time the middle of the hips, as a share of the width, and between them in a line."""

    times: tuple[float, ...]  #: Shares of the video's length, ascending.
    across: tuple[float, ...]  #: 0 is the left border, 1 the right one; may lie outside.
    height: float  #: Standing height as a share of the image's height; nearer people are taller, and in front.


class Plot(NamedTuple):
    """Who walks where, and what stands in front: left, right as shares of the width."""

    walkers: list[Walker]
    pillars: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a synthetic video."""

    sample: Sample  #: Image and people.
    time_s: float  #: Seconds since the first frame.
    track_ids: NDArray[np.int64]  #: ``(N,)`` int64, who the sample's people are, from 1.
    visible: NDArray[np.float64]  #: ``(N,)`` float64, how much of each silhouette in the image is on top, 0 to 1.


@dataclass(frozen=True)
class SyntheticVideo:
    """A video of a scene; iterating draws it anew.

    Args:
        scene: A name in ``SCENES``.
        seed: Who the people are and how exactly they walk.
        fps: Frames a second.
        seconds: Length.
        size: Height and width in pixels.
        variable: Drop a third of the frames, at random: their times stay right, their distances vary.
        people: How many walk in ``crowd``; None for 3 to 10, by the seed.

    Raises:
        UsageError: A value is out of range.
    """

    scene: str
    seed: int = 0
    fps: float = 30.0
    seconds: float = 6.0
    size: tuple[int, int] = (360, 640)
    variable: bool = False
    people: int | None = None
    skeleton: Skeleton = field(default=COCO_17, init=False, repr=False)

    def __post_init__(self) -> None:
        finding = ""
        if self.scene not in SCENES:
            finding = f"There is no scene '{self.scene}'."
        elif self.seed < 0 or not (0 < self.fps <= 240 and 0 < self.seconds <= 3600):
            finding = f"A video of seed {self.seed}, {self.fps} fps and {self.seconds} s cannot be made."
        elif min(self.size) < _LEAST_SIDE or any(side % 2 for side in self.size):
            finding = f"A video of {self.size[0]}x{self.size[1]} pixels (height x width) cannot be made."
        elif self.people is not None and not 1 <= self.people <= 10:
            finding = f"A crowd of {self.people} cannot be made."
        if finding:
            raise UsageError(
                finding,
                remedy=f"Scenes are {', '.join(SCENES)}; the seed is not negative, the rate up to 240 fps, the length "
                f"up to an hour, the sides even and from {_LEAST_SIDE} pixels, a crowd from 1 to 10 people.",
            )

    @property
    def times(self) -> NDArray[np.float64]:
        """The frames' times in seconds, ``(F,)``, from 0."""
        times = np.arange(max(1, round(self.fps * self.seconds))) / self.fps
        if self.variable:
            times = times[self._rng(3).random(len(times)) < 2 / 3]
            times = times - times[0] if len(times) else np.zeros(1)
        return times

    def __len__(self) -> int:
        return len(self.times)

    def _rng(self, what: int) -> Rng:
        return np.random.Generator(np.random.PCG64([self.seed, list(SCENES).index(self.scene), what]))

    def __iter__(self) -> Iterator[VideoFrame]:
        rng, times = self._rng(0), self.times
        height, width = self.size
        plot = SCENES[self.scene](rng, self)
        background = draw_background(rng, height, width, 0.4)
        looks = looks_of_seed(self.seed)
        cast_ = [_Actor.of(rng, walker, looks, times, self) for walker in plot.walkers]
        pillars = [_pillar(pillar, int(90 + 100 * rng.random()), height, width) for pillar in plot.pillars]
        nearest_last = np.argsort([walker.height for walker in plot.walkers], kind="stable")
        for index, time_s in enumerate(times.tolist()):
            scene = Scene(background.copy(), hide=True)
            ids = [number + 1 for number in nearest_last.tolist() if cast_[number].enter(scene, index)]
            for patch, mask, left in pillars:
                scene.add_thing(patch, mask, left, 0)
            shares = scene.visible_shares()
            keep = shares >= _LEAST_VISIBLE
            image = cv2.GaussianBlur(cv2.cvtColor(scene.canvas, cv2.COLOR_BGRA2BGR), (3, 3), 0)
            sample = Sample(cast("NDArray[np.uint8]", image), scene.people()[keep], index, f"frame {index}")
            yield VideoFrame(sample, time_s, np.array(ids, np.int64)[keep], shares[keep])


class _Actor(NamedTuple):
    """One person, drawn ahead of all frames."""

    polygons: NDArray[np.int32]
    keypoints: NDArray[np.float64]
    sizes: list[list[int]]
    outlines: Outlines
    look: Look
    tall: float
    at: NDArray[np.float64]  #: ``(F, 2)``, the middle of the hips in pixels.

    @classmethod
    def of(
        cls, rng: Rng, walker: Walker, looks: tuple[Look, ...], times: NDArray[np.float64], video: SyntheticVideo
    ) -> _Actor:
        height, width = video.size
        tall = walker.height * height
        x = np.interp(times, np.array(walker.times) * video.seconds, walker.across) * width
        ahead = np.interp(times + 0.05, np.array(walker.times) * video.seconds, walker.across) * width
        speed = (ahead - x) / 0.05
        walks = np.abs(speed) > _STANDS * tall
        far = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)))])
        phase = np.where(walks, (2 * math.pi * (far / (_STEP * tall) + rng.random())) % (2 * math.pi), np.nan)
        yaw = np.where(walks, np.sign(speed) * 0.4 * math.pi, 0.15)
        bodies = walking_body(rng, phase, yaw)
        outlines = Outlines.of_bodies([bodies])
        jitter = np.repeat([[rng.random(), 0.5]], len(times), axis=0)
        placed = outlines.place(np.arange(len(times)), np.full(len(times), tall), jitter)
        # The ground rises with the distance: feet of near people are low in the image.
        feet = height * (0.62 + 0.36 * min(1.0, walker.height / 0.8))
        y = np.full(len(times), feet - 0.5 * tall)
        look = looks[int(rng.integers(len(looks)))]
        return cls(*placed, outlines, look, tall, np.stack((x, y), axis=-1))

    def enter(self, scene: Scene, index: int) -> bool:
        """Lay the person onto the scene; False if they are outside of it."""
        plan, head = self.outlines.plans[index], float(self.outlines.head[index]) * self.tall
        cutout = draw_figure(self.polygons[index], self.keypoints[index], self.sizes[index], plan, self.look, head)
        left, top = np.rint(self.at[index] - cutout.keypoints[11:13].mean(0)).astype(int).tolist()
        return scene.add_person(cutout, left, top)


def _pillar(
    pillar: tuple[float, float], grey: int, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    left, right = (round(side * width) for side in pillar)
    mask = np.full((height, right - left), 255, np.uint8)
    patch: Any = np.zeros((*mask.shape, 4), np.uint8)
    patch[..., :3] = grey + (np.arange(right - left)[:, None] // 6 % 2) * 12
    return patch, mask, left


def _cross(rng: Rng, video: SyntheticVideo) -> Plot:
    """Four people, two from either side, who pass each other."""
    del video
    walkers = []
    for number in range(4):
        ahead = 0.17 * (number // 2)
        start, end = ahead + rng.uniform(0, 0.06), ahead + rng.uniform(0.74, 0.8)
        path = (start, end) if number % 2 else (1 - start, 1 - end)
        walkers.append(Walker((rng.uniform(0, 0.04), rng.uniform(0.96, 1)), path, rng.uniform(0.45, 0.7)))
    return Plot(walkers)


def _meet(rng: Rng, video: SyntheticVideo) -> Plot:
    """Two pairs: two people walk up to each other, stand close together, turn and walk back."""
    del video
    walkers = []
    for middle, tall in ((0.3, 0.5), (0.7, 0.68)):
        near = rng.uniform(0.015, 0.035)
        for side in (-1, 1):
            met, turned = rng.uniform(0.3, 0.4), rng.uniform(0.55, 0.65)
            away = middle + side * rng.uniform(0.2, 0.26)
            times = (0.0, met, turned, 1.0)
            walkers.append(Walker(times, (away, *((middle + side * near,) * 2), away), tall + rng.uniform(-0.03, 0.03)))
    return Plot(walkers)


def _hide(rng: Rng, video: SyntheticVideo) -> Plot:
    """Three people who walk past a pillar, and are hidden behind it for at least 13 frames of 30 a second."""
    walkers, widths = [], []
    for number in range(3):
        tall = rng.uniform(0.45, 0.65)
        path = (rng.uniform(-0.02, 0.1), rng.uniform(0.9, 1.02))
        later = 0.12 * (number // 2)
        begin, end = later + rng.uniform(0, 0.06), later + rng.uniform(0.82, 0.88)
        speed = (path[1] - path[0]) / ((end - begin) * video.seconds)
        own = 0.5 * tall * video.size[0] / video.size[1]
        widths.append(own + speed * 13 / 30)
        walkers.append(Walker((begin, end), path if number % 2 else path[::-1], tall))
    left = rng.uniform(0.45, 0.55) - max(widths) / 2
    return Plot(walkers, ((left, left + max(widths)),))


def _leave(rng: Rng, video: SyntheticVideo) -> Plot:
    """Two people leave at one side and come back; meanwhile two others enter there, and one stays."""
    del video
    walkers = [Walker((0.0, 1.0), (0.2, 0.3), rng.uniform(0.5, 0.65))]
    for number in range(2):
        out, back = 0.22 + 0.08 * number + rng.uniform(0, 0.04), 0.62 + 0.12 * number + rng.uniform(0, 0.04)
        times = (0.0, out, back, 1.0)
        walkers.append(
            Walker(
                times,
                (rng.uniform(0.4, 0.5) + 0.25 * number, 1.15, 1.15, rng.uniform(0.45, 0.75)),
                rng.uniform(0.45, 0.7),
            )
        )
        enters = 0.4 + 0.1 * number + rng.uniform(0, 0.04)
        walkers.append(Walker((0.0, enters, 1.0), (1.15, 1.15, rng.uniform(-0.2, 0.3)), rng.uniform(0.45, 0.7)))
    return Plot(walkers)


def _crowd(rng: Rng, video: SyntheticVideo) -> Plot:
    """3 to 10 people who walk to and fro, stop and turn."""
    walkers = []
    for _ in range(video.people or int(rng.integers(3, 11))):
        turns = int(rng.integers(2, 5))
        times = (0.0, *np.sort(rng.uniform(0.1, 0.9, turns)).tolist(), 1.0)
        across = [rng.uniform(0.05, 0.95)]
        for before, after in itertools.pairwise(times):
            reach = 0.22 * (after - before) * video.seconds * rng.choice([-1, 0.1, 1])
            across.append(float(np.clip(across[-1] + reach, 0.03, 0.97)))
        walkers.append(Walker(times, tuple(across), rng.uniform(0.35, 0.65)))
    return Plot(walkers)


#: What can happen in a video.
SCENES: Final[dict[str, Callable[[Rng, SyntheticVideo], Plot]]] = {
    "cross": _cross,
    "meet": _meet,
    "hide": _hide,
    "leave": _leave,
    "crowd": _crowd,
}
