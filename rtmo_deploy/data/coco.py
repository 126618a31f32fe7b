"""People annotated in COCO's keypoint format: COCO itself, CrowdPose, OCHuman, or anybody's own, any keypoint count.

As in the reference's bottom-up reading, crowds, people without labelled keypoints and people with an empty box are not
learned; where they stand becomes :attr:`Sample.ignore`. A person's size is the annotation's ``area``, or 0.53 of the
box where that is missing (CrowdPose). Boxes are clipped to the image.

Bad data is reported all at once, by file and id: :func:`check_coco`.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from rtmo_deploy.data.coco_file import CocoFile, Packed, note, read_coco_file
from rtmo_deploy.data.images import TooManyPixelsError, read_image
from rtmo_deploy.data.sample import AREA_OF_BOX, People, Sample, fill_box
from rtmo_deploy.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.data.findings import CocoReport
    from rtmo_deploy.data.sample import GroundTruth
    from rtmo_deploy.poses import Skeleton

_log = logging.getLogger(__name__)

#: Images that are read to find out whether width and height are swapped.
_TRIED: Final = 8


class CocoKeypoints:
    """A :class:`~rtmo_deploy.data.PoseDataset` over an annotation file and a folder of images.

    It is picklable and small: arrays, no objects; images are read when they are asked for.

    Args:
        annotations_file: The annotations, JSON.
        image_dir: The folder that its file names are relative to.
        skeleton: What the keypoints are, if not what the file says.
        category: Name of the category that is meant, where several have different keypoints.
        only_annotated: Leave out images without anybody to learn.
        strict: Errors in the data are raised, all in one; else what has errors is left out, with a warning in the log.
        max_images: Only the first so many images.

    Raises:
        InputDataError: The file cannot be used; or it has errors, and ``strict``.
    """

    def __init__(
        self,
        annotations_file: str | os.PathLike[str],
        image_dir: str | os.PathLike[str],
        *,
        skeleton: Skeleton | None = None,
        category: str | None = None,
        only_annotated: bool = False,
        strict: bool = True,
        max_images: int | None = None,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise UsageError(f"{max_images} images cannot be read.", remedy="Give a positive number.")
        self.image_dir = Path(image_dir)
        parsed = read_coco_file(annotations_file, skeleton=skeleton, category=category)
        _put_sizes_right(parsed, self.image_dir)
        keep = _existing_images(parsed, self.image_dir)
        self.report = _report(parsed, int(parsed.learned.sum()))
        self.file = self.report.file
        self.skeleton: Skeleton = self.report.skeleton
        self.domain = parsed.domain
        self._strict = strict
        if strict:
            self.report.require_ok()
        for finding in self.report.of("error"):
            _log.warning("%s: left out: %s", self.file, finding)
        if only_annotated:
            keep &= np.bincount(parsed.truth.image[parsed.learned], minlength=len(keep)) > 0
        chosen = np.flatnonzero(keep)[:max_images]
        if not len(chosen):
            raise InputDataError(
                "There is no image to use in it.", remedy="Check that it is the right file.", where=self.file
            )
        mine = np.isin(parsed.truth.image, chosen)
        self._truth = parsed.truth.select(chosen)
        self._names = Packed([parsed.names[index] for index in chosen.tolist()])
        self._sizes = parsed.sizes[chosen]
        self._corners, self._far, self._learned = parsed.corners[mine], parsed.far[mine], parsed.learned[mine]
        self._segmentations, self._segmentation = parsed.segmentations, parsed.segmentation[mine]
        self._starts = np.searchsorted(self._truth.image, np.arange(len(chosen) + 1))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        """Read an image and its people; InputDataError where it cannot be read or has another size."""
        index = self._checked(index)
        image = self.image(index)
        height, width = image.shape[:2]
        people = self.people(index)
        if self._sizes[index].tolist() != [height, width]:
            last = np.array([width, height, width, height], np.float32) - 1
            people = People(np.clip(people.boxes, 0, last), people.keypoints, people.visible, people.areas)
            people = people[(people.boxes[:, 2:] > people.boxes[:, :2]).all(1)]
        return Sample(image, people, self.image_number(index), self.name(index), self.ignored(index, (height, width)))

    @property
    def images(self) -> list[Path]:
        """The image files, in order."""
        return [self.image_path(index) for index in range(len(self))]

    def name(self, index: int) -> str:
        """File name of an image, as in the annotations."""
        return self._names[self._checked(index)].decode("utf-8", "surrogateescape")

    def image_path(self, index: int) -> Path:
        """Where an image lies."""
        return self.image_dir / self.name(index)

    def image_number(self, index: int) -> int:
        """Id of an image in the annotations; its index where that is not a number."""
        one = self._truth.image_ids[index]
        return index if isinstance(one, str) else int(one)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image without its people, as :meth:`__getitem__`."""
        path = self.image_path(index)
        image = read_image(path)
        height, width = image.shape[:2]
        noted = self._sizes[index].tolist()
        if all(noted) and noted != [height, width]:
            finding = f"The image is {width}x{height}; its people were annotated in {noted[1]}x{noted[0]}."
            if self._strict:
                remedy = f"Put the image that was annotated there, or correct {self.file.name}."
                raise InputDataError(finding, remedy=remedy, where=path)
            _log.warning("%s: %s", path, finding)
        return image

    def people(self, index: int) -> People:
        """The people to learn in an image, without reading it."""
        rows = self._rows(index, learned=True)
        keypoints, corners, areas = self._truth.keypoints[rows], self._corners[rows], self._truth.areas[rows]
        visible = np.where(self._far[rows], 0, keypoints[..., 2])
        places = np.where(visible[..., None] > 0, keypoints[..., :2], 0)
        width, height = (corners[:, 2:] - corners[:, :2]).T
        of_box = np.maximum(AREA_OF_BOX * width * height, 1)
        areas = np.where(areas > 0, areas, of_box)
        return People(*(one.astype(np.float32) for one in (corners, places, visible, areas)))

    def ignored(self, index: int, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """``size`` (h, w) bool: where people stand who are not to be learned; None for nowhere."""
        rows = self._rows(index, learned=False)
        if not len(rows):
            return None
        mask = np.zeros(size, np.uint8)
        for row in rows:
            which = int(self._segmentation[row])
            if which < 0 or not _fill_segmentation(mask, json.loads(self._segmentations[which])):
                fill_box(mask, self._corners[row])
        return mask.astype(bool) if mask.any() else None

    def ground_truth(self) -> GroundTruth:
        """Everything annotated, crowds included, for judging (see :mod:`rtmo_deploy.measure.accuracy`)."""
        return self._truth

    def _rows(self, index: int, *, learned: bool) -> NDArray[np.intp]:
        index = self._checked(index)
        first, last = self._starts[index : index + 2]
        rows: NDArray[np.intp] = first + np.flatnonzero(self._learned[first:last] == learned)
        return rows

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} images, and no number {index}")
        return index % len(self)


