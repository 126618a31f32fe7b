"""Sample and People: one annotated picture, the currency between the data floor and the training floor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from rtmo_deploy.poses import Skeleton


@dataclass(frozen=True, eq=False)
class People:
    """The annotated people of one picture, in its pixels.

    Attributes:
        boxes: ``(N, 4)`` float32, x1, y1, x2, y2.
        keypoints: ``(N, K, 2)`` float32, x, y; 0, 0 where not labelled.
        visible: ``(N, K)`` float32: 0 not labelled, 1 labelled but hidden, 2 visible (COCO's flags).
        areas: ``(N,)`` float32, square pixels, what OKS takes for the person's size.
    """

    boxes: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    visible: NDArray[np.float32]
    areas: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("boxes", "keypoints", "visible", "areas"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        count, joints = self.keypoints.shape[:2]
        expected = {
            "boxes": (count, 4),
            "keypoints": (count, joints, 2),
            "visible": (count, joints),
            "areas": (count,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"People.{name} has shape {getattr(self, name).shape}, expected {shape}")

    @classmethod
    def empty(cls, num_keypoints: int) -> People:
        """Nobody."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros((0, num_keypoints, 2), np.float32),
            np.zeros((0, num_keypoints), np.float32),
            np.zeros(0, np.float32),
        )

    def __len__(self) -> int:
        return len(self.areas)

    def __getitem__(self, index: slice | ArrayLike) -> People:
        """The people that a slice, a boolean mask or an index array selects."""
        keep = index if isinstance(index, slice) else np.asarray(index)
        return People(self.boxes[keep], self.keypoints[keep], self.visible[keep], self.areas[keep])

    @classmethod
    def concatenate(cls, parts: Sequence[People]) -> People:
        """The people of several pictures, which share one coordinate frame by now.

        Raises:
            ValueError: ``parts`` is empty, or keypoint counts differ.
        """
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated picture.

    Attributes:
        image: ``(h, w, 3)`` uint8, BGR.
        people: Its people.
        image_id: The id in the annotation file; the index where there is none.
        name: File name, for messages.
        ignore: ``(h, w)`` bool, where people stand who are not to be learned (crowds, people without keypoints):
            a detection there is neither right nor wrong. None for nowhere.
    """

    image: NDArray[np.uint8]
    people: People
    image_id: int = 0
    name: str = ""
    ignore: NDArray[np.bool_] | None = field(default=None, repr=False)


class PoseDataset(Protocol):
    """What training, calibration and evaluation draw from. Reading one index twice gives the same sample."""

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
