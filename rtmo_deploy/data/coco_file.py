"""Reads a file in COCO's keypoint format into arrays, and notes everything that is wrong with it."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from array import array
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import numpy as np

from rtmo_deploy.data.coco_skeleton import choose_categories, in_order, numbered, printable, skeleton_of
from rtmo_deploy.data.findings import CocoReport
from rtmo_deploy.data.images import MAX_PIXELS, max_pixels_allowed
from rtmo_deploy.data.sample import LARGEST_AREA, GroundTruth
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.file_kind import ANNOTATIONS, require
from rtmo_deploy.files import open_regular, reading

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Skeleton

    Id = int | str

#: A larger annotation file is refused: parsed, it would need ten times that memory.
_MOST_BYTES: Final = 4 << 30
#: Coordinates beyond this are no places in an image.
_HUGE: Final = 1e7
#: A labelled keypoint outside the image by more than this share of its longer side is a slip, not a person cut off.
FAR: Final = 0.5
_NUMBERS: Final = frozenset((int, float, bool))


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


@dataclass(eq=False)
class CocoFile:
    """An annotation file as arrays; what could not be used is left out and noted in ``report``."""

    report: CocoReport  #: The file, its skeleton, and what is wrong with it.
    truth: GroundTruth  #: Its images and people. Images are in the order of the file.
    names: Packed  #: File name of each image, UTF-8.
    sizes: NDArray[np.int32]  #: ``(I, 2)`` int32, height and width in pixels; 0, 0 where not given.
    #: JSON of each person's segmentation that may be needed: of crowds and of people who are not learned for another
    #: reason.
    segmentations: Packed
    segmentation: NDArray[np.int32]  #: ``(M,)`` int32, index into ``segmentations``, -1 for none.
    labels: NDArray[np.object_]  #: ``(M,)`` objects, the id of each annotation, for messages.
    domain: str | None  #: ``synthetic`` where its ``info`` says so, else None.

    def name(self, index: int) -> str:
        """File name of an image."""
        return self.names[index].decode("utf-8", "surrogateescape")

    @cached_property
    def corners(self) -> NDArray[np.float64]:
        """``(M, 4)`` boxes x1, y1, x2, y2 within their images; not clipped where the size is 0, 0."""
        boxes, sizes = self.truth.boxes, self.sizes[self.truth.image]
        # The reference clips to the centre of the last pixel.
        last = np.where(sizes > 0, sizes - 1.0, np.inf)[:, [1, 0, 1, 0]]
        first = np.where(sizes > 0, 0.0, -np.inf)[:, [1, 0, 1, 0]]
        clipped: NDArray[np.float64] = np.clip(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), first, last)
        return clipped

    @cached_property
    def far(self) -> NDArray[np.bool_]:
        """``(M, K)``, which labelled keypoints lie so far outside their image that they are slips."""
        keypoints, sizes = self.truth.keypoints, self.sizes[self.truth.image]
        margin = FAR * sizes.max(1, initial=0)[:, None, None]
        places, extent = keypoints[..., :2], sizes[:, None, ::-1]
        outside: NDArray[np.bool_] = np.any((places < -margin) | (places > extent + margin), axis=-1)
        far: NDArray[np.bool_] = outside & (keypoints[..., 2] > 0) & np.all(sizes > 0, axis=1)[:, None]
        return far

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """``(M,)``, whose box has no area inside the image."""
        empty: NDArray[np.bool_] = np.any(self.corners[:, 2:] <= self.corners[:, :2], axis=1)
        return empty

    @cached_property
    def learned(self) -> NDArray[np.bool_]:
        """``(M,)``, who is learned: no crowds, and a keypoint to learn and a box with an area."""
        labelled = ((self.truth.keypoints[..., 2] > 0) & ~self.far).any(1)
        learned: NDArray[np.bool_] = ~self.truth.crowd & (self.truth.num_keypoints > 0) & labelled & ~self.empty
        return learned


def note(report: CocoReport, kind: str, labels: NDArray[np.object_], rows: NDArray[np.bool_]) -> None:
    """Note a finding at some annotations: their ids ``(M,)``, and which ones ``(M,)``."""
    if rows.any():
        report.add(kind, *labels[rows])


def identity(value: object) -> Id | None:
    """An id as it is compared: 1.0 is 1; None for what cannot be one, such as a fraction or text that is no Unicode."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int:
        # The bound keeps ids out that are made to collide in a hash table.
        return value if -(2**63) < value < 2**63 else None
    return value if isinstance(value, str) and printable(value) else None


