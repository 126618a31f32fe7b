"""Annotated images out: COCO keypoint files, and folders of images with one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2

from rtmo_deploy.data.sample import Sample
from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.data.sample import PoseDataset
    from rtmo_deploy.poses import Skeleton

ANNOTATIONS_NAME: Final = "annotations.json"
"""The annotation file in a folder that `write_dataset` writes; the images are in ``images`` beside it."""

JPEG_QUALITY: Final = 95


@dataclass(frozen=True)
class Written:
    """What `write_coco` wrote: where, and how many images, people and labelled keypoints."""

    path: Path
    images: int
    people: int
    keypoints: int


def write_coco(
    path: Path,
    samples: Iterable[Sample],
    skeleton: Skeleton,
    *,
    info: Mapping[str, Any] | None = None,
    more: Callable[[Sample], tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]] | None = None,
) -> Written:
    """Write a COCO keypoint file; it appears whole or not at all.

    Annotations are numbered from 1 in the order of the samples. Coordinates have two decimals; ``bbox`` is x, y,
    width, height. ``more`` gives further keys of a sample's image and of each of its annotations.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    seen: set[int] = set()
    for sample in samples:
        if sample.image_id in seen:
            raise ValueError(f"two images have the id {sample.image_id}")
        if sample.people.keypoints.shape[1] != len(skeleton):
            raise ValueError(f"{sample.name}: people do not have the {len(skeleton)} keypoints of {skeleton.name}")
        seen.add(sample.image_id)
        height, width = sample.image.shape[:2]
        of_image, of_people = more(sample) if more else ({}, [{}] * len(sample.people))
        images.append({"id": sample.image_id, "file_name": sample.name, "width": width, "height": height, **of_image})
        rows = _annotations(sample, first=len(annotations) + 1)
        annotations += [{**row, **facts} for row, facts in zip(rows, of_people, strict=True)]
    document = {
        "info": {"description": "Keypoint annotations in COCO's format", **(info or {})},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [category_of(skeleton)],
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    write_whole(path, text)
    labelled = sum(annotation["num_keypoints"] for annotation in annotations)
    return Written(path, len(images), len(annotations), labelled)


def category_of(skeleton: Skeleton) -> dict[str, Any]:
    """The one entry of ``categories``: persons with these keypoints."""
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[first + 1, second + 1] for first, second in skeleton.edges],
    }


def _annotations(sample: Sample, *, first: int) -> list[dict[str, Any]]:
    """The annotations of one image, numbered from ``first``."""
    people, found = sample.people, []
    for index in range(len(people)):
        x1, y1, x2, y2 = people.boxes[index].tolist()
        points, flags = people.keypoints[index].tolist(), people.visible[index].tolist()
        rows = [(short(x), short(y), int(flag)) for (x, y), flag in zip(points, flags, strict=True)]
        found.append(
            {
                "id": first + index,
                "image_id": sample.image_id,
                "category_id": 1,
                "bbox": [short(x1), short(y1), short(x2 - x1), short(y2 - y1)],
                "area": short(float(people.areas[index])),
                "iscrowd": 0,
                "num_keypoints": sum(flag > 0 for *_, flag in rows),
                "keypoints": [value for row in rows for value in row],
            }
        )
    return found


def short(value: float) -> float | int:
    """Two decimals, and none where they are zeros."""
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded


def write_dataset(
    folder: Path,
    dataset: PoseDataset,
    *,
    suffix: str = ".jpg",
    info: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write a data set as ``folder/images/000000000001.jpg`` and so on, and then ``folder/annotations.json``.

    An annotation file that is there already is removed first, and the new one is written last: where there is one,
    all its images are there. Other files are left alone.

    Args:
        folder: Where to; made if it is not there.
        dataset: What to write; its samples become the images 1, 2, ...
        suffix: ``.jpg`` (quality 95) or ``.png``.
        info: What stands under ``info`` in the annotation file.
        progress: Called with the number of images written so far, after each.

    Raises:
        SetupError: The folder cannot be written to, or the disk is full.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []

    def written() -> Iterator[Sample]:
        for index in range(len(dataset)):
            sample = dataset[index]
            name = f"{index + 1:012d}{suffix}"
            encoded = cv2.imencode(suffix, sample.image, parameters)[1]
            (folder / "images" / name).unlink(missing_ok=True)  # a link to another file
            (folder / "images" / name).write_bytes(encoded.tobytes())
            yield Sample(sample.image, sample.people, index + 1, name)
            if progress is not None:
                progress(index + 1)

    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / ANNOTATIONS_NAME).unlink(missing_ok=True)
        return write_coco(folder / ANNOTATIONS_NAME, written(), dataset.skeleton, info=info)
    except OSError as error:
        raise SetupError(
            f"The images could not be written: {error.strerror or error}.",
            remedy="Check that the folder is writable and has space left.",
            where=error.filename or folder,
        ) from error
