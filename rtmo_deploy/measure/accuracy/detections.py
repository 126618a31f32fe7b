"""Detections: the people found in many pictures, as arrays, and as a results file in COCO's format."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.data._coco_arrays import identity
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.files import atomic_write, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import GroundTruth
    from rtmo_deploy.poses import Poses

_log = logging.getLogger(__name__)

#: Faulty entries of a results file that are named.
SHOWN = 10


@dataclass(frozen=True, eq=False)
class Detections:
    """D people found, in pixels of their pictures.

    Attributes:
        image: ``(D,)`` int32, index of each one's picture.
        scores: ``(D,)`` float64, the person's score.
        boxes: ``(D, 4)`` float64, x, y, width, height; None if they were not kept.
        keypoints: ``(D, K, 3)`` float32, x, y, score.
    """

    image: NDArray[np.int32]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64] | None
    keypoints: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> NDArray[np.float64]:
        """``(D,)`` square pixels: of the boxes, or of the keypoints' extent where there are none."""
        if self.boxes is not None:
            return self.boxes[:, 2] * self.boxes[:, 3]
        places = self.keypoints[..., :2].astype(np.float64)
        extents: NDArray[np.float64] = np.prod(places.max(1) - places.min(1), axis=-1)
        return extents

    def select(self, keep: NDArray[np.bool_]) -> Detections:
        """Those that a mask selects."""
        boxes = None if self.boxes is None else self.boxes[keep]
        return Detections(self.image[keep], self.scores[keep], boxes, self.keypoints[keep])

    @classmethod
    def from_poses(cls, poses: Iterable[Poses], num_keypoints: int, *, first: int = 0) -> Detections:
        """The people of pictures ``first``, ``first + 1``, ..."""
        parts = list(poses)
        corners = np.concatenate([np.zeros((0, 4)), *(part.boxes for part in parts)])
        points = np.concatenate([np.zeros((0, num_keypoints, 2), np.float32), *(part.keypoints for part in parts)])
        scores = np.concatenate([np.zeros((0, num_keypoints), np.float32), *(part.keypoint_scores for part in parts)])
        numbers = np.arange(first, first + len(parts), dtype=np.int32)
        return cls(
            image=np.repeat(numbers, [len(part) for part in parts]),
            scores=np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
            boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            keypoints=np.concatenate([points, scores[..., None]], axis=-1),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Detections], num_keypoints: int) -> Detections:
        """Those of several, which all have boxes."""
        empty = cls.from_poses([], num_keypoints)
        every = [empty, *parts]
        return cls(
            image=np.concatenate([part.image for part in every]),
            scores=np.concatenate([part.scores for part in every]),
            boxes=np.concatenate([part.boxes for part in every if part.boxes is not None]),
            keypoints=np.concatenate([part.keypoints for part in every]),
        )


def save_results(path: Path, detections: Detections, truth: GroundTruth) -> None:
    """Write a results file: a list of image_id, category_id, keypoints (x, y, score, ...), score, bbox (x, y, w, h).

    Raises:
        SetupError: It cannot be written.
    """
    ids = truth.image_ids.tolist()
    boxes = [None] * len(detections) if detections.boxes is None else detections.boxes.tolist()
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for number, image in enumerate(detections.image.tolist()):
            entry: dict[str, Any] = {
                "image_id": ids[image],
                "category_id": truth.category_id,
                "keypoints": detections.keypoints[number].ravel().tolist(),
                "score": float(detections.scores[number]),
            }
            if boxes[number] is not None:
                entry["bbox"] = boxes[number]
            stream.write(",\n" if number else "\n")
            json.dump(entry, stream, allow_nan=False)
        stream.write("\n]\n")