def read_coco_file(
    path: str | os.PathLike[str], *, skeleton: Skeleton | None = None, category: str | None = None
) -> CocoFile:
    """Read an annotation file; InputDataError where it cannot be used at all.

    Args:
        path: The annotations, JSON.
        skeleton: What the keypoints are, if not what the file says.
        category: Name of the category that is meant, where several have different keypoints.
    """
    # The cycle collector would visit the millions of lists of a large file again and again.
    was = gc.isenabled()
    gc.disable()
    try:
        return _read(Path(path), skeleton, category)
    finally:
        if was:
            gc.enable()


def _read(file: Path, skeleton: Skeleton | None, category: str | None) -> CocoFile:
    document, report = _load(file), CocoReport(file)
    entries = document["annotations"]
    categories = choose_categories(document.get("categories"), category, file)
    index, images = _read_images(document["images"], report)
    own = skeleton_of(categories[0], report) if categories else numbered(entries)
    if skeleton is not None and len(skeleton) != len(own):
        raise InputDataError(
            f"Its people have {len(own)} keypoints; the skeleton '{skeleton.name}' has {len(skeleton)}.",
            remedy="Give the skeleton of this file.",
            where=file,
        )
    report.skeleton = skeleton or own
    report.images, report.annotations = len(images), len(entries)
    known = [identity(one.get("id")) for one in categories]
    ids = {one for one in known if one is not None}
    if len(ids) < len(known) and None in known:
        report.add("category-id")
    people = _read_people(entries, index, len(own), ids if categories else None, report)
    labels = _objects([person.label for person in people])
    keypoints, usable = _sound_keypoints(people, labels, report)
    crowd = np.array([person.crowd for person in people], bool)
    boxes = np.array([person.box for person in people], np.float64).reshape(-1, 4)
    labelled = (keypoints[..., 2] > 0).sum(1)
    count = _counted(people, labels, labelled, usable, crowd, report)
    image = np.array([person.image for person in people], np.int32)
    order = np.argsort(image, kind="stable")
    order = order[usable[order]]
    needed = crowd | (count == 0) | (labelled == 0) | (boxes[:, 2:] <= 0).any(1)
    packed: list[bytes] = []
    segmentation = np.full(len(order), -1, np.int32)
    for place, row in enumerate(order.tolist()):
        if needed[row] and people[row].segmentation:
            segmentation[place] = len(packed)
            packed.append(_packed(people[row].segmentation))
    info = document.get("info")
    return CocoFile(
        report=report,
        truth=GroundTruth(
            image_ids=np.array(list(index), np.int64) if all(type(one) is int for one in index) else _objects(index),
            crowd_index=np.array([crowdedness for *_, crowdedness in images], np.float64),
            image=image[order],
            boxes=boxes[order],
            areas=np.array([person.area for person in people], np.float64)[order],
            crowd=crowd[order],
            num_keypoints=count[order],
            keypoints=in_order(keypoints[order], report.skeleton, own),
            category_id=next((one for one in known if isinstance(one, int)), 1),
        ),
        names=Packed([name for name, *_ in images]),
        sizes=np.array([size for _, size, _ in images], np.int32).reshape(-1, 2),
        segmentations=Packed(packed),
        segmentation=segmentation,
        labels=labels[order],
        domain="synthetic" if isinstance(info, dict) and info.get("domain") == "synthetic" else None,
    )


