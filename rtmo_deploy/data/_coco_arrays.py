"""The lists of an annotation file, entry by entry, into arrays; every entry is right, or noted as wrong."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.data._packed import Packed
from rtmo_deploy.data.ground_truth import GroundTruth

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.data._findings import Collector
    from rtmo_deploy.poses import Skeleton

__all__ = ["CocoFile", "Images", "People"]

#: Coordinates beyond this are no places in a picture.
_HUGE: Final = 1e7


@dataclass(frozen=True, eq=False)
class CocoFile:
    """An annotation file as arrays; what could not be used is left out and noted in ``found``.

    Attributes:
        path: The file.
        skeleton: What its keypoints are.
        truth: Its pictures and people. Pictures are in the order of the file.
        names: File name of each picture, UTF-8.
        sizes: ``(I, 2)`` int32, height and width in pixels; 0, 0 where not given.
        segmentations: JSON of each person's segmentation that may be needed: of crowds and of people who are not
            learned for another reason.
        segmentation: ``(M,)`` int32, index into ``segmentations``, -1 for none.
        labels: ``(M,)`` objects, the id of each annotation, for messages.
        annotations: Number of annotations in the file, usable or not.
        found: What is wrong with it.
    """

    path: Path
    skeleton: Skeleton
    truth: GroundTruth
    names: Packed
    sizes: NDArray[np.int32]
    segmentations: Packed
    segmentation: NDArray[np.int32]
    labels: NDArray[np.object_]
    annotations: int
    found: Collector


def _number(value: object) -> float:
    """A finite number as a float, NaN for anything else; true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _is_id(value: object) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) < 2**63)


class Images:
    """The list ``images``."""

    def __init__(self, entries: list[Any], found: Collector) -> None:
        self.index: dict[int | str, int] = {}
        self.names: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        self.crowd_index: list[float] = []
        for place, entry in enumerate(entries):
            known = isinstance(entry, dict) and _is_id(entry.get("id"))
            label = entry["id"] if known else f"#{place}"
            name = entry.get("file_name") if known else None
            if not isinstance(name, str) or not name or "\0" in name:
                found.add("image-entry", label)
                continue
            if label in self.index:
                found.add("image-id-duplicate", label)
                continue
            height, width = (_number(entry.get(side)) for side in ("height", "width"))
            sound = 1 <= height < _HUGE and 1 <= width < _HUGE
            if not sound and not (entry.get("height") is None and entry.get("width") is None):
                found.add("image-value", label)
            self.index[label] = len(self.names)
            self.names.append(name.encode("utf-8", "surrogateescape"))
            self.sizes.append((int(height), int(width)) if sound else (0, 0))
            self.crowd_index.append(_number(entry.get("crowdIndex")))

    def ids(self) -> NDArray[Any]:
        """The ids in order: int64, or objects where some are text."""
        numbers = all(type(one) is int for one in self.index)
        ids = np.empty(len(self.index), np.int64 if numbers else object)
        ids[:] = list(self.index)
        return ids