def load_results(path: Path, truth: GroundTruth, num_keypoints: int, *, known: Iterable[Any] = ()) -> Detections:
    """Read a results file in COCO's format.

    Entries of another category are passed over, as the COCO tools do, with a warning in the log. Equal ids are equal:
    1.0 is 1. Where no entry has a ``bbox``, a person's size is
    the extent of the keypoints, as there: figures by size differ from those with boxes.

    Args:
        path: The file.
        truth: The pictures it is about.
        num_keypoints: How many keypoints each entry must have.
        known: Ids of further pictures, whose entries are passed over.

    Raises:
        InputDataError: It cannot be read, or is no such file; faulty entries are listed; or all entries are of another
            category.
    """
    index = {one: number for number, one in enumerate(truth.image_ids.tolist())}
    reader = _Entries(index, set(known), num_keypoints, truth.category_id)
    for place, entry in enumerate(_load_list(path)):
        reader.read(place, entry)
    if reader.faults:
        shown = "; ".join(reader.faults[:SHOWN])
        more = f"; and {len(reader.faults) - SHOWN} more" if len(reader.faults) > SHOWN else ""
        raise InputDataError(f"Faulty entries: {shown}{more}.", remedy="Write the file again.", where=path)
    if reader.others:
        listed = ", ".join(sorted(map(str, reader.others))[:SHOWN])
        text = f"entries of another category than {truth.category_id}, the annotations': {listed}"
        if not reader.mine:
            raise InputDataError(
                f"It has only {text}.",
                remedy="Give the results of the annotated category, or correct category_id.",
                where=path,
            )
        _log.warning("%s: %s; left out", path, text)
    with_box = sum(box is not None for box in reader.boxes)
    if 0 < with_box < len(reader.boxes):
        raise InputDataError(
            f"{with_box} of {len(reader.boxes)} entries have a bbox, the others none.",
            remedy="Give a bbox to all of them or to none: it says how large a person is.",
            where=path,
        )
    boxes = np.array(reader.boxes, np.float64).reshape(-1, 4) if with_box or not reader.boxes else None
    return Detections(
        image=np.array(reader.image, np.int32),
        scores=np.array(reader.scores, np.float64),
        boxes=boxes,
        keypoints=np.array(reader.keypoints, np.float32).reshape(-1, num_keypoints, 3),
    )


def _load_list(path: Path) -> list[Any]:
    remedy = "It must be a list of image_id, category_id, keypoints, score and bbox, as COCO's tools take."
    try:
        with open_regular(path) as stream:
            document = json.load(stream)
    except OSError as error:
        raise InputDataError(
            f"The results file cannot be opened: {error.strerror or error}.", remedy="Check its name.", where=path
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputDataError(f"The results file is not JSON: {error}.", remedy=remedy, where=path) from error
    if not isinstance(document, list):
        raise InputDataError("The results file is not a list.", remedy=remedy, where=path)
    return document


class _Entries:
    def __init__(self, index: dict[Any, int], known: set[Any], joints: int, category: int) -> None:
        self.index, self.known, self.joints, self.category = index, known, joints, category
        self.image: list[int] = []
        self.scores: list[float] = []
        self.boxes: list[list[float] | None] = []
        self.keypoints: list[list[float]] = []
        self.faults: list[str] = []
        self.others: set[int | str] = set()
        self.mine = 0

    def read(self, place: int, entry: Any) -> None:
        if not isinstance(entry, dict):
            self.faults.append(f"#{place} is not an object")
            return
        category = identity(entry.get("category_id", self.category))
        if not isinstance(category, int):
            self.faults.append(f"#{place} has a category_id that is not a number")
            return
        if category != self.category:
            self.others.add(category)
            return
        self.mine += 1
        image = identity(entry.get("image_id"))
        if image is None or (image not in self.index and image not in self.known):
            self.faults.append(
                f"#{place} is of the picture {entry.get('image_id')!r:.100}, which the annotations do not have"
            )
            return
        if image not in self.index:
            return
        points = _numbers(entry.get("keypoints"), 3 * self.joints)
        score = _numbers([entry.get("score")], 1)
        box = _numbers(entry["bbox"], 4) if entry.get("bbox") else None
        if points is None:
            self.faults.append(f"#{place} has no list of {3 * self.joints} finite numbers as keypoints")
        elif score is None:
            self.faults.append(f"#{place} has no finite number as its score")
        elif entry.get("bbox") and (box is None or min(box[2:]) < 0):
            self.faults.append(f"#{place} has a bbox that is not four finite numbers, or of a negative size")
        else:
            self.image.append(self.index[image])
            self.scores.append(score[0])
            self.boxes.append(box)
            self.keypoints.append(points)


def _numbers(values: Any, count: int) -> list[float] | None:
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(type(value) is int or type(value) is float for value in values):
        return None
    return values if all(-1e12 < value < 1e12 for value in values) else None  # NaN is not
