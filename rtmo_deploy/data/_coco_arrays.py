"""The lists of an annotation file, entry by entry, into arrays; every entry is right, or noted as wrong."""

from __future__ import annotations

import contextlib
import json
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.data.images import MAX_PIXELS, max_pixels_allowed
from rtmo_deploy.data.sample import LARGEST_AREA, GroundTruth

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.data._findings import Collector
    from rtmo_deploy.poses import Skeleton


class Packed:
    """An immutable sequence of byte strings in one buffer."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        self._blob = b"".join(parts)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._blob[self._ends[index] : self._ends[index + 1]]


_NUMBERS: Final = frozenset((int, float, bool))
#: Coordinates beyond this are no places in an image.
_HUGE: Final = 1e7


@dataclass(frozen=True, eq=False)
class CocoFile:
    """An annotation file as arrays; what could not be used is left out and noted in ``found``.

    Attributes:
        path: The file.
        skeleton: What its keypoints are.
        truth: Its images and people. Images are in the order of the file.
        names: File name of each image, UTF-8.
        sizes: ``(I, 2)`` int32, height and width in pixels; 0, 0 where not given.
        segmentations: JSON of each person's segmentation that may be needed: of crowds and of people who are not
            learned for another reason.
        segmentation: ``(M,)`` int32, index into ``segmentations``, -1 for none.
        labels: ``(M,)`` objects, the id of each annotation, for messages.
        annotations: Number of annotations in the file, usable or not.
        found: What is wrong with it.
        domain: ``synthetic`` where its ``info`` says so, else None.
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
    domain: str | None = None


def _number(value: object) -> float:
    """A finite number as a float, NaN for anything else, text included; true is 1 and false 0."""
    if type(value) is float:
        return value if math.isfinite(value) else math.nan
    if not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def identity(value: object) -> int | str | None:
    """An id as it is compared: 1.0 is 1; None for what cannot be one, such as a fraction or text that is no Unicode."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int:
        # The bound keeps ids out that are made to collide in a hash table.
        return value if -(2**63) < value < 2**63 else None
    return value if isinstance(value, str) and printable(value) else None


def compact(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the file; an annotation's keypoints, where they are numbers, as an array: a third of the memory."""
    values = entry.get("keypoints")
    if type(values) is list and "image_id" in entry and _NUMBERS.issuperset(map(type, values)):
        with contextlib.suppress(OverflowError):
            entry["keypoints"] = array("d", values)
    return entry


