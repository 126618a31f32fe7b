"""Reading a file in COCO's keypoint format into arrays, and noticing everything that is wrong with it on the way."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rtmo_deploy.data._coco_arrays import CocoFile, Images, People
from rtmo_deploy.data._coco_skeleton import choose_categories, skeleton_of
from rtmo_deploy.data._findings import Collector
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.poses import Skeleton

if TYPE_CHECKING:
    import os

__all__ = ["CocoFile", "read_coco_file"]


def read_coco_file(
    path: str | os.PathLike[str], *, skeleton: Skeleton | None = None, category: str | None = None
) -> CocoFile:
    """Read an annotation file; see :class:`CocoFile`.

    Args:
        path: The file.
        skeleton: What its keypoints are, if not what the file says.
        category: Name of the category that is meant, where several have different keypoints.

    Raises:
        InputDataError: It cannot be read, is not JSON, or is not in COCO's format.
    """
    file, found = Path(path), Collector()
    document = _load(file)
    categories = choose_categories(document.get("categories"), category, file)
    images = Images(document["images"], found)
    entries = document["annotations"]
    own = skeleton_of(categories[0], found) if categories else _numbered(entries)
    if skeleton is not None and len(skeleton) != len(own):
        raise InputDataError(
            f"Its people have {len(own)} keypoints; the skeleton '{skeleton.name}' has {len(skeleton)}.",
            remedy="Give the skeleton of this file.",
            where=file,
        )
    ids = {one["id"] for one in categories if isinstance(one.get("id"), int | str)}
    people = People(images.index, len(own), ids if categories else None, found)
    for place, entry in enumerate(entries):
        people.read(entry, place)
    parsed = people.file(file, skeleton or own, images, len(entries))
    numbers = [one["id"] for one in categories if type(one.get("id")) is int]
    return replace(parsed, truth=replace(parsed.truth, category_id=numbers[0])) if numbers else parsed


def _load(file: Path) -> dict[str, Any]:
    def reject(reason: str, error: Exception | None = None) -> NoReturn:
        raise InputDataError(
            f"This is no annotation file in COCO's format: {reason}.",
            remedy="It needs the lists 'images', 'annotations' and 'categories', as in person_keypoints_val2017.json.",
            where=file,
        ) from error

    try:
        with file.open("rb") as stream:
            document = json.load(stream)
    except OSError as error:
        raise InputDataError(
            f"The annotation file cannot be opened: {error.strerror or error}.",
            remedy="Check the name and the permissions.",
            where=file,
        ) from error
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


def _numbered(entries: list[Any]) -> Skeleton:
    """A skeleton without names for a file whose categories name no keypoints: as many as most people have."""
    lists = (entry.get("keypoints") for entry in entries if isinstance(entry, dict))
    counts = Counter(len(one) // 3 for one in lists if isinstance(one, list) and len(one) % 3 == 0 and one)
    return Skeleton.generic(counts.most_common(1)[0][0] if counts else 17)
