"""Calibration pictures: those of a named set or of a folder, one at a time, the broken ones passed over by name.

A set knows its identity: a short JSON-ready record that changes whenever a picture of it does. What is measured on a
set is kept with that record, so that it is never taken for a measurement on another one.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from rtmo_deploy.data._calibration_record import SetRecord, read_record
from rtmo_deploy.data.images import find_images, read_image
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_T = TypeVar("_T")

#: Pictures that are taken of a folder unless asked otherwise. The ranges of a network settle with fewer.
FOLDER_COUNT = 256


class Picture(NamedTuple):
    """A picture of a set: its name and its pixels, ``(h, w, 3)`` uint8 BGR."""

    name: str
    pixels: NDArray[np.uint8]


class Skipped(NamedTuple):
    """A picture of a set that cannot be read, and why."""

    name: str
    reason: str


class CalibrationPictures(Protocol):
    """A set: pictures by index, and what makes it this set and no other."""

    name: str

    def __len__(self) -> int: ...

    def read(self, index: int) -> Picture:
        """Picture ``index``.

        Raises:
            InputDataError: It cannot be read.
        """
        ...

    def picture_name(self, index: int) -> str:
        """Its name, whether it can be read or not."""
        ...

    def identity(self) -> dict[str, Any]:
        """JSON-ready; equal for equal pictures only."""
        ...


def stream(pictures: CalibrationPictures) -> Iterator[Picture | Skipped]:
    """Each picture of a set in turn, read when it is its turn; never two in memory on this account."""
    for index in range(len(pictures)):
        try:
            yield pictures.read(index)
        except InputDataError as error:
            yield Skipped(pictures.picture_name(index), error.finding)


class SyntheticPictures:
    """Drawn people; the same pictures everywhere.

    Args:
        record: The set.
        count: How many; the record's count if not given.
    """

    def __init__(self, record: SetRecord, count: int | None = None) -> None:
        from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople

        self.name = record.name
        self._people = SyntheticPeople(
            _checked(count or record.count), seed=record.seed, options=SyntheticOptions(**dict(record.options))
        )

    def __len__(self) -> int:
        return len(self._people)

    def read(self, index: int) -> Picture:
        """Draw picture ``index``."""
        return Picture(self.picture_name(index), self._people[index].image)

    def picture_name(self, index: int) -> str:
        """``synthetic-<index>``."""
        return f"{self.name}-{index}"

    def identity(self) -> dict[str, Any]:
        """Seed, count, options, and the version of the generator."""
        from rtmo_deploy.data.synthetic import GENERATOR_VERSION

        return {
            "source": "synthetic",
            "name": self.name,
            "count": len(self),
            "seed": self._people.seed,
            "options": self._people.options.to_dict(),
            "generator_version": GENERATOR_VERSION,
        }


class FilePictures:
    """Pictures in files.

    Args:
        name: What the set is called.
        paths: The files, in order.
        source: ``folder`` or ``annotations``.
    """

    def __init__(self, name: str, paths: Sequence[Path], *, source: str) -> None:
        self.name, self._paths, self._source = name, tuple(paths), source

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Picture:
        """Read picture ``index``."""
        return Picture(self.picture_name(index), read_image(self._paths[index]))

    def picture_name(self, index: int) -> str:
        """The file's name."""
        return self._paths[index].name

    def identity(self) -> dict[str, Any]:
        """Count, and one SHA-256 over the names and contents of the files in their order; reads them all."""
        digest = hashlib.sha256()
        for path in self._paths:
            try:
                content = sha256_of(path)
            except OSError:
                content = "unreadable"
            digest.update(json.dumps([path.name, content]).encode())
        return {"source": self._source, "name": self.name, "count": len(self), "files_sha256": digest.hexdigest()}


def folder_pictures(folder: Path, count: int | None = None) -> FilePictures:
    """At most ``count`` (256) pictures of a folder and the folders in it, evenly spaced in the order of their names.

    Raises:
        InputDataError: There is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputDataError("There is no such folder.", remedy="Give a folder of pictures.", where=folder)
    found = find_images([folder], recursive=True)
    return FilePictures(folder.name, _spaced(found, _checked(count or FOLDER_COUNT)), source="folder")


def open_set(
    name: str, count: int | None = None, *, annotations: Path | None = None, images: Path | None = None
) -> CalibrationPictures:
    """The pictures of a named set.

    Args:
        name: The set.
        count: How many; the set's own count if not given.
        annotations: The annotation file, for a set that is chosen from one.
        images: The folder of its pictures.

    Raises:
        UsageError: There is no such set, or what it needs is not given.
        InputDataError: The annotation file cannot be used, or nobody is annotated in it.
    """
    record = read_record(name)
    if record.source == "synthetic":
        if annotations is not None or images is not None:
            raise UsageError(
                f"The pictures of the set '{name}' are drawn; it takes no files.", remedy="Leave them away."
            )
        return SyntheticPictures(record, count)
    if annotations is None or images is None:
        raise UsageError(
            f"The set '{name}' is chosen from {record.annotations}, which is not part of rtmo-deploy.",
            remedy=f"Give both: rtmo-deploy calibrate MODEL --set {name} --ann .../{record.annotations} --images DIR",
        )
    if not images.is_dir():
        raise InputDataError("There is no such folder.", remedy="Give the folder of the pictures.", where=images)
    names = _names_with_people(annotations)
    chosen = _spaced(names, _checked(count or record.count))
    return FilePictures(name, [images / one for one in chosen], source="annotations")


def _names_with_people(annotations: Path) -> list[str]:
    """File names of the pictures with at least one person, no crowd, who has labelled keypoints; by ascending id."""
    from rtmo_deploy.data._coco_file import read_coco_file

    parsed = read_coco_file(annotations)
    truth = parsed.truth
    learned = ~truth.crowd & (truth.num_keypoints > 0)
    with_people = np.unique(truth.image[learned]).tolist()
    if not with_people:
        raise InputDataError("Nobody is annotated in it.", remedy="Check that it is the right file.", where=annotations)
    ids = truth.image_ids.tolist()
    # Ids may be text in some files; numbers come first, each kind in its own order.
    order = sorted(with_people, key=lambda at: (isinstance(ids[at], str), ids[at]))
    return [parsed.names[at].decode("utf-8", "surrogateescape") for at in order]


def _spaced(items: Sequence[_T], count: int) -> list[_T]:
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _checked(count: int) -> int:
    if count < 1:
        raise UsageError(f"{count} pictures cannot calibrate anything.", remedy="Give a positive number.")
    return count
