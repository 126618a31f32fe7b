"""From a category of an annotation file to a Skeleton: names, edges, mirror pairs, and sigmas where they are known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import InputDataError
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.zoo.skeletons import COCO_17, CROWDPOSE_14

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rtmo_deploy.data._findings import Collector

__all__ = ["choose_categories", "flip_pairs", "skeleton_of"]

_KNOWN: Final = (COCO_17, CROWDPOSE_14)
#: Other names that annotation files give to these keypoints.
_SYNONYMS: Final = {"head": "top_head", "head_top": "top_head", "headtop": "top_head"}
_MIRRORED: Final = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SIGMAS: Final = {name: s for known in _KNOWN for name, s in zip(known.keypoints, known.sigmas, strict=True)}


def _words(name: str) -> list[str]:
    """``LeftShoulder``, ``left-shoulder`` and ``left shoulder`` -> ``["left", "shoulder"]``."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^a-z0-9]+", split.lower()) if word]


def _canonical(name: str) -> str:
    joined = "_".join(_words(name))
    return _SYNONYMS.get(joined, joined)


def flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of indices whose names differ in ``left``/``right`` (or ``l``/``r``) only, the left one first."""
    places = {tuple(_words(name)): index for index, name in enumerate(names)}
    pairs = []
    for index, name in enumerate(names):
        words = _words(name)
        if not {"left", "l"} & set(words):
            continue
        partner = places.get(tuple(_MIRRORED.get(word, word) for word in words))
        if partner is not None and partner != index:
            pairs.append((index, partner))
    return tuple(pairs)


def skeleton_of(category: dict[str, Any], found: Collector) -> Skeleton:
    """The skeleton that a category's ``keypoints`` and ``skeleton`` describe.

    A category with all the names of COCO's or CrowdPose's keypoints, in their order, gives that convention itself.
    Others get sigmas if every name is one of theirs; else none: nobody has measured them.

    Args:
        category: An entry of ``categories`` with a list ``keypoints``.
        found: Told about edges that lead nowhere.
    """
    names = tuple(str(name) for name in category["keypoints"])
    canonical = tuple(_canonical(name) for name in names)
    for known in _KNOWN:
        if canonical == known.keypoints:
            return known
    edges: list[tuple[int, int]] = []
    rows = category.get("skeleton")
    for row in rows if isinstance(rows, list) else []:
        whole = isinstance(row, list) and len(row) == 2 and all(type(end) is int for end in row)
        if whole and all(1 <= end <= len(names) for end in row):
            edges.append((row[0] - 1, row[1] - 1))
        else:
            found.add("skeleton")
    sigmas = tuple(_SIGMAS[name] for name in canonical) if set(canonical) <= set(_SIGMAS) else ()
    label = str(category.get("name") or "custom")
    return Skeleton(f"{label}-{len(names)}", names, tuple(edges), flip_pairs(names), sigmas)


def choose_categories(categories: object, wanted: str | None, file: Path) -> list[dict[str, Any]]:
    """The categories that are meant, which all have the same keypoints; an empty list if none names its keypoints.

    Args:
        categories: What stands in the file under ``categories``.
        wanted: Name of a category, if the caller says.
        file: Named in errors.

    Raises:
        InputDataError: There is no such category, or there are several kinds of keypoints and no choice.
    """
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
        if len(set(joints)) < len(joints):
            twice = sorted({name for name in joints if joints.count(name) > 1})
            raise InputDataError(
                f"The category '{entry.get('name')}' has more than one keypoint called {', '.join(twice)}.",
                remedy="Give each keypoint a name of its own.",
                where=file,
            )
    return able
