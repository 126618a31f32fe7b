"""Synthetic people: images of cut-out figures whose keypoints, boxes and visibility are known exactly.

For training, calibrating, testing and measuring where there are no photographs, or none that may be used. An image
is a function of the seed, its index and the options, the same on every machine. With a few people at 256 by 256 it
takes about two milliseconds on one core; the first one of a seed half a second more, in which the seed's bodies and
clothes are made ahead (some 20 MB, kept in the process and never changed).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np

from rtmo_deploy.data.sample import Sample
from rtmo_deploy.data.synthetic.figures import draw_figure, looks_of_seed
from rtmo_deploy.data.synthetic.outlines import Outlines
from rtmo_deploy.data.synthetic.scene import MOST_PEOPLE, Scene, draw_background, sample_things
from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.skeletons import COCO_17

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.data.synthetic.figures import Cutout
    from rtmo_deploy.poses import Skeleton

#: Changes whenever the images of a seed change.
GENERATOR_VERSION: Final = 2

#: Heights and widths of images of varied size, as cameras and web pages have them.
_SIZES: Final = (
    (480, 640), (640, 480), (427, 640), (640, 427), (360, 640), (640, 360), (500, 500), (384, 512), (512, 384),
    (320, 480), (480, 320), (320, 320),
)  # fmt: skip
_LEAST_SIDE: Final = 32
_LEAST_HEIGHT_PX: Final = 20.0
_TRIES: Final = 8
_SHRINKS: Final = 9


@dataclass(frozen=True)
class SyntheticOptions:
    """What the images are like.

    Attributes:
        size: Height and width of every image in pixels; None for sizes and shapes as photographs have them.
        people: Least and greatest number of people in an image, drawn uniformly; up to 60.
        height: Least and greatest height of a figure, as if it stood upright, as a share of the image's height;
            None for a range that suits the number of people. Where there is no room, figures become smaller.
        truncated: Share of the people who are cut by the image's border.
        clutter: Density of things that are not people, 1 for the usual, 0 for none.
        occluded: Share of the images in which things are put in front of people.
        finish: Whether brightness, contrast, blur and noise are varied at the end.
    """

    size: tuple[int, int] | None = None
    people: tuple[int, int] = (0, 12)
    height: tuple[float, float] | None = None
    truncated: float = 0.2
    clutter: float = 1.0
    occluded: float = 0.3
    finish: bool = True

    def __post_init__(self) -> None:
        low, high = self.people
        if not 0 <= low <= high <= MOST_PEOPLE:
            raise UsageError(
                f"{low} to {high} people cannot be drawn.",
                remedy=f"Give two numbers from 0 to {MOST_PEOPLE}, the lower one first.",
            )
        if self.size is not None and min(self.size) < _LEAST_SIDE:
            raise UsageError(
                f"An image of {self.size[0]}x{self.size[1]} pixels is too small for people.",
                remedy=f"Take at least {_LEAST_SIDE} pixels for height and width.",
            )
        if self.height is not None and not 0 < self.height[0] <= self.height[1] <= 4:
            raise UsageError(
                f"Figures cannot have heights from {self.height[0]} to {self.height[1]} images.",
                remedy="Give two shares of the image's height above 0 and up to 4, the lower one first.",
            )
        for name in ("truncated", "occluded"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"'{name}' is {getattr(self, name)}.", remedy="It is a share, from 0 to 1.")
        if not 0 <= self.clutter <= 10:
            raise UsageError(f"'clutter' is {self.clutter}.", remedy="Give a density from 0 to 10.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class SyntheticPeople:
    """A data set of synthetic people; a ``PoseDataset``.

    Keypoints are those of COCO, in pixels; a whole number is the centre of a pixel. Their flags: 2, the figure's
    own limb (or trunk, or face) is on top there; 1, behind somebody, something, or another part of the figure itself,
    where the next joint of that limb (or another part of the face) tells its place; 0, at 0, 0, outside the image or
    nowhere to be told, as annotators of photographs have it: the eyes of one who is seen from behind, an ankle whose
    knee is covered too. A shoulder or hip in the image always has a place.

    A box is the extent of the figure's silhouette within the image, parts that are covered included: from the
    first pixel's index to the last one's plus one, as COCO has it. An area is the number of the silhouette's
    pixels within the image, covered or not. People stand farthest first. Of each at least 45 % of the silhouette
    and 4 keypoints are visible.

    Args:
        count: How many images.
        seed: Seed; an image depends on it, its own index and the options only.
        options: What the images are like.
    """

    domain = "synthetic"

    def __init__(self, count: int, *, seed: int, options: SyntheticOptions | None = None) -> None:
        if count < 0 or seed < 0:
            raise UsageError(f"{count} images of seed {seed} cannot be made.", remedy="Neither may be negative.")
        self.count = count
        self.seed = seed
        self.options = options or SyntheticOptions()

    @property
    def skeleton(self) -> Skeleton:
        """COCO's 17 keypoints."""
        return COCO_17

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Draw image ``index``."""
        if not -self.count <= index < self.count:
            raise IndexError(f"image {index} of {self.count}")
        index %= self.count
        rng = np.random.Generator(np.random.PCG64([self.seed, index]))
        options, (low, high) = self.options, self.options.people
        count = int(rng.integers(low, high + 1))
        height, width = options.size or _SIZES[int(rng.integers(len(_SIZES)))]
        scene = Scene(draw_background(rng, height, width, options.clutter))
        if count:
            _add_people(scene, rng, count, self.seed, options)
        if count and options.occluded and rng.random() < options.occluded:
            _add_things(scene, rng)
        image = cv2.cvtColor(scene.canvas, cv2.COLOR_BGRA2BGR)
        if options.finish:
            image = _finish(image, rng)
        return Sample(cast("NDArray[np.uint8]", image), scene.people(), image_id=index, name=f"synthetic-{index}")


def _heights(rng: np.random.Generator, count: int, scene: Scene, options: SyntheticOptions) -> NDArray[np.float64]:
    """Standing heights in pixels, ``(count,)``, smallest (farthest) first as a rule."""
    if options.height is None:
        high = min(0.97, 1.9 / math.sqrt(count))
        low, room = 0.37 * high, min(scene.height, 1.4 * scene.width)
    else:
        (low, high), room = options.height, scene.height
    u = rng.random((2, count))
    shares = low * np.exp(u[0] * math.log(high / low))
    order = np.argsort(shares * (0.8 + 0.4 * u[1]), kind="stable")
    return np.asarray(np.maximum(shares[order] * room, _LEAST_HEIGHT_PX))


def _add_people(scene: Scene, rng: np.random.Generator, count: int, seed: int, options: SyntheticOptions) -> None:
    heights = _heights(rng, count, scene, options)
    outlines, looks = Outlines.of_seed(seed), looks_of_seed(seed)
    bodies = rng.integers(0, len(outlines.plans), count)
    wear = rng.integers(0, len(looks), count).tolist()
    jitter = rng.random((count, 2))
    polygons, keypoints, sizes = outlines.place(bodies, heights, jitter)
    heads: list[float] = (outlines.head[bodies] * heights).tolist()
    plans = [outlines.plans[body] for body in bodies.tolist()]
    for index in range(count):
        plan, look = plans[index], looks[wear[index]]
        cutout = draw_figure(polygons[index], keypoints[index], sizes[index], plan, look, heads[index])
        shrinks, factor = 0, 1.0
        while not _place(scene, cutout, rng, options.truncated if not shrinks else 0.0, (index + 1) / count):
            if shrinks == _SHRINKS:  # there is no room at all: one fewer
                break
            shrinks, factor = shrinks + 1, max(0.75 * factor, min(factor, _LEAST_HEIGHT_PX / heights[index]))
            one = slice(index, index + 1)
            smaller = outlines.place(bodies[one], heights[one] * factor, jitter[one])
            cutout = draw_figure(smaller[0][0], smaller[1][0], smaller[2][0], plan, look, heads[index] * factor)


def _place(scene: Scene, cutout: Cutout, rng: np.random.Generator, truncated: float, nearness: float) -> bool:
    """Find a place for a figure and lay it there; False if there is none. Near figures stand low in the image."""
    u: list[float] = rng.random(4 + 3 * _TRIES).tolist()
    x, y, w, h = cv2.boundingRect(cutout.parts)
    free_x, free_y = scene.width - w, scene.height - h
    for attempt in range(_TRIES):
        across, down, chance = u[4 + 3 * attempt : 7 + 3 * attempt]
        if attempt < 4 and u[1] < 0.6:  # on a ground that rises with the distance
            down = min(1.0, max(0.0, 0.15 + 0.85 * nearness + 0.5 * (down - 0.5)))
        left, top = int(across * free_x), int(down * free_y)
        if attempt < 2 and scene.boxes and chance < 0.35:  # beside or before somebody
            box = scene.boxes[int(u[2] * len(scene.boxes))]
            left = int(box[0] + (box[2] - w) / 2 + (across - 0.5) * 1.3 * (box[2] + w) / 2)
            left = max(min(left, free_x), 0) if free_x > 0 else left
        if u[0] < truncated:
            cut = 0.1 + 0.5 * u[3]
            if chance < 0.3:
                left = -int(cut * w)
            elif chance < 0.6:
                left = free_x + int(cut * w)
            elif chance < 0.9:
                top = free_y + int(cut * h)
            else:
                top = -int(0.6 * cut * h)
        if scene.add_person(cutout, left - x, top - y):
            return True
    return False


def _add_things(scene: Scene, rng: np.random.Generator) -> None:
    """Put one to three things in front of people."""
    count = int(rng.integers(1, 4))
    for outline, colour in sample_things(rng, count, scene.height, scene.width):
        x, y, w, h = cv2.boundingRect(outline >> 4)
        mask = np.zeros((h + 2, w + 2), np.uint8)
        cv2.fillConvexPoly(mask, outline - np.array((x << 4, y << 4), np.int32), 255, cv2.LINE_8, 4)
        patch = np.empty((*mask.shape, 4), np.uint8)
        patch[:] = (*colour, 0)
        scene.add_thing(patch, mask, x, y)


_STRIP: Final = 1 << 21


@lru_cache(maxsize=4)
def _noise_strip(amplitude: int) -> NDArray[np.uint8]:
    """Grain, 0..2*amplitude, about triangular; ``(2**21,)`` uint8."""
    rng = np.random.Generator(np.random.PCG64([7, amplitude]))
    pair = rng.integers(0, amplitude + 1, (2, _STRIP), dtype=np.uint8)
    strip: NDArray[np.uint8] = pair[0] + pair[1]
    strip.setflags(write=False)
    return strip


def _finish(image: Any, rng: np.random.Generator) -> Any:
    """Soften edges, vary brightness, contrast and blur, add grain; ``(h, w, 3)`` uint8 in and out."""
    u: list[float] = rng.random(8).tolist()
    if u[0] < 0.8:
        side = 3 if u[0] < 0.68 else 5
        image = cv2.GaussianBlur(image, (side, side), 0)
    brightness = 0
    if u[1] < 0.6:
        part = image >> (1 + int(3 * u[2]))
        if u[3] < 0.5:  # less contrast, or more
            image = cv2.subtract(image, part)
            brightness = int(60 * u[6])
        else:
            image = cv2.add(image, part)
            brightness = -int(60 * u[6])
    if u[4] < 0.7:
        amplitude = (2, 4, 7, 12)[int(4 * u[5] * u[5])]
        strip, start = _noise_strip(amplitude), int(u[7] * _STRIP)
        if start + image.size > _STRIP:
            start = max(0, _STRIP - image.size)
        grain = strip[start : start + image.size] if image.size <= _STRIP else np.resize(strip, image.size)
        image = cv2.add(image, grain.reshape(image.shape))
        brightness -= amplitude
    if brightness:
        change: Any = cv2.add if brightness > 0 else cv2.subtract
        image = change(image, (*(abs(brightness),) * 3, 0))
    return image