def _load(file: Path) -> dict[str, Any]:
    def reject(reason: str, error: Exception | None = None) -> NoReturn:
        raise InputDataError(
            f"This is no annotation file in COCO's format: {reason}.",
            remedy="It needs the lists 'images', 'annotations' and 'categories', as in person_keypoints_val2017.json.",
            where=file,
        ) from error

    require(file, ANNOTATIONS)
    opening = reading(file, InputDataError, remedy="Check the name and the permissions.")
    try:
        with opening, open_regular(file, max_bytes=_MOST_BYTES) as stream:
            document = json.load(stream, object_hook=_compact)
    except UnicodeDecodeError as error:
        reject("it is not text", error)
    except json.JSONDecodeError as error:
        reject(f"it is not JSON, or cut off (line {error.lineno}: {error.msg})", error)
    except (RecursionError, ValueError) as error:
        reject(f"its JSON cannot be read ({error})", error)
    if not isinstance(document, dict):
        reject("its JSON is not an object")
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list):
            reject(f"it has no list '{key}'")
    return document


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the file; an annotation's keypoints, where they are numbers, as an array: a third of the memory."""
    values = entry.get("keypoints")
    if type(values) is list and "image_id" in entry and _NUMBERS.issuperset(map(type, values)):
        with contextlib.suppress(OverflowError):
            entry["keypoints"] = array("d", values)
    return entry


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


def _objects(values: Collection[Any]) -> NDArray[np.object_]:
    made = np.empty(len(values), object)
    made[:] = list(values)
    return made


def _packed(segmentation: object) -> bytes:
    try:
        return json.dumps(segmentation).encode()
    except (RecursionError, TypeError):  # TypeError: keypoints within it, which are no list any more
        return b"false"


def _read_images(
    entries: list[Any], report: CocoReport
) -> tuple[dict[Id, int], list[tuple[bytes, tuple[int, int], float]]]:
    """The list ``images``: index of each id; file name, height and width (0, 0 for unknown), and crowdedness."""
    index: dict[Id, int] = {}
    images: list[tuple[bytes, tuple[int, int], float]] = []
    most = max(MAX_PIXELS, max_pixels_allowed())  # masks of the given size are made
    for place, entry in enumerate(entries):
        one = identity(entry.get("id")) if isinstance(entry, dict) else None
        label = f"#{place}" if one is None else one
        name = entry.get("file_name") if one is not None else None
        if not isinstance(name, str) or not name or not printable(name):
            report.add("image-entry", label)
            continue
        if label in index:
            report.add("image-id-duplicate", label)
            continue
        given = [entry.get(side) for side in ("height", "width")]
        height, width = map(_number, given)
        sound = 1 <= height < _HUGE and 1 <= width < _HUGE and height * width <= most
        if any(isinstance(value, str) for value in (*given, entry.get("crowdIndex"))):
            report.add("image-text", label)
        elif not sound and given != [None, None]:
            report.add("image-value", label)
        index[label] = len(images)
        size = (int(height), int(width)) if sound else (0, 0)
        images.append((name.encode(), size, _number(entry.get("crowdIndex"))))
    return index, images


class _Person(NamedTuple):
    """An entry of the list ``annotations`` that can be used."""

    label: Id
    image: int
    points: NDArray[np.float64]  #: ``(3 K,)`` as in the file, NaN for what is no finite number.
    box: list[float]
    area: float
    num_keypoints: float  #: NaN for none, -1 for what is no such number.
    crowd: bool
    segmentation: Any


def _read_people(
    entries: list[Any], images: dict[Id, int], joints: int, categories: set[Id] | None, report: CocoReport
) -> list[_Person]:
    """The list ``annotations``, emptied: the memory of its entries is needed for the arrays."""
    people: list[_Person] = []
    seen: set[Id] = set()
    nowhere = np.zeros(3 * joints)
    for place, entry in enumerate(entries):
        entries[place] = None
        label = identity(entry.get("id")) if isinstance(entry, dict) else None
        if label is None:
            label = f"#{place}"
            if isinstance(entry, dict):
                report.add("annotation-id", label)
        elif label in seen:
            report.add("annotation-id-duplicate", label)
        else:
            seen.add(label)
        person, wrong = _person(entry, label, images, nowhere, categories)
        for kind in wrong:
            report.add(kind, label)
        if person is not None:
            people.append(person)
    return people


