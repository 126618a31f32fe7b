"""GroundTruth: what an annotation file says, as arrays, for those who judge rather than learn.

Learning leaves crowds and people without keypoints out. Judging must know them: a detection of theirs is neither
right nor wrong. So nothing is cleaned or clipped here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import People


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotations of I pictures, M people with K keypoints in them, in pixels of their pictures.

    Attributes:
        image_ids: ``(I,)``, the ids in the file: int64, or objects where some are text.
        crowd_index: ``(I,)`` float64, CrowdPose's measure of how crowded a picture is; NaN where not given.
        image: ``(M,)`` int32, index of each person's picture, ascending.
        boxes: ``(M, 4)`` float64, x, y, width, height, as in the file.
        areas: ``(M,)`` float64, square pixels; NaN where not given.
        crowd: ``(M,)`` bool, not one person but a crowd.
        num_keypoints: ``(M,)`` int32, what the file says, or the number of labelled ones; people with 0 are ignored.
        keypoints: ``(M, K, 3)`` float32, x, y and COCO's flag.
        category_id: What the file calls the category of people.
    """

    image_ids: NDArray[Any]
    crowd_index: NDArray[np.float64]
    image: NDArray[np.int32]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    num_keypoints: NDArray[np.int32]
    keypoints: NDArray[np.float32]
    category_id: int = 1

    @property
    def num_images(self) -> int:
        """Number of pictures, those without people included."""
        return len(self.image_ids)

    @property
    def num_people(self) -> int:
        """People that count: no crowds, and with keypoints."""
        return int((~self.crowd & (self.num_keypoints > 0)).sum())

    def select(self, images: NDArray[np.intp]) -> GroundTruth:
        """The ground truth of some pictures, in the order of ``images`` (indices, ascending, each once)."""
        new_index = np.full(self.num_images, -1, np.int32)
        new_index[images] = np.arange(len(images), dtype=np.int32)
        keep = new_index[self.image] >= 0
        return GroundTruth(
            image_ids=self.image_ids[images],
            crowd_index=self.crowd_index[images],
            image=new_index[self.image[keep]],
            boxes=self.boxes[keep],
            areas=self.areas[keep],
            crowd=self.crowd[keep],
            num_keypoints=self.num_keypoints[keep],
            keypoints=self.keypoints[keep],
            category_id=self.category_id,
        )

    @classmethod
    def from_people(cls, people: Iterable[People], num_keypoints: int) -> GroundTruth:
        """The ground truth of a dataset that has no file: the people of each picture, all of whom count.

        Args:
            people: One entry a picture.
            num_keypoints: K, for the case that there is nobody.
        """
        parts = list(people)
        counts = [len(part) for part in parts]

        def joined(arrays: list[NDArray[Any]], *shape: int) -> NDArray[Any]:
            return np.concatenate([np.zeros((0, *shape), np.float32), *arrays])

        corners = joined([part.boxes for part in parts], 4).astype(np.float64)
        points = joined([part.keypoints for part in parts], num_keypoints, 2)
        visible = joined([part.visible for part in parts], num_keypoints)
        return cls(
            image_ids=np.arange(len(parts)),
            crowd_index=np.full(len(parts), np.nan),
            image=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
            boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            areas=joined([part.areas for part in parts]).astype(np.float64),
            crowd=np.zeros(len(points), bool),
            num_keypoints=(visible > 0).sum(1).astype(np.int32),
            keypoints=np.concatenate([points, visible[..., None]], axis=-1),
        )
