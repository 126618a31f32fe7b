"""Samples made of several images: mosaic and mixup (YOLOX's, as in mmpose's ``Mosaic`` and ``YOLOXMixUp``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rtmo_deploy.data import People, Sample
from rtmo_deploy.runtime.letterbox import PAD_VALUE
from rtmo_deploy.train.augment.geometry import clip_people, move_people, resize_matrix, warp_ignore, warp_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class MosaicPlan:
    """Which images, and where they meet.

    The canvas is twice the input's height and width, filled with 114. Every image is enlarged or shrunk
    until it fits the input size, keeping its aspect, and put with one corner at the centre: the sample's own
    above left, its partners above right, below left and below right. What reaches over the canvas is cut off.
    """

    #: Of the images in the dataset.
    indices: tuple[int, int, int, int]
    centre_xy: tuple[int, int]
    input_hw: tuple[int, int]

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return 2 * self.input_hw[0], 2 * self.input_hw[1]

    def compose(self, read: Callable[[int], Sample], to_input: NDArray[np.float64]) -> Sample:
        """Read the images and put them on the canvas, which the matrix ``to_input`` takes to the input.

        An image is not even read when nothing of its quarter can be seen in the input: with the recipes'
        numbers that spares a third of the reading, and changes nothing that is seen.
        """
        canvas = np.full((*self.canvas_hw, 3), PAD_VALUE, np.uint8)
        ignore: NDArray[np.bool_] | None = None
        people = []
        first: Sample | None = None
        for quarter, index in enumerate(self.indices):
            if quarter and not self._seen(quarter, to_input):
                continue
            sample = read(index)
            first = first or sample
            hw, (top, left) = self._place(quarter, sample.image.shape[:2])
            rows = slice(max(top, 0), min(top + hw[0], self.canvas_hw[0]))
            columns = slice(max(left, 0), min(left + hw[1], self.canvas_hw[1]))
            crop = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
            if rows.stop > rows.start and columns.stop > columns.start:
                canvas[rows, columns] = _resized(sample.image, hw)[crop]
                if sample.ignore is not None:
                    ignore = np.zeros(self.canvas_hw, np.bool_) if ignore is None else ignore
                    ignore[rows, columns] = _resized(sample.ignore.astype(np.uint8) * 255, hw)[crop] > 127
            matrix = resize_matrix(sample.image.shape[:2], hw)
            matrix[:2, 2] += left, top
            people.append(move_people(sample.people, matrix))
        assert first is not None  # the first quarter is always read
        everyone = clip_people(People.concatenate(people), self.canvas_hw)
        return replace(first, image=canvas, people=everyone, ignore=ignore)

    def _seen(self, quarter: int, to_input: NDArray[np.float64]) -> bool:
        """Whether some of this quarter of the canvas can be in the input, to a pixel or two."""
        height, width = self.input_hw
        corners = np.array([[-1, -1, 1], [width, -1, 1], [-1, height, 1], [width, height, 1]], np.float64)
        view = corners @ np.linalg.inv(to_input)[:2].T
        (low_x, low_y), (high_x, high_y) = view.min(axis=0) - 1, view.max(axis=0) + 1
        x, y = self.centre_xy
        return bool((high_x >= x if quarter % 2 else low_x <= x) and (high_y >= y if quarter // 2 else low_y <= y))

    def _place(self, quarter: int, image_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of an image on the canvas, and the row and column where it begins."""
        scale = min(side / of for side, of in zip(self.input_hw, image_hw, strict=True))
        hw = max(1, int(image_hw[0] * scale)), max(1, int(image_hw[1] * scale))
        x, y = self.centre_xy
        return hw, (y if quarter // 2 else y - hw[0], x if quarter % 2 else x - hw[1])


def draw_mosaic(
    index: int, dataset_size: int, input_hw: tuple[int, int], centre: tuple[float, float], rng: np.random.Generator
) -> MosaicPlan:
    """Draw three partners, which may repeat, and the centre; ``centre`` is in inputs, the same in x and y."""
    partners = rng.integers(dataset_size, size=3)
    x, y = rng.uniform(*centre, size=2)
    return MosaicPlan(
        (index, int(partners[0]), int(partners[1]), int(partners[2])),
        (int(x * input_hw[1]), int(y * input_hw[0])),
        input_hw,
    )


def _resized(image: NDArray[np.uint8], hw: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape[:2] == hw:
        return image
    return np.asarray(cv2.resize(image, hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


@dataclass(frozen=True)
class MixupPlan:
    """Which image, and how it lies over the input.

    The reference fits the image into the upper left of a canvas of the input's size, enlarges the canvas,
    mirrors it with its padding, and cuts the input's size out of it where there is more than that. Here that
    is one matrix, so that the image is interpolated once.
    """

    index: int
    #: Of the canvas, over the input's size.
    enlargement: float
    #: Whether the canvas is mirrored.
    mirrored: bool
    #: Of the input's upper left corner in the canvas, pixels.
    corner_xy: tuple[int, int]

    def blend(self, sample: Sample, other: Sample, flip_indices: Sequence[int]) -> Sample:
        """Half of each image, and the people of both, each with the area it has in the input.

        An image without people is not blended in. The masks are joined.
        """
        if not len(other.people):
            return sample
        hw = sample.image.shape[:2]
        people, order = other.people, list(flip_indices)
        matrix = self._matrix(other.image.shape[:2], hw)
        if self.mirrored:
            people = replace(people, keypoints=people.keypoints[:, order], visible=people.visible[:, order])
        both = cv2.addWeighted(sample.image, 0.5, warp_image(other.image, matrix, hw), 0.5, _ROUND_DOWN)
        masks = [one for one in (sample.ignore, warp_ignore(other.ignore, matrix, hw)) if one is not None]
        return replace(
            sample,
            image=np.asarray(both, np.uint8),
            people=clip_people(People.concatenate([sample.people, move_people(people, matrix)]), hw),
            ignore=np.logical_or.reduce(masks) if masks else None,
        )

    def _matrix(self, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> NDArray[np.float64]:
        scale = self.enlargement * min(side / of for side, of in zip(input_hw, image_hw, strict=True))
        x, y = self.corner_xy
        matrix = np.array([[scale, 0, -x], [0, scale, -y], [0, 0, 1]], np.float64)
        if self.mirrored:
            last = int(input_hw[1] * self.enlargement) - 1
            matrix[0] = -scale, 0, last - x
        return matrix


_ROUND_DOWN = -0.25
"""Added to a mean of two whole numbers: x.5 becomes x, as in the reference, and x stays."""


def draw_mixup(
    dataset_size: int, input_hw: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> MixupPlan:
    """Draw the image, its enlargement, whether it is mirrored (half of the time), and the corner."""
    index = int(rng.integers(dataset_size))
    enlargement = float(rng.uniform(*scale))
    mirrored = bool(rng.random() > 0.5)
    spare_y, spare_x = (max(0, int(side * enlargement) - side) for side in input_hw)
    top, left = (int(rng.integers(spare + 1)) for spare in (spare_y, spare_x))
    return MixupPlan(index, enlargement, mirrored, (left, top))
