"""A dataset whose keypoints are translated to another skeleton, and the translations of the "body7" sets to COCO.

The reference trains its body7 models on seven sets with keypoints of their own, brought to COCO's 17; what a set does
not label is not labelled, and costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.data.sample import People, Sample, fill_box
from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.data.sample import PoseDataset
    from rtmo_deploy.poses import Skeleton


def _pairs(*targets: int | None) -> tuple[tuple[int, int], ...]:
    return tuple((source, target) for source, target in enumerate(targets) if target is not None)


#: Pairs (index in the set, index in COCO) of the body7 sets, and of OCHuman, which is used for evaluation only.
BODY7: Final[Mapping[str, tuple[tuple[int, int], ...]]] = {
    "coco": _pairs(*range(17)),
    "aic": _pairs(6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15),
    "crowdpose": _pairs(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16),
    "mpii": _pairs(16, 14, 12, 11, 13, 15, None, None, None, None, 10, 8, 6, 5, 7, 9),
    "jhmdb": _pairs(None, None, None, 6, 5, 12, 11, 8, 7, 14, 13, 10, 9, 16, 15),
    "halpe": _pairs(*range(17)),
    "posetrack18": _pairs(0, None, None, *range(3, 17)),
    "ochuman": _pairs(*range(17)),
}


class TranslatedDataset:
    """A :class:`~rtmo_deploy.data.PoseDataset` with the keypoints of another one, translated.

    People without a labelled keypoint after the translation are not learned: their boxes join ``Sample.ignore``.

    Args:
        dataset: The dataset.
        mapping: Pairs (its keypoint, keypoint of the target skeleton), each an index or a name.
        skeleton: What the keypoints shall be.

    Raises:
        UsageError: The mapping does not fit.
    """

    def __init__(
        self, dataset: PoseDataset, mapping: Sequence[tuple[int | str, int | str]], skeleton: Skeleton
    ) -> None:
        self.dataset = dataset
        self.skeleton = skeleton
        self._sources = [_index(one, dataset.skeleton) for one, _ in mapping]
        self._targets = [_index(one, skeleton) for _, one in mapping]
        twice = sorted({skeleton.keypoints[one] for one in self._targets if self._targets.count(one) > 1})
        if twice:
            raise UsageError(
                f"The mapping leads to {', '.join(twice)} more than once.", remedy="Give each target one source."
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """A sample with its keypoints translated; InputDataError where its image cannot be read."""
        sample = self.dataset[index]
        old, ignore = sample.people, sample.ignore
        keypoints = np.zeros((len(old), len(self.skeleton), 2), np.float32)
        visible = np.zeros((len(old), len(self.skeleton)), np.float32)
        keypoints[:, self._targets] = old.keypoints[:, self._sources]
        visible[:, self._targets] = old.visible[:, self._sources]
        people = People(old.boxes, keypoints, visible, old.areas)
        bare = ~(visible > 0).any(1)
        if bare.any():
            mask = np.zeros(sample.image.shape[:2], np.uint8) if ignore is None else ignore.astype(np.uint8)
            for box in people.boxes[bare]:
                fill_box(mask, box)
            ignore = mask.astype(bool)
        return Sample(sample.image, people[~bare], sample.image_id, sample.name, ignore)


def _index(one: int | str, skeleton: Skeleton) -> int:
    found = skeleton.find(one)
    if found is None:
        raise UsageError(
            f"The mapping names the keypoint {one!r}, which '{skeleton.name}' does not have.",
            remedy=f"It has 0 to {len(skeleton) - 1}: {', '.join(skeleton.keypoints)}.",
        )
    return found
