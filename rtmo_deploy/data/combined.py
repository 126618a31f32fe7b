"""Several datasets as one: each with its share, its keypoints translated to one skeleton.

As the reference trains its "body7" models: seven sets with keypoints of their own, brought to COCO's 17; what a set
does not label is not labelled, and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.data.sample import People, Sample, fill_box
from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.skeletons import COCO_17

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import PoseDataset
    from rtmo_deploy.poses import Skeleton

    Pairs = Sequence[tuple[int | str, int | str]]


@dataclass(frozen=True)
class Body7Set:
    """How one of the body7 sets enters the training of the published models."""

    keypoints: int
    ratio: float | None
    targets: tuple[int | None, ...]

    @property
    def mapping(self) -> tuple[tuple[int, int], ...]:
        """Pairs (index in the set, index in COCO)."""
        return tuple((source, target) for source, target in enumerate(self.targets) if target is not None)


_SAME: Final = tuple(range(17))

#: The sets of the body7 models by name; OCHuman has a translation, and is used for evaluation only.
BODY7: Final[Mapping[str, Body7Set]] = {
    "coco": Body7Set(17, 1.0, _SAME),
    "aic": Body7Set(14, 0.3, (6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15)),
    "crowdpose": Body7Set(14, 0.5, (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)),
    "mpii": Body7Set(16, 0.3, (16, 14, 12, 11, 13, 15, None, None, None, None, 10, 8, 6, 5, 7, 9)),
    "jhmdb": Body7Set(15, 0.3, (None, None, None, 6, 5, 12, 11, 8, 7, 14, 13, 10, 9, 16, 15)),
    "halpe": Body7Set(26, 0.4, _SAME),
    "posetrack18": Body7Set(17, 0.3, (0, None, None, *range(3, 17))),
    "ochuman": Body7Set(17, None, _SAME),
}


@dataclass(frozen=True)
class Part:
    """A dataset in a :class:`CombinedDataset`.

    Attributes:
        dataset: The dataset.
        ratio: Images drawn from it in an epoch, as a share of those it has: 0.3 for three in ten, 2 for each about
            twice. None for each exactly once.
        mapping: Pairs (its keypoint, keypoint of the target skeleton), each an index or a name; None where both
            have the same keypoints.
    """

    dataset: PoseDataset
    ratio: float | None = None
    mapping: Pairs | None = None

    @classmethod
    def body7(cls, name: str, dataset: PoseDataset) -> Part:
        """A part with the ratio and the mapping of the body7 models.

        UsageError where the set is unknown or has other keypoints.
        """
        record = BODY7.get(name)
        if record is None:
            raise UsageError(f"There is no body7 set '{name}'.", remedy=f"They are: {', '.join(BODY7)}.")
        if len(dataset.skeleton) != record.keypoints:
            raise UsageError(
                f"The body7 set '{name}' has {record.keypoints} keypoints, this dataset {len(dataset.skeleton)}.",
                remedy="Give the annotations as MMPose converts them, or a mapping of your own.",
            )
        return cls(dataset, record.ratio, record.mapping)


class CombinedDataset:
    """A :class:`~rtmo_deploy.data.PoseDataset` made of others, one after the other.

    A part of n images and ratio r gives round(n * r) samples (half to even), as in the reference: its images are
    cut into that many equal stretches, and one image is drawn from each. The draw depends on ``seed`` and the epoch
    alone, so reading an index twice gives the same sample; :meth:`set_epoch` draws anew.

    People without a labelled keypoint after the translation are not learned: their boxes join ``Sample.ignore``.

    Args:
        parts: The datasets.
        skeleton: What the keypoints shall be.
        seed: Of the draw.

    Raises:
        UsageError: A ratio is negative, a mapping does not fit, or nothing is left to draw.
    """

    def __init__(self, parts: Sequence[Part], skeleton: Skeleton = COCO_17, *, seed: int = 0) -> None:
        self.skeleton = skeleton
        self.parts = tuple(parts)
        self.seed = seed
        self.epoch = 0
        for number, part in enumerate(self.parts):
            if part.ratio is not None and not 0 <= part.ratio < float("inf"):
                raise UsageError(f"The ratio of part {number} is {part.ratio}.", remedy="Give 0 or more.")
        self._mappings = [_resolve(part, skeleton, number) for number, part in enumerate(self.parts)]
        sizes = [len(part.dataset) for part in self.parts]
        counts = [
            size if part.ratio is None else round(size * part.ratio)
            for size, part in zip(sizes, self.parts, strict=True)
        ]
        self._sizes, self._ends = sizes, np.cumsum(counts, dtype=np.int64)
        if not len(self):
            raise UsageError("Nothing is left to draw from.", remedy="Give parts with images and larger ratios.")
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the images of an epoch. Worker processes that exist already have copies of their own."""
        self.epoch = epoch
        self._drawn = [self._draw(number) for number in range(len(self.parts))]

    def _draw(self, number: int) -> NDArray[np.int32]:
        """For each sample of a part, the index of its image there."""
        start = self._ends[number - 1] if number else 0
        size, count = self._sizes[number], int(self._ends[number] - start)
        if self.parts[number].ratio is None or not count:
            return np.arange(count, dtype=np.int32)
        stretch = (size - 1e-4) / count
        place = np.random.default_rng([self.seed, self.epoch, number]).random(count)
        drawn = np.rint(stretch * np.arange(count) + place * stretch - 0.5)
        return np.clip(drawn, 0, size - 1).astype(np.int32)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Number of the part that a sample comes from, and its index there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, and no number {index}")
        index %= len(self)
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[number - 1]) if number else 0
        return number, int(self._drawn[number][index - start])

    def __getitem__(self, index: int) -> Sample:
        """A sample with its keypoints translated; InputDataError where its image cannot be read."""
        number, place = self.locate(index)
        sample = self.parts[number].dataset[place]
        mapping = self._mappings[number]
        return sample if mapping is None else _translate(sample, *mapping, len(self.skeleton))


