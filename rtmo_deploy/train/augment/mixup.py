"""A second picture shining through (mmpose's ``YOLOXMixUp``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rtmo_deploy.data import People, Sample
from rtmo_deploy.train.augment.geometry import clip_people, move_people, warp_ignore, warp_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class MixupPlan:
    """Which picture, and how it lies over the input.

    The reference fits the picture into the upper left of a canvas of the input's size, enlarges the canvas,
    mirrors it with its padding, and cuts the input's size out of it where there is more than that. Here that
    is one matrix, so that the picture is interpolated once.

    Attributes:
        index: The picture's index in the dataset.
        enlargement: Of the canvas, over the input's size.
        mirrored: Whether the canvas is mirrored.
        corner_xy: x, y of the input's upper left corner in the canvas, pixels.
    """

    index: int
    enlargement: float
    mirrored: bool
    corner_xy: tuple[int, int]

    def blend(self, sample: Sample, other: Sample, flip_indices: Sequence[int]) -> Sample:
        """Half of each picture, and the people of both, each with the area it has in the input.

        A picture without people is not blended in. The masks are joined.
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
    """Draw the picture, its enlargement, whether it is mirrored (half of the time), and the corner."""
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
