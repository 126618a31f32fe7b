"""What the keypoints of an annotation file are: the skeleton of its category of people."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import InputDataError
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.sides import mirror_of
from rtmo_deploy.zoo.skeletons import COCO_17, CROWDPOSE_14, canonical_name, convention_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.data.findings import CocoReport

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
        one, two = (
            index.get(end) if isinstance(end, str) else end - first if type(end) is int else None for end in row
        )
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


def skeleton_of(category: dict[str, Any], report: CocoReport) -> Skeleton:
    """The skeleton that a category's ``keypoints`` and ``skeleton`` describe.

    A category with all the names of a known convention, in its order, gives that convention itself. Others get the
    sigmas that the category gives, or COCO's if every name is one of COCO's; else none: nobody has measured them.
    """
    names = tuple(str(name) for name in category["keypoints"])
    try:
        pairs = _given_pairs(category, names)
    except ValueError:
        report.add("flip-pairs")
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
            report.add("skeleton")
    sigmas, source = given, "the annotation file" if given else ""
    canonical = [canonical_name(name) for name in names]
    if not sigmas and set(canonical) <= set(_SIGMAS):
        sigmas, source = tuple(_SIGMAS[name] for name in canonical), "coco-17, by name"
    elif not sigmas and sorted(canonical) == sorted(CROWDPOSE_14.keypoints):
        crowdpose = dict(zip(CROWDPOSE_14.keypoints, CROWDPOSE_14.sigmas, strict=True))
        sigmas, source = tuple(crowdpose[name] for name in canonical), "guessed from names like CrowdPose's"
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


def printable(text: str) -> bool:
    """Whether a text can be written as UTF-8 and be part of a file name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def numbered(entries: list[Any]) -> Skeleton:
    """A skeleton without names for a file whose categories name no keypoints: as many as most people have."""
    lists = (entry.get("keypoints") for entry in entries if isinstance(entry, dict))
    counts = Counter(len(one) // 3 for one in lists if isinstance(one, list | array) and len(one) % 3 == 0 and one)
    return Skeleton.generic(counts.most_common(1)[0][0] if counts else 17)


def in_order(keypoints: NDArray[np.float32], wanted: Skeleton, own: Skeleton) -> NDArray[np.float32]:
    """Keypoints in the order of the skeleton that is wanted, where the file has the same names in another order."""
    theirs, names = ([canonical_name(name) for name in one.keypoints] for one in (wanted, own))
    if names == theirs or sorted(names) != sorted(theirs) or len(set(names)) < len(names):
        return keypoints
    return keypoints[:, [names.index(name) for name in theirs]]