def _person(
    entry: Any, label: Id, images: dict[Id, int], nowhere: NDArray[np.float64], categories: set[Id] | None
) -> tuple[_Person | None, list[str]]:
    """An annotation, None if it cannot be used, and what is wrong with it."""
    image = identity(entry.get("image_id")) if isinstance(entry, dict) else None
    if image is None:
        return None, ["annotation-entry"]
    if image not in images:
        return None, ["annotation-text" if _is_text(image, images) else "annotation-image"]
    if categories is not None:
        category = identity(entry.get("category_id"))
        if category is None or category not in categories:
            text = category is None or _is_text(category, categories)
            return None, ["annotation-text" if text else "annotation-category"]
    wrong = []
    points = _keypoints(entry.get("keypoints"), nowhere)
    if points is None:
        wrong.append("keypoint-count")
    given = entry.get("bbox")
    box = [_number(value) for value in given] if isinstance(given, list) else []
    if len(box) != 4 or not all(abs(value) < _HUGE for value in box):
        wrong.append("box-none" if given is None else "box-value")
    if points is None or wrong:
        return None, wrong
    if any(isinstance(entry.get(key), str) for key in ("area", "num_keypoints")):
        return None, ["annotation-text"]
    area, count, crowd = (entry.get(key) for key in ("area", "num_keypoints", "iscrowd"))
    if crowd is not None and _number(crowd) not in (0, 1):
        return None, ["crowd-value"]
    size, number = _number(area), _number(count)
    if area is not None and not 0 < size <= LARGEST_AREA:
        wrong, size = ["area"], math.nan
    if count is not None and not 0 <= number <= len(nowhere) // 3:
        number = -1.0
    return _Person(label, images[image], points, box, size, number, crowd == 1, entry.get("segmentation")), wrong


def _is_text(one: Id, known: Collection[Id]) -> bool:
    """Whether an id is the text of a number that is known, or a number that is known as text."""
    if not isinstance(one, str):
        return str(one) in known
    return one.strip().isdecimal() and len(one) < 20 and int(one) in known


def _keypoints(values: Any, nowhere: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if values is None or values == []:
        return nowhere
    if not isinstance(values, list | array) or len(values) != len(nowhere):
        return None
    return np.frombuffer(values) if isinstance(values, array) else np.array([_number(value) for value in values])


def _sound_keypoints(
    people: list[_Person], labels: NDArray[np.object_], report: CocoReport
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``(M, K, 3)``, flags 0, 1 or 2 and zeros where not labelled; and whose labelled ones are at finite places."""
    points = np.array([person.points for person in people], np.float64)
    points = points.reshape(len(people), len(report.skeleton), 3)
    flags = points[..., 2]
    unread: NDArray[np.bool_] = np.any(np.isnan(flags), axis=1)
    sound = np.nan_to_num(flags, nan=0.0)
    sound = np.where(sound > 0, np.clip(np.rint(sound), 1, 2), 0)
    labelled = sound > 0
    placed: NDArray[np.bool_] = np.all((np.abs(points[..., :2]) < _HUGE).all(-1) | ~labelled, axis=1)
    note(report, "keypoint-text", labels, unread)
    note(report, "keypoint-flag", labels, (np.any(sound != flags, axis=1) & ~unread))
    note(report, "keypoint-value", labels, ~placed)
    usable = placed & ~unread
    points[..., 2] = sound
    points[~labelled | ~usable[:, None]] = 0
    return points.astype(np.float32), usable


def _counted(
    people: list[_Person],
    labels: NDArray[np.object_],
    labelled: NDArray[np.intp],
    usable: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    report: CocoReport,
) -> NDArray[np.int32]:
    """``(M,)`` keypoints of each person: what the file says, or the labelled ones where it says nothing useful."""
    given = np.array([person.num_keypoints for person in people], np.float64)
    # Who has no labelled keypoint cannot be judged by keypoints, whatever num_keypoints says.
    count = np.where((given >= 0) & (labelled > 0), given, labelled).astype(np.int32)
    differs = usable & ~np.isnan(given) & (given != labelled)
    zero = (given == 0) | (labelled == 0)
    note(report, "num-keypoints", labels, differs & ~zero)
    note(report, "num-keypoints-zero", labels, differs & zero)
    note(report, "crowd", labels, usable & crowd)
    note(report, "no-keypoints", labels, usable & ~crowd & ((count == 0) | (labelled == 0)))
    return count
