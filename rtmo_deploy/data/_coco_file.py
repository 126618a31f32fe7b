"""Reading a file in COCO's keypoint format into arrays, and noticing everything that is wrong with it on the way."""

from __future__ import annotations

import contextlib
import gc
import json
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rtmo_deploy.data._coco_arrays import CocoFile, Images, People, compact, identity
from rtmo_deploy.data._coco_skeleton import choose_categories, skeleton_of
from rtmo_deploy.data._findings import Collector
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.guarded import UnreadableError, open_regular
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.wanted import ANNOTATIONS, require
from rtmo_deploy.zoo.skeletons import canonical_name

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

#: A larger annotation file is refused: parsed, it would need ten times that memory.
_MOST_BYTES = 4 << 30


def read_coco_file(
    path: str | os.PathLike[str], *, skeleton: Skeleton | None = None, category: str | None = None
) -> CocoFile:
    """Read an annotation file; see :class:`CocoFile`.

    Args:
        path: The file.
        skeleton: What its keypoints are, if not what the file says. Of the same names in another order, the keypoints
            are brought into its order.
        category: Name of the category that is meant, where several have different keypoints.

    Raises:
        InputDataError: It cannot be read, is not JSON, or is not in COCO's format.
    """
    file, found = Path(path), Collector()
    with _no_collection():
        return _read(file, _load(file), found, skeleton, category)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the cycle collector, which would visit the millions of lists of a large file again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read(
    file: Path, document: dict[str, Any], found: Collector, skeleton: Skeleton | None, category: str | None
) -> CocoFile:
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
    known = [identity(one.get("id")) for one in categories]
    ids = {one for one in known if one is not None}
    if len(ids) < len(known) and None in known:
        found.add("category-id")
    people = People(images.index, len(own), ids if categories else None, found)
    for place, entry in enumerate(entries):
        people.read(entry, place)
        entries[place] = None  # its memory is needed for the arrays
    parsed = _in_order(people.file(file, skeleton or own, images, len(entries)), own)
    info = document.get("info")
    if isinstance(info, dict) and info.get("domain") == "synthetic":
        parsed = replace(parsed, domain="synthetic")
    numbers = [one for one in known if isinstance(one, int)]
    return replace(parsed, truth=replace(parsed.truth, category_id=numbers[0])) if numbers else parsed


def _in_order(parsed: CocoFile, own: Skeleton) -> CocoFile:
    """The keypoints in the order of the file's skeleton, where its own names are the same in another order."""
    wanted, names = ([canonical_name(name) for name in one.keypoints] for one in (parsed.skeleton, own))
    if names == wanted or sorted(names) != sorted(wanted) or len(set(names)) < len(names):
        return parsed
    keypoints = parsed.truth.keypoints[:, [names.index(name) for name in wanted]]
    return replace(parsed, truth=replace(parsed.truth, keypoints=keypoints))


def _load(file: Path) -> dict[str, Any]:
    def reject(reason: str, error: Exception | None = None) -> NoReturn:
        raise InputDataError(
            f"This is no annotation file in COCO's format: {reason}.",
            remedy="It needs the lists 'images', 'annotations' and 'categories', as in person_keypoints_val2017.json.",
            where=file,
        ) from error

    require(file, ANNOTATIONS)
    try:
        with open_regular(file, max_bytes=_MOST_BYTES) as stream:
            document = json.load(stream, object_hook=compact)
    except OSError as error:
        raise InputDataError(
            f"The annotation file cannot be opened: {error.strerror or error}.",
            remedy="Check the name and the permissions.",
            where=file,
        ) from error
    except UnreadableError as error:
        reject(str(error), error)
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
    counts = Counter(len(one) // 3 for one in lists if isinstance(one, list | array) and len(one) % 3 == 0 and one)
    return Skeleton.generic(counts.most_common(1)[0][0] if counts else 17)
