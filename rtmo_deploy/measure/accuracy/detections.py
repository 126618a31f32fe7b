"""Detections in many images: as arrays, as a results file in COCO's format, and as the journal of a long evaluation."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.data.coco_file import identity
from rtmo_deploy.errors import InputDataError, SetupError
from rtmo_deploy.files import atomic_write, open_regular
from rtmo_deploy.plain import parse_json, shorten

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from io import BufferedRandom

    from numpy.typing import NDArray

    from rtmo_deploy.data.sample import GroundTruth
    from rtmo_deploy.poses import Poses


#: Index of the image, score, box, keypoints.
_Row = tuple[int, float, list[float] | None, list[float]]

_log = logging.getLogger(__name__)

#: Faulty entries of a results file that are named.
SHOWN = 10


@dataclass(frozen=True, eq=False)
class Detections:
    """D people found, in pixels of their images.

    Attributes:
        image: ``(D,)`` int32, index of each one's image.
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
        """The people of images ``first``, ``first + 1``, ..."""
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


def save_results(path: str | os.PathLike[str], detections: Detections, truth: GroundTruth) -> None:
    """Write a results file: a list of image_id, category_id, keypoints (x, y, score, ...), score, bbox (x, y, w, h).

    Raises:
        SetupError: It cannot be written.
    """
    path = Path(path)
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


def load_results(
    path: str | os.PathLike[str], truth: GroundTruth, num_keypoints: int, *, known: Iterable[Any] = ()
) -> Detections:
    """Read a results file in COCO's format.

    Entries of another category are passed over, as the COCO tools do, with a warning in the log. Equal ids are equal:
    1.0 is 1. Where no entry has a ``bbox``, a person's size is
    the extent of the keypoints, as there: figures by size differ from those with boxes.

    Args:
        path: The file.
        truth: The images it is about.
        num_keypoints: How many keypoints each entry must have.
        known: Ids of further images, whose entries are passed over.

    Raises:
        InputDataError: It cannot be read, or is no such file; faulty entries are listed; or all entries are of another
            category.
    """
    path = Path(path)
    index = {one: number for number, one in enumerate(truth.image_ids.tolist())}
    every = {**dict.fromkeys(known), **index}
    rows: list[_Row] = []
    faults, others = [], []
    entries = _load_list(path)
    for place, entry in enumerate(entries):
        category = identity(entry.get("category_id", truth.category_id)) if isinstance(entry, dict) else None
        if isinstance(category, int) and category != truth.category_id:
            others.append(category)
            continue
        row = _read(entry, every, num_keypoints)
        if isinstance(row, str):
            faults.append(f"#{place} {row}")
        elif row is not None:
            rows.append(row)
    if faults:
        shown = shorten(faults, SHOWN, separator="; ")
        raise InputDataError(f"Faulty entries: {shown}.", remedy="Write the file again.", where=path)
    if others:
        listed = ", ".join(sorted({str(other) for other in others})[:SHOWN])
        text = f"entries of another category than {truth.category_id}, the annotations': {listed}"
        if len(others) == len(entries):
            raise InputDataError(
                f"It has only {text}.",
                remedy="Give the results of the annotated category, or correct category_id.",
                where=path,
            )
        _log.warning("%s: %s; left out", path, text)
    with_box = sum(box is not None for _, _, box, _ in rows)
    if 0 < with_box < len(rows):
        raise InputDataError(
            f"{with_box} of {len(rows)} entries have a bbox, the others none.",
            remedy="Give a bbox to all of them or to none: it says how large a person is.",
            where=path,
        )
    images, scores, boxes, keypoints = zip(*rows, strict=True) if rows else ((), (), (), ())
    if rows and not with_box:
        return replace(_arrays(images, scores, np.zeros((len(rows), 4)), keypoints, num_keypoints), boxes=None)
    return _arrays(images, scores, boxes, keypoints, num_keypoints)


def _arrays(image: Any, scores: Any, boxes: Any, keypoints: Any, joints: int) -> Detections:
    return Detections(
        image=np.array(image, np.int32).reshape(len(scores)),
        scores=np.array(scores, np.float64),
        boxes=np.array(boxes, np.float64).reshape(len(scores), 4),
        keypoints=np.array(keypoints, np.float32).reshape(len(scores), joints, 3),
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


def _read(entry: Any, index: Mapping[Any, int | None], num_keypoints: int) -> _Row | str | None:
    """Image, score, box and keypoints of an entry; what is wrong with it; or None if its image is passed over."""
    if not isinstance(entry, dict):
        return "is not an object"
    if not isinstance(identity(entry.get("category_id", 0)), int):
        return "has a category_id that is not a number"
    image = identity(entry.get("image_id"))
    if image is None or image not in index:
        return f"is of the image {entry.get('image_id')!r:.100}, which the annotations do not have"
    number = index[image]
    if number is None:
        return None
    points = _numbers(entry.get("keypoints"), 3 * num_keypoints)
    score = _numbers([entry.get("score")], 1)
    box = _numbers(entry["bbox"], 4) if entry.get("bbox") else None
    if points is None:
        return f"has no list of {3 * num_keypoints} finite numbers as keypoints"
    if score is None:
        return "has no finite number as its score"
    if entry.get("bbox") and (box is None or min(box[2:]) < 0):
        return "has a bbox that is not four finite numbers, or of a negative size"
    return number, score[0], box, points


def _numbers(values: Any, count: int) -> list[float] | None:
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(type(value) is int or type(value) is float for value in values):
        return None
    return values if all(-1e12 < value < 1e12 for value in values) else None  # NaN is not


#: Version of the journal's format.
SCHEMA: Final = 1


class Journal:
    """What a long evaluation has found so far, on disk, so that one that was killed goes on where it stopped.

    One JSON value a line: first what is being evaluated, then one line a batch. A line counts if it ends and parses;
    what a kill has torn is cut off. Whole batches are kept, so that a resumed run gives what an unbroken one gives.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], num_keypoints: int) -> None:
        self.path = path
        self.done: dict[int, Detections] = {}
        self._joints = num_keypoints
        head = json.dumps({"schema": SCHEMA, **facts}, sort_keys=True).encode() + b"\n"
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            open_regular(path).close()
            self._stream: BufferedRandom = path.open("r+b")
            end = self._read(len(head)) if self._stream.readline() == head else 0
            self._stream.seek(end)
            self._stream.truncate()
            if not end:
                self._write(head)

    def _read(self, end: int) -> int:
        """Take the lines that are whole; gives where the last of them ends."""
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            try:
                record = parse_json(line)
                columns = (record["image"], record["scores"], record["boxes"], record["keypoints"])
                found = _arrays(*columns, self._joints)
                number = int(record["batch"])
            except (ValueError, KeyError, TypeError, OverflowError):
                break
            self.done[number] = found
            end += len(line)
        return end

    def add(self, number: int, found: Detections) -> None:
        """Note what was found in a batch."""
        record = {
            "batch": number,
            "image": found.image.tolist(),
            "scores": found.scores.tolist(),
            "boxes": [] if found.boxes is None else found.boxes.tolist(),
            "keypoints": found.keypoints.tolist(),
        }
        with self._explained():
            self._write(json.dumps(record).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        self._stream.write(line)
        self._stream.flush()

    def remove(self) -> None:
        """Close and delete it: the evaluation is done."""
        self._stream.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close it; it stays."""
        self._stream.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SetupError(
                f"The journal of this evaluation cannot be kept: {error.strerror or error}.",
                remedy="Name another folder for it with --journal-dir, or free some space.",
                where=self.path,
            ) from error
