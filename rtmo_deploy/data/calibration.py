"""Calibration images: those of a named set or of a folder, one at a time.

A set knows its identity: a short JSON-ready record that changes whenever an image of it does. What is measured on a
set is kept with that record, so that it is never taken for a measurement on another one.

The records of named sets are the JSON files of ``calibration/sets`` in the repository. They are installed with the
package as ``rtmo_deploy/data/calibration_sets``, byte for byte the same; the former are what is edited, a test compares
them.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, NonNegativeInt, PositiveInt, ValidationError, model_validator

from rtmo_deploy.data.images import find_images, read_image
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.files import sha256_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_T = TypeVar("_T")

#: Images that are taken of a folder unless asked otherwise. The ranges of a network settle with fewer.
FOLDER_COUNT = 256
#: The one rule there is: ids in ascending order of the images with at least one person (no crowd) who has labelled
#: keypoints; of n such images the ones numbered ``floor(i * n / count)``.
RULE: Final = "evenly spaced by id, of those with people"


@dataclass(frozen=True)
class CalibrationImages:
    """A set of images, and what makes it this set and no other."""

    name: str
    names: Sequence[str]  #: Of the images in their order, whether they can be read or not.
    #: Image by index, ``(h, w, 3)`` uint8 BGR; InputDataError where it cannot be read.
    read: Callable[[int], NDArray[np.uint8]]
    identity: Callable[[], dict[str, Any]]  #: JSON-ready; equal for equal images only.


class SetRecord(BaseModel, frozen=True, extra="forbid", strict=True):
    """The record of a named set: of synthetic images, or chosen by a rule from an annotation file that the user has."""

    schema_version: Literal[1]
    name: str
    description: str
    source: Literal["synthetic", "annotations"]
    count: PositiveInt  #: Images, unless asked otherwise.
    seed: NonNegativeInt = 0  #: Of synthetic images.
    options: dict[str, tuple[int, int]] = {}  #: Of synthetic images, as keywords of ``SyntheticOptions``.
    annotations: str = ""  #: Name of the annotation file that is meant.
    rule: Literal["evenly spaced by id, of those with people"] = RULE

    @model_validator(mode="after")
    def _names_its_file(self) -> Self:
        if bool(self.annotations) != (self.source == "annotations"):
            raise ValueError(f"its source is {self.source}, and its annotation file is '{self.annotations}'")
        return self


def named_sets() -> tuple[str, ...]:
    """Names of all sets, sorted."""
    folder = importlib.resources.files("rtmo_deploy.data") / "calibration_sets"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def read_record(name: str) -> SetRecord:
    """The record of a named set."""
    if name not in named_sets():
        raise UsageError(
            f"There is no calibration set '{name}'.",
            remedy=f"There are: {', '.join(named_sets())}; or give a folder of images.",
        )
    file = importlib.resources.files("rtmo_deploy.data") / "calibration_sets" / f"{name}.json"
    return parse_record(file.read_text(encoding="utf-8"), where=file.name)


def parse_record(text: str, *, where: object) -> SetRecord:
    try:
        return SetRecord.model_validate_json(text)
    except ValidationError as error:
        found = "; ".join(one["msg"] for one in error.errors())
        raise InputDataError(
            f"This record of a calibration set is damaged: {found}.", remedy="Install rtmo-deploy again.", where=where
        ) from error


def folder_images(folder: str | os.PathLike[str], count: int | None = None) -> CalibrationImages:
    """At most ``count`` (256) images of a folder and the folders in it, evenly spaced in the order of their names.

    An InputDataError where there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputDataError("There is no such folder.", remedy="Give a folder of images.", where=folder)
    found = find_images([folder], recursive=True)
    return image_files(folder.name, _spaced(found, count or FOLDER_COUNT), source="folder")


def open_set(
    name: str, count: int | None = None, *, annotations: Path | None = None, images: Path | None = None
) -> CalibrationImages:
    """The images of a named set, ``count`` or its own number; the paths are for one chosen from an annotation file.

    Raises:
        UsageError: There is no such set, or what it needs is not given.
        InputDataError: The annotation file cannot be used, or nobody is annotated in it.
    """
    record = read_record(name)
    count = count or record.count
    if record.source == "synthetic":
        if annotations is not None or images is not None:
            raise UsageError(f"The images of the set '{name}' are synthetic; it takes no files.", remedy="Omit them.")
        return _synthetic(record, count)
    if annotations is None or images is None:
        raise UsageError(
            f"The set '{name}' is chosen from {record.annotations}, which is not part of rtmo-deploy.",
            remedy=f"Give both: rtmo-deploy calibrate MODEL --set {name} --ann .../{record.annotations} --images DIR",
        )
    if not images.is_dir():
        raise InputDataError("There is no such folder.", remedy="Give the folder of the images.", where=images)
    chosen = _spaced(_names_with_people(annotations), count)
    return image_files(name, [images / one for one in chosen], source="annotations")


def _synthetic(record: SetRecord, count: int) -> CalibrationImages:
    from rtmo_deploy.data.synthetic import GENERATOR_VERSION, SyntheticOptions, SyntheticPeople

    options: dict[str, Any] = dict(record.options)
    dataset = SyntheticPeople(_checked(count), seed=record.seed, options=SyntheticOptions(**options))
    identity = {
        "source": "synthetic",
        "name": record.name,
        "count": count,
        "seed": record.seed,
        "options": dataset.options.to_dict(),
        "generator_version": GENERATOR_VERSION,
    }
    names = [f"{record.name}-{index}" for index in range(count)]
    return CalibrationImages(record.name, names, lambda index: dataset[index].image, lambda: identity)


def image_files(name: str, paths: Sequence[Path], *, source: str) -> CalibrationImages:
    """A set of images in files; its identity is one SHA-256 over their names and contents in their order."""

    def identity() -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in paths:
            try:
                content = sha256_of(path)
            except OSError:
                content = "unreadable"
            digest.update(json.dumps([path.name, content]).encode())
        return {"source": source, "name": name, "count": len(paths), "files_sha256": digest.hexdigest()}

    return CalibrationImages(name, [path.name for path in paths], lambda index: read_image(paths[index]), identity)


def _names_with_people(annotations: Path) -> list[str]:
    """File names of the images with at least one person, no crowd, who has labelled keypoints; by ascending id."""
    from rtmo_deploy.data.coco_file import read_coco_file

    parsed = read_coco_file(annotations)
    truth = parsed.truth
    learned = ~truth.crowd & (truth.num_keypoints > 0)
    with_people = np.unique(truth.image[learned]).tolist()
    if not with_people:
        raise InputDataError("Nobody is annotated in it.", remedy="Check that it is the right file.", where=annotations)
    ids = truth.image_ids.tolist()
    # Ids may be text in some files; numbers come first, each kind in its own order.
    order = sorted(with_people, key=lambda at: (isinstance(ids[at], str), ids[at]))
    return [parsed.name(at) for at in order]


def _spaced(items: Sequence[_T], count: int) -> list[_T]:
    if len(items) <= _checked(count):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _checked(count: int) -> int:
    if count < 1:
        raise UsageError(f"{count} images cannot calibrate anything.", remedy="Give a positive number.")
    return count
