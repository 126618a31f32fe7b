"""Reading a file in COCO's keypoint format into arrays, and noticing everything that is wrong with it on the way."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rtmo_deploy.data._coco_arrays import CocoFile, Images, People, compact, identity, printable
from rtmo_deploy.data._findings import Collector
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.file_kind import ANNOTATIONS, require
from rtmo_deploy.files import UnreadableError, open_regular
from rtmo_deploy.poses import Skeleton, mirror_of
from rtmo_deploy.zoo.skeletons import COCO_17, CROWDPOSE_14, canonical_name, convention_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


#: Sigmas by name. CrowdPose's are not among them: others give its names to other points.
_SIGMAS: Final = dict(zip(COCO_17.keypoints, COCO_17.sigmas, strict=True))


def _given_pairs(category: dict[str, Any], names: tuple[str, ...]) -> tuple[tuple[int, int], ...] | None:
    """Mirror pairs that the category itself gives; None if it gives none.

    ``flip_pairs`` has pairs of names or indices; ``flip_indices``, ``flip_idx`` or ``swap`` has for each keypoint the
    one that takes its place, or ``swap`` maps names. Indices count from 0; from 1 if 0 is not there and the last is.
    """
    index = {name: place for place, name in enumerate(names)}
    rows = category.get("flip_pairs")
    if rows is None:
        order = next((category[key] for key in ("flip_indices", "flip_idx", "swap") if category.get(key)), None)
        if isinstance(order, dict):
            rows = [[one, two] for one, two in order.items() if two]
        elif isinstance(order, list) and len(order) == len(names):
            # Written from 1, a list of indices has its length in it and no 0.
            first = 1 if len(names) in order and 0 not in order else 0
            rows = [[place + first, two or (place + first if two == "" else two)] for place, two in enumerate(order)]
        elif order is None:
            return None
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ValueError("not a list of pairs")
    numbers = [end for row in rows for end in row if type(end) is int]
    first = 1 if len(names) in numbers and 0 not in numbers else 0
    pairs = set()
    for row in rows:
        ends = [index.get(end) if isinstance(end, str) else end - first if type(end) is int else None for end in row]
        one, two = ends
        if one is None or two is None or not (0 <= one < len(names) and 0 <= two < len(names)):
            raise ValueError(f"{row} is not a pair of its keypoints")
        if one != two:
            pairs.add((min(one, two), max(one, two)))
    paired = [end for pair in pairs for end in pair]
    if len(set(paired)) < len(paired):
        raise ValueError("a keypoint is in two pairs")
    return tuple(sorted(pairs))


def _given_sigmas(category: dict[str, Any], count: int) -> tuple[float, ...]:
    values = category.get("sigmas")
    if not isinstance(values, list) or len(values) != count:
        return ()
    sound = all(type(one) in (int, float) and math.isfinite(one) and one > 0 for one in values)
    return tuple(map(float, values)) if sound else ()


def skeleton_of(category: dict[str, Any], found: Collector) -> Skeleton:
    """The skeleton that a category's ``keypoints`` and ``skeleton`` describe.

    A category with all the names of a known convention, in its order, gives that convention itself. Others get the
    sigmas that the category gives, or COCO's if every name is one of COCO's; else none: nobody has measured them.
    """
    names = tuple(str(name) for name in category["keypoints"])
    try:
        pairs = _given_pairs(category, names)
    except ValueError:
        found.add("flip-pairs")
        pairs = None
    given = _given_sigmas(category, len(names))
    known = convention_of(names)
    if known is not None:
        if pairs is None and not given:
            return known
        return replace(known, flip_pairs=known.flip_pairs if pairs is None else pairs, sigmas=given or known.sigmas)
    edges: list[tuple[int, int]] = []
    rows = category.get("skeleton")
    for row in rows if isinstance(rows, list) else []:
        whole = isinstance(row, list) and len(row) == 2 and all(type(end) is int for end in row)
        if whole and all(1 <= end <= len(names) for end in row):
            edges.append((row[0] - 1, row[1] - 1))
        else:
            found.add("skeleton")
    sigmas = given
    source = "the annotation file" if given else ""
    canonical = [canonical_name(name) for name in names]
    if not sigmas and set(canonical) <= set(_SIGMAS):
        sigmas, source = tuple(_SIGMAS[name] for name in canonical), "coco-17, by name"
    elif not sigmas and sorted(canonical) == sorted(CROWDPOSE_14.keypoints):
        place = CROWDPOSE_14.keypoints.index
        sigmas = tuple(CROWDPOSE_14.sigmas[place(name)] for name in canonical)
        source = "guessed from names like CrowdPose's"
    label = str(category.get("name") or "custom")
    return Skeleton(
        name=f"{label}-{len(names)}",
        keypoints=names,
        edges=tuple(edges),
        flip_pairs=mirror_of(names).pairs if pairs is None else pairs,
        sigmas=sigmas,
        source=source,
    )


def choose_categories(categories: object, wanted: str | None, file: Path) -> list[dict[str, Any]]:
    """The categories that are meant, all of the same keypoints; none where none names its keypoints."""
    entries = [entry for entry in categories if isinstance(entry, dict)] if isinstance(categories, list) else []
    able = [entry for entry in entries if isinstance(entry.get("keypoints"), list) and entry["keypoints"]]
    if wanted is not None:
        able = [entry for entry in able if entry.get("name") == wanted]
        if not able:
            names = ", ".join(sorted({str(entry.get("name")) for entry in entries})) or "none"
            raise InputDataError(
                f"It has no category '{wanted}' with keypoints.", remedy=f"Its categories: {names}.", where=file
            )
    if len({tuple(map(str, entry["keypoints"])) for entry in able}) > 1:
        people = [entry for entry in able if entry.get("name") == "person"]
        if len(people) != 1:
            names = ", ".join(str(entry.get("name")) for entry in able)
            raise InputDataError(
                f"Its categories have different keypoints: {names}.", remedy="Say which one is meant.", where=file
            )
        able = people
    for entry in able:
        joints = [str(name) for name in entry["keypoints"]]
        if not all(map(printable, [*joints, str(entry.get("name"))])):
            raise InputDataError("A name in its categories is not text.", remedy="Correct the file.", where=file)
        if len(set(joints)) < len(joints):
            twice = sorted({name for name in joints if joints.count(name) > 1})
            raise InputDataError(
                f"The category '{entry.get('name')}' has more than one keypoint called {', '.join(twice)}.",
                remedy="Give each keypoint a name of its own.",
                where=file,
            )
    return able


#: A larger annotation file is refused: parsed, it would need ten times that memory.
_MOST_BYTES = 4 << 30


def read_coco_file(
    path: str | os.PathLike[str], *, skeleton: Skeleton | None = None, category: str | None = None
) -> CocoFile:
    """Read an annotation file; see :class:`CocoFile`."""
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
