"""Four images around a point (YOLOX's mosaic, as in mmpose's ``Mosaic``)."""

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

    Attributes:
        indices: The four images' indices in the dataset.
        centre_xy: x, y in the canvas, pixels.
        input_hw: Height and width of the network input.
    """

    indices: tuple[int, int, int, int]
    centre_xy: tuple[int, int]
    input_hw: tuple[int, int]

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return 2 * self.input_hw[0], 2 * self.input_hw[1]

    def compose(self, read: Callable[[int], Sample], to_input: NDArray[np.float64]) -> Sample:
        """Read the images and put them on the canvas.

        An image is not even read when nothing of its quarter can be seen in the input: with the recipes'
        numbers that spares a third of the reading, and changes nothing that is seen.

        Args:
            read: Index to sample.
            to_input: ``(3, 3)`` matrix, canvas -> input.
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
            rows, columns, crop, matrix = self._place(quarter, sample.image.shape[:2])
            size = crop.hw[::-1]
            if rows.stop > rows.start and columns.stop > columns.start:
                canvas[rows, columns] = _resized(sample.image, size)[crop.rows, crop.columns]
                if sample.ignore is not None:
                    ignore = np.zeros(self.canvas_hw, np.bool_) if ignore is None else ignore
                    mask = _resized(sample.ignore.astype(np.uint8) * 255, size)
                    ignore[rows, columns] = mask[crop.rows, crop.columns] > 127
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

    def _place(self, quarter: int, image_hw: tuple[int, int]) -> tuple[slice, slice, _Crop, NDArray[np.float64]]:
        """Rows and columns of the canvas, what goes there, and the matrix image -> canvas."""
        scale = min(side / of for side, of in zip(self.input_hw, image_hw, strict=True))
        hw = max(1, int(image_hw[0] * scale)), max(1, int(image_hw[1] * scale))
        left = self.centre_xy[0] - (0 if quarter % 2 else hw[1])
        top = self.centre_xy[1] - (0 if quarter // 2 else hw[0])
        rows = slice(max(top, 0), min(top + hw[0], self.canvas_hw[0]))
        columns = slice(max(left, 0), min(left + hw[1], self.canvas_hw[1]))
        crop = _Crop(hw, slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        matrix = resize_matrix(image_hw, hw)
        matrix[:2, 2] += left, top
        return rows, columns, crop, matrix


@dataclass(frozen=True)
class _Crop:
    """Rows and columns of an image after it was resized to ``hw``."""

    hw: tuple[int, int]
    rows: slice
    columns: slice


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


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``size`` is width, height."""
    if image.shape[1::-1] == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


@dataclass(frozen=True)
class MixupPlan:
    """Which image, and how it lies over the input.

    The reference fits the image into the upper left of a canvas of the input's size, enlarges the canvas,
    mirrors it with its padding, and cuts the input's size out of it where there is more than that. Here that
    is one matrix, so that the image is interpolated once.

    Attributes:
        index: The image's index in the dataset.
        enlargement: Of the canvas, over the input's size.
        mirrored: Whether the canvas is mirrored.
        corner_xy: x, y of the input's upper left corner in the canvas, pixels.
    """

    index: int
    enlargement: float
    mirrored: bool
    corner_xy: tuple[int, int]

    def blend(self, sample: Sample, other: Sample, flip_indices: Sequence[int]) -> Sample:
        """Half of each image, and the people of both, each with the area it has in the input.

        An image without people is not blended in. The masks are joined.
        """
        if not len(other.people):
            return sample
        hw = sample.image.shape[:2]
        people, image, ignore = other.people, other.image, other.ignore
        matrix = self._matrix(image.shape[:2], hw)
        if self.mirrored:
            people = replace(
                people, keypoints=people.keypoints[:, list(flip_indices)], visible=people.visible[:, list(flip_indices)]
            )
        both = cv2.addWeighted(sample.image, 0.5, warp_image(image, matrix, hw), 0.5, _ROUND_DOWN)
        return replace(
            sample,
            image=np.asarray(both, np.uint8),
            people=clip_people(People.concatenate([sample.people, move_people(people, matrix)]), hw),
            ignore=_joined(sample.ignore, warp_ignore(ignore, matrix, hw)),
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


def _joined(first: NDArray[np.bool_] | None, second: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second