def read_ground_truth(
    annotations_file: str | os.PathLike[str], *, skeleton: Skeleton | None = None, category: str | None = None
) -> tuple[GroundTruth, Skeleton, CocoReport]:
    """What a file says, for judging predictions without the images.

    Everybody, the keypoints, the findings; InputDataError where it has errors.
    """
    parsed = read_coco_file(annotations_file, skeleton=skeleton, category=category)
    report = _report(parsed, parsed.truth.num_people)
    report.require_ok()
    return parsed.truth, report.skeleton, report


def check_coco(
    annotations_file: str | os.PathLike[str],
    image_dir: str | os.PathLike[str] | None = None,
    *,
    category: str | None = None,
    read_images: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CocoReport:
    """Everything that is wrong with an annotation file and, if a folder is given, with its images.

    Args:
        annotations_file: The annotations, JSON.
        image_dir: The folder that its file names are relative to.
        category: Name of the category that is meant, where several have different keypoints.
        read_images: Read every image as well: is it whole, and as large as the annotations say?
        progress: Told how many images have been read, and how many there are.

    Raises:
        InputDataError: The file cannot be read, is not JSON, or is not in COCO's format.
        UsageError: Images shall be read, and there is no folder.
    """
    if read_images and image_dir is None:
        raise UsageError("The images cannot be read without their folder.", remedy="Give it.")
    parsed = read_coco_file(annotations_file, category=category)
    if image_dir is not None:
        folder = Path(image_dir)
        _put_sizes_right(parsed, folder)
        there = _existing_images(parsed, folder)
        if read_images:
            _check_images(parsed, folder, np.flatnonzero(there), progress)
    for row in np.flatnonzero(~parsed.learned & (parsed.segmentation >= 0)):
        height, width = parsed.sizes[parsed.truth.image[row]].tolist()
        segmentation = json.loads(parsed.segmentations[int(parsed.segmentation[row])])
        if height and not _fill_segmentation(np.zeros((height, width), np.uint8), segmentation):
            parsed.report.add("segmentation", parsed.labels[row])
    return _report(parsed, int(parsed.learned.sum()))


def _report(parsed: CocoFile, people: int) -> CocoReport:
    """What was found, with the number of people to learn."""
    report = parsed.report
    note(report, "box-empty", parsed.labels, parsed.empty)
    note(report, "keypoint-far", parsed.labels, np.any(parsed.far, axis=1))
    report.people = people
    if not people and report.ok:
        report.add("nobody" if report.annotations else "no-annotations")
    return report


def _existing_images(parsed: CocoFile, folder: Path) -> NDArray[np.bool_]:
    """Which images have a file; notes the others. Each folder is listed once: that is quick on network disks too."""
    listed: dict[Path, set[str]] = {}
    there = np.zeros(parsed.truth.num_images, bool)
    for index, one in enumerate(parsed.truth.image_ids.tolist()):
        path = folder / parsed.name(index)
        if path.parent not in listed:
            try:
                listed[path.parent] = set(os.listdir(path.parent))  # noqa: PTH208 - names only, without objects
            except OSError:
                listed[path.parent] = set()
        there[index] = path.name in listed[path.parent]
        if not there[index]:
            parsed.report.add("image-missing", one)
    return there


def _put_sizes_right(parsed: CocoFile, folder: Path) -> None:
    """Exchange width and height if they are swapped throughout, as in CrowdPose's files; notes that.

    Some images are read, spread over the file; all that are not square must be swapped.
    """
    sizes = parsed.sizes
    oblong = np.flatnonzero(sizes.all(1) & (sizes[:, 0] != sizes[:, 1]))
    tried = 0
    for index in oblong[:: max(1, len(oblong) // _TRIED)].tolist():
        try:
            shape = read_image(folder / parsed.name(index)).shape[:2]
        except InputDataError:
            continue
        if tuple(sizes[index].tolist()) != shape[::-1]:
            return
        if (tried := tried + 1) >= _TRIED:
            break
    if tried:
        parsed.report.add("size-swapped")
        parsed.sizes = np.ascontiguousarray(sizes[:, ::-1])


def _check_images(
    parsed: CocoFile, folder: Path, indices: NDArray[np.intp], progress: Callable[[int, int], None] | None
) -> None:
    """Read images, and compare their sizes with those in the file."""
    ids = parsed.truth.image_ids.tolist()
    for done, index in enumerate(indices.tolist(), 1):
        try:
            shape = read_image(folder / parsed.name(index)).shape[:2]
        except InputDataError as error:
            large = isinstance(error, TooManyPixelsError)
            parsed.report.add("image-large" if large else "image-unreadable", ids[index])
        else:
            if parsed.sizes[index].all() and tuple(parsed.sizes[index]) != shape:
                parsed.report.add("image-size", ids[index])
        if progress is not None:
            progress(done, len(indices))


def _fill_segmentation(mask: NDArray[np.uint8], segmentation: object) -> bool:
    """Set to 1 in ``mask`` what a segmentation covers: polygons, or run lengths made for a mask of this size.

    False where it cannot be read; the mask is then unchanged.
    """
    height, width = mask.shape
    fill = _run_lengths if isinstance(segmentation, dict) else _polygons
    area = fill(cast("Any", segmentation), (height, width))
    if area is None:
        return False
    mask |= area
    return True


def _polygons(segmentation: object, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    from faster_coco_eval.core import mask as rle

    rows = cast("Sequence[Any]", segmentation) if isinstance(segmentation, list) else []
    outlines: list[list[float]] = []
    for row in rows:
        try:
            points = np.asarray(row, np.float64)
        except (TypeError, ValueError, OverflowError):
            return None
        if points.ndim != 1 or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            return None
        # The work grows with the outline, so a slip far outside must not count.
        far = float(max(size))
        outlines.append(np.clip(points, -far, 2 * far).tolist())
    if not outlines:
        return None
    area: NDArray[np.uint8] = rle.decode(rle.merge(rle.frPyObjects(outlines, *size)))
    return area


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8] | None:
    from faster_coco_eval.core import mask as rle

    # Checked first: the decoder allocates whatever it is told.
    if segmentation.get("size") != list(size):
        return None
    counts = segmentation.get("counts")
    plain = isinstance(counts, list) and all(type(count) is int and 0 <= count <= size[0] * size[1] for count in counts)
    if not plain and not isinstance(counts, str):
        return None
    try:
        packed = rle.frPyObjects({"size": list(size), "counts": counts}, *size) if plain else segmentation
        area: NDArray[np.uint8] = rle.decode({"size": list(size), "counts": packed["counts"]})
    except (ValueError, RuntimeError, TypeError, OverflowError):
        return None
    return area if area.shape == size else None
