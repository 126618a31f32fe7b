"""Checks of an annotation file against its pictures."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.data._findings import CocoReport
from rtmo_deploy.data._ignore import fill_segmentation
from rtmo_deploy.data.images import TooManyPixelsError, read_image
from rtmo_deploy.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.data._coco_arrays import CocoFile

#: Images that are read to find out whether width and height are swapped.
_TRIED = 8


def picture_name(parsed: CocoFile, index: int) -> str:
    """File name of a picture, as in the file."""
    return parsed.names[index].decode("utf-8", "surrogateescape")


def existing_pictures(parsed: CocoFile, folder: Path) -> NDArray[np.bool_]:
    """Which pictures have a file; notes the others. Each folder is listed once: that is quick on network disks too."""
    listed: dict[Path, set[str]] = {}
    there = np.zeros(parsed.truth.num_images, bool)
    for index, one in enumerate(parsed.truth.image_ids.tolist()):
        path = folder / picture_name(parsed, index)
        if path.parent not in listed:
            try:
                listed[path.parent] = set(os.listdir(path.parent))  # noqa: PTH208 - names only, without objects
            except OSError:
                listed[path.parent] = set()
        there[index] = path.name in listed[path.parent]
        if not there[index]:
            parsed.found.add("image-missing", one)
    return there


def with_right_sizes(parsed: CocoFile, folder: Path) -> CocoFile:
    """The file with width and height exchanged if they are swapped throughout, as in CrowdPose's; notes that.

    Some images are read, spread over the file; all that are not square must be swapped.
    """
    sizes = parsed.sizes
    oblong = np.flatnonzero(sizes.all(1) & (sizes[:, 0] != sizes[:, 1]))
    tried = 0
    for index in oblong[:: max(1, len(oblong) // _TRIED)].tolist():
        try:
            shape = read_image(folder / picture_name(parsed, index)).shape[:2]
        except InputDataError:
            continue
        if tuple(sizes[index].tolist()) != shape[::-1]:
            return parsed
        if (tried := tried + 1) >= _TRIED:
            break
    if not tried:
        return parsed
    parsed.found.add("size-swapped")
    return replace(parsed, sizes=np.ascontiguousarray(sizes[:, ::-1]))


def check_segmentations(parsed: CocoFile, learned: NDArray[np.bool_]) -> None:
    """Try the segmentations of those who are not learned."""
    for row in np.flatnonzero(~learned & (parsed.segmentation >= 0)):
        height, width = parsed.sizes[parsed.truth.image[row]].tolist()
        segmentation = json.loads(parsed.segmentations[int(parsed.segmentation[row])])
        mask = np.zeros((height, width), np.uint8)
        if height and not fill_segmentation(mask, segmentation, (height, width)):
            parsed.found.add("segmentation", parsed.labels[row])


def check_pictures(
    parsed: CocoFile, folder: Path, indices: NDArray[np.intp], progress: Callable[[int, int], None] | None
) -> None:
    """Read pictures, and compare their sizes with those in the file."""
    ids = parsed.truth.image_ids.tolist()
    for done, index in enumerate(indices.tolist(), 1):
        try:
            shape = read_image(folder / picture_name(parsed, index)).shape[:2]
        except InputDataError as error:
            large = isinstance(error, TooManyPixelsError)
            parsed.found.add("image-large" if large else "image-unreadable", ids[index])
        else:
            if parsed.sizes[index].all() and tuple(parsed.sizes[index]) != shape:
                parsed.found.add("image-size", ids[index])
        if progress is not None:
            progress(done, len(indices))


def report(parsed: CocoFile, people: int) -> CocoReport:
    """What was found, with the number of people to learn."""
    if not people and not any(finding.severity == "error" for finding in parsed.found.findings()):
        parsed.found.add("nobody" if parsed.annotations else "no-annotations")
    return CocoReport(
        parsed.path, parsed.truth.num_images, parsed.annotations, people, parsed.found.findings(), parsed.skeleton
    )