def printable(text: str) -> bool:
    """Whether a text can be written as UTF-8 and be part of a file name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _packed(segmentation: object) -> bytes:
    try:
        return json.dumps(segmentation).encode()
    except (RecursionError, TypeError):  # TypeError: keypoints within it, which are no list any more
        return b"false"


class Images:
    """The list ``images``."""

    def __init__(self, entries: list[Any], found: Collector) -> None:
        self.index: dict[int | str, int] = {}
        self.names: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        self.crowd_index: list[float] = []
        most = max(MAX_PIXELS, max_pixels_allowed())  # masks of the given size are made
        for place, entry in enumerate(entries):
            one = identity(entry.get("id")) if isinstance(entry, dict) else None
            label = f"#{place}" if one is None else one
            name = entry.get("file_name") if one is not None else None
            if not isinstance(name, str) or not name or not printable(name):
                found.add("image-entry", label)
                continue
            if label in self.index:
                found.add("image-id-duplicate", label)
                continue
            given = [entry.get(side) for side in ("height", "width")]
            height, width = map(_number, given)
            sound = 1 <= height < _HUGE and 1 <= width < _HUGE and height * width <= most
            if any(isinstance(value, str) for value in (*given, entry.get("crowdIndex"))):
                found.add("image-text", label)
            elif not sound and given != [None, None]:
                found.add("image-value", label)
            self.index[label] = len(self.names)
            self.names.append(name.encode())
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
        image = identity(entry.get("image_id")) if isinstance(entry, dict) else None
        if image is None:
            self.found.add("annotation-entry", label)
            return
        if image not in self.images:
            self.found.add("annotation-text" if self._is_text(image, self.images) else "annotation-image", label)
            return
        if self.categories is not None and not self._is_meant(entry.get("category_id"), label):
            return
        points, box = self._keypoints(entry, label), self._box(entry, label)
        if points is None or box is None:
            return
        given = entry.get("iscrowd")
        area, crowd = _number(entry.get("area")), 0.0 if given is None else _number(given)
        if any(isinstance(entry.get(key), str) for key in ("area", "num_keypoints")):
            self.found.add("annotation-text", label)
            return
        if crowd not in (0, 1):
            self.found.add("crowd-value", label)
            return
        if entry.get("area") is not None and not 0 < area <= LARGEST_AREA:
            self.found.add("area", label)
            area = math.nan
        given = _number(entry.get("num_keypoints"))
        # The number of keypoints: -1 where there is something, and it is no such number.
        given = -1.0 if entry.get("num_keypoints") is not None and not 0 <= given <= self.joints else given
        self.rows.append((self.images[image], box, area, given, crowd == 1))
        self.points.append(points)
        self.labels.append(label)
        self.segmentations.append(entry.get("segmentation"))

    def _is_meant(self, category: object, label: int | str) -> bool:
        """Whether an annotation is of a category that is meant; what is no id, or text for a number, is noted."""
        one = identity(category)
        if one is not None and self.categories is not None and one in self.categories:
            return True
        wrong = one is None or self._is_text(one, self.categories or ())
        self.found.add("annotation-text" if wrong else "annotation-category", label)
        return False

    @staticmethod
    def _is_text(one: int | str, known: Collection[int | str]) -> bool:
        """Whether an id is the text of a number that is known, or a number that is known as text."""
        if not isinstance(one, str):
            return str(one) in known
        return one.strip().isdecimal() and len(one) < 20 and int(one) in known

    def _label(self, entry: Any, place: int) -> int | str:
        label = identity(entry.get("id")) if isinstance(entry, dict) else None
        if label is None:
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
        if not isinstance(values, list | array) or len(values) != 3 * self.joints:
            self.found.add("keypoint-count", label)
            return None
        if isinstance(values, array):
            return np.frombuffer(values)
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
        """All of it as arrays, people in the order of their images."""
        labels = np.empty(len(self.labels), object)
        labels[:] = self.labels
        points, usable = self._sound_keypoints(labels)
        given = np.array([row[3] for row in self.rows], np.float64)
        crowd = np.array([row[4] for row in self.rows], bool)
        boxes = np.array([row[1] for row in self.rows], np.float64).reshape(-1, 4)
        labelled = (points[..., 2] > 0).sum(1)
        # Who has no labelled keypoint cannot be judged by keypoints, whatever num_keypoints says.
        count = np.where((given >= 0) & (labelled > 0), given, labelled).astype(np.int32)
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
                packed.append(_packed(self.segmentations[row]))
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
        unread = np.isnan(flags).any(1)
        if unread.any():
            self.found.add("keypoint-text", *labels[unread])
        sound = np.nan_to_num(flags, nan=0.0)
        sound = np.where(sound > 0, np.clip(np.rint(sound), 1, 2), 0)
        odd = (sound != flags).any(1) & ~unread
        if odd.any():
            self.found.add("keypoint-flag", *labels[odd])
        labelled = sound > 0
        usable: NDArray[np.bool_] = np.all((np.abs(points[..., :2]) < _HUGE).all(-1) | ~labelled, axis=1)
        if not usable.all():
            self.found.add("keypoint-value", *labels[~usable])
        usable &= ~unread
        points[..., 2] = sound
        points[~labelled | ~usable[:, None]] = 0
        return points.astype(np.float32), usable
