"""Sample and People: one annotated image, the currency between the data floor and the training floor."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from rtmo_deploy.poses import as_float32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    from rtmo_deploy.poses import Skeleton

#: Share of a person's box that stands for the person's area where none is given: the reference's figure.
AREA_OF_BOX: Final = 0.53
#: COCO's tools leave larger people out of every figure.
LARGEST_AREA: Final = 1e10


@dataclass(frozen=True, eq=False)
class People:
    """The annotated people of one image, in its pixels.

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
        count, joints = np.shape(self.keypoints)[:2]
        as_float32(self, boxes=(count, 4), keypoints=(count, joints, 2), visible=(count, joints), areas=(count,))

    @classmethod
    def empty(cls, num_keypoints: int) -> People:
        """Nobody."""
        none = np.zeros((0, num_keypoints, 2), np.float32)
        return cls(np.zeros((0, 4), np.float32), none, none[..., 0], np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.areas)

    def __getitem__(self, index: slice | ArrayLike) -> People:
        """The people that a slice, a boolean mask or an index array selects."""
        keep = index if isinstance(index, slice) else np.asarray(index)
        return People(self.boxes[keep], self.keypoints[keep], self.visible[keep], self.areas[keep])

    @classmethod
    def concatenate(cls, parts: Sequence[People]) -> People:
        """The people of several images that share one coordinate frame by now; ValueError for none."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated image.

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


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotations of I images, M people with K keypoints in them, in pixels of their images."""

    image_ids: NDArray[Any]  #: ``(I,)``, the ids in the file: int64, or objects where some are text.
    #: ``(I,)`` float64, CrowdPose's measure of how crowded an image is; NaN where not given.
    crowd_index: NDArray[np.float64]
    image: NDArray[np.int32]  #: ``(M,)`` int32, index of each person's image, ascending.
    boxes: NDArray[np.float64]  #: ``(M, 4)`` float64, x, y, width, height, as in the file.
    areas: NDArray[np.float64]  #: ``(M,)`` float64, square pixels; NaN where not given.
    crowd: NDArray[np.bool_]  #: ``(M,)`` bool, not one person but a crowd.
    #: ``(M,)`` int32, what the file says, or the number of labelled ones; people with 0 are ignored.
    num_keypoints: NDArray[np.int32]
    keypoints: NDArray[np.float32]  #: ``(M, K, 3)`` float32, x, y and COCO's flag.
    category_id: int = 1  #: What the file calls the category of people.

    @property
    def num_images(self) -> int:
        """Number of images, those without people included."""
        return len(self.image_ids)

    @property
    def num_people(self) -> int:
        """People that count: no crowds, and with keypoints."""
        return int((~self.crowd & (self.num_keypoints > 0)).sum())

    def select(self, images: NDArray[np.intp]) -> GroundTruth:
        """The ground truth of some images, in the order of ``images`` (indices, ascending, each once)."""
        new_index = np.full(self.num_images, -1, np.int32)
        new_index[images] = np.arange(len(images), dtype=np.int32)
        keep = new_index[self.image] >= 0
        people = ("boxes", "areas", "crowd", "num_keypoints", "keypoints")
        return replace(
            self,
            image_ids=self.image_ids[images],
            crowd_index=self.crowd_index[images],
            image=new_index[self.image[keep]],
            **{name: getattr(self, name)[keep] for name in people},
        )

    @classmethod
    def from_people(cls, people: Iterable[People], num_keypoints: int) -> GroundTruth:
        """The ground truth of a dataset without a file: the people of each image, all of whom count."""
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


def fill_box(mask: NDArray[np.uint8], corners: ArrayLike) -> None:
    """Set to 1 what a box x1, y1, x2, y2 in pixels covers, every pixel it touches."""
    x1, y1, x2, y2 = np.asarray(corners, np.float64)
    if x2 > x1 and y2 > y1:
        rows = slice(max(0, int(np.floor(y1))), max(0, int(np.ceil(y2))))
        mask[rows, max(0, int(np.floor(x1))) : max(0, int(np.ceil(x2)))] = 1