def _resolve(part: Part, skeleton: Skeleton, number: int) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Source and target indices; None where nothing has to be translated."""
    own = part.dataset.skeleton
    if part.mapping is None:
        if own.keypoints != skeleton.keypoints:
            raise UsageError(
                f"Part {number} has the keypoints of '{own.name}', not those of '{skeleton.name}'.",
                remedy="Give it a mapping.",
            )
        return None
    sources = [_index(one, own, number) for one, _ in part.mapping]
    targets = [_index(one, skeleton, number) for _, one in part.mapping]
    if len(set(targets)) < len(targets):
        twice = sorted({skeleton.keypoints[one] for one in targets if targets.count(one) > 1})
        raise UsageError(
            f"The mapping of part {number} leads to {', '.join(twice)} more than once.",
            remedy="Give each target one source.",
        )
    return np.array(sources, np.intp), np.array(targets, np.intp)


def _index(one: int | str, skeleton: Skeleton, number: int) -> int:
    if isinstance(one, str) and one in skeleton.keypoints:
        return skeleton.keypoints.index(one)
    if isinstance(one, int) and 0 <= one < len(skeleton):
        return one
    raise UsageError(
        f"The mapping of part {number} names the keypoint {one!r}, which '{skeleton.name}' does not have.",
        remedy=f"It has 0 to {len(skeleton) - 1}: {', '.join(skeleton.keypoints)}.",
    )


def _translate(sample: Sample, sources: NDArray[np.intp], targets: NDArray[np.intp], joints: int) -> Sample:
    old = sample.people
    keypoints = np.zeros((len(old), joints, 2), np.float32)
    visible = np.zeros((len(old), joints), np.float32)
    keypoints[:, targets] = old.keypoints[:, sources]
    visible[:, targets] = old.visible[:, sources]
    people = People(old.boxes, keypoints, visible, old.areas)
    bare = ~(visible > 0).any(1)
    ignore = sample.ignore
    if bare.any():
        mask = np.zeros(sample.image.shape[:2], np.uint8) if ignore is None else ignore.astype(np.uint8)
        for box in people.boxes[bare]:
            fill_box(mask, box)
        ignore = mask.astype(bool)
    return Sample(sample.image, people[~bare], sample.image_id, sample.name, ignore)