class People:
    """The list ``annotations``: read one by one, checked all together."""

    def __init__(
        self, images: dict[int | str, int], joints: int, categories: set[int | str] | None, found: Collector
    ) -> None:
        self.images, self.joints, self.categories, self.found = images, joints, categories, found
        self.rows: list[tuple[int, list[float], float, float, bool]] = []
        self.points: list[NDArray[np.float64]] = []
        self.labels: list[int | str] = []
        self.segmentations: list[Any] = []
        self._nowhere = np.zeros(3 * joints)
        self._seen: set[int | str] = set()

    def read(self, entry: Any, place: int) -> None:
        """Take one entry of the list, or say why not."""
        label = self._label(entry, place)
        image = entry.get("image_id") if isinstance(entry, dict) else None
        if not _is_id(image):
            self.found.add("annotation-entry", label)
            return
        if image not in self.images:
            self.found.add("annotation-image", label)
            return
        category = entry.get("category_id")
        if self.categories is not None and not (_is_id(category) and category in self.categories):
            self.found.add("annotation-category", label)
            return
        points, box = self._keypoints(entry, label), self._box(entry, label)
        if points is None or box is None:
            return
        area = _number(entry.get("area"))
        if entry.get("area") is not None and not area > 0:
            self.found.add("area", label)
        # The number of keypoints: -1 where there is something, and it is no number.
        given = _number(entry["num_keypoints"]) if "num_keypoints" in entry else math.nan
        given = -1.0 if "num_keypoints" in entry and not 0 <= given <= self.joints else given
        self.rows.append((self.images[image], box, area, given, entry.get("iscrowd") in (1, True)))
        self.points.append(points)
        self.labels.append(label)
        self.segmentations.append(entry.get("segmentation"))

    def _label(self, entry: Any, place: int) -> int | str:
        label = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(label, int | str) or isinstance(label, bool):
            if isinstance(entry, dict):
                self.found.add("annotation-id", f"#{place}")
            return f"#{place}"
        if label in self._seen:
            self.found.add("annotation-id-duplicate", label)
        self._seen.add(label)
        return label

    def _keypoints(self, entry: dict[str, Any], label: int | str) -> NDArray[np.float64] | None:
        """``(3 K,)`` as in the file, NaN for what is no finite number; None if they are too few or too many."""
        values = entry.get("keypoints")
        if values is None or values == []:
            return self._nowhere
        if not isinstance(values, list) or len(values) != 3 * self.joints:
            self.found.add("keypoint-count", label)
            return None
        if {int, float}.issuperset(map(type, values)):
            with contextlib.suppress(OverflowError):
                return np.array(values, np.float64)
        return np.array([_number(value) for value in values])

    def _box(self, entry: dict[str, Any], label: int | str) -> list[float] | None:
        """x, y, width, height; None if there is none that can be used."""
        box = entry.get("bbox")
        if box is None:
            self.found.add("box-none", label)
            return None
        numbers = [_number(value) for value in box] if isinstance(box, list) else []
        if len(numbers) != 4 or not all(abs(value) < _HUGE for value in numbers):
            self.found.add("box-value", label)
            return None
        return numbers

    def file(self, path: Path, skeleton: Skeleton, images: Images, annotations: int) -> CocoFile:
        """All of it as arrays, people in the order of their pictures."""
        labels = np.empty(len(self.labels), object)
        labels[:] = self.labels
        points, usable = self._sound_keypoints(labels)
        given = np.array([row[3] for row in self.rows], np.float64)
        crowd = np.array([row[4] for row in self.rows], bool)
        boxes = np.array([row[1] for row in self.rows], np.float64).reshape(-1, 4)
        labelled = (points[..., 2] > 0).sum(1)
        count = np.where(given >= 0, given, labelled).astype(np.int32)
        differs = usable & ~np.isnan(given) & (given != labelled)
        zero = (given == 0) | (labelled == 0)
        for kind, rows in (
            ("num-keypoints", differs & ~zero),
            ("num-keypoints-zero", differs & zero),
            ("crowd", usable & crowd),
            ("no-keypoints", usable & ~crowd & ((count == 0) | (labelled == 0))),
        ):
            if rows.any():
                self.found.add(kind, *labels[rows])
        needed = crowd | (count == 0) | (labelled == 0) | (boxes[:, 2:] <= 0).any(1)
        image = np.array([row[0] for row in self.rows], np.int32)
        order = np.argsort(image, kind="stable")
        order = order[usable[order]]
        packed: list[bytes] = []
        segmentation: list[int] = []
        for row in order.tolist():
            keep = needed[row] and self.segmentations[row]
            segmentation.append(len(packed) if keep else -1)
            if keep:
                packed.append(json.dumps(self.segmentations[row]).encode())
        truth = GroundTruth(
            image_ids=images.ids(),
            crowd_index=np.array(images.crowd_index, np.float64),
            image=image[order],
            boxes=boxes[order],
            areas=np.array([row[2] for row in self.rows], np.float64)[order],
            crowd=crowd[order],
            num_keypoints=count[order],
            keypoints=points[order],
        )
        return CocoFile(
            path=path,
            skeleton=skeleton,
            truth=truth,
            names=Packed(images.names),
            sizes=np.array(images.sizes, np.int32).reshape(-1, 2),
            segmentations=Packed(packed),
            segmentation=np.array(segmentation, np.int32),
            labels=labels[order],
            annotations=annotations,
            found=self.found,
        )

    def _sound_keypoints(self, labels: NDArray[np.object_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """``(M, K, 3)``, flags 0, 1 or 2 and zeros where not labelled; and whose labelled ones are at finite places."""
        points = np.array(self.points, np.float64).reshape(-1, self.joints, 3)
        flags = points[..., 2]
        sound = np.clip(np.rint(np.nan_to_num(flags, nan=0.0)), 0, 2)
        odd = (sound != flags).any(1)
        if odd.any():
            self.found.add("keypoint-flag", *labels[odd])
        labelled = sound > 0
        usable: NDArray[np.bool_] = np.all((np.abs(points[..., :2]) < _HUGE).all(-1) | ~labelled, axis=1)
        if not usable.all():
            self.found.add("keypoint-value", *labels[~usable])
        points[..., 2] = sound
        points[~labelled | ~usable[:, None]] = 0
        return points.astype(np.float32), usable
