"""The facts a checkpoint carries beside its weights, plain data only, in and out; and what its keypoints mean."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.files import UnreadableError
from rtmo_deploy.model.pickled import array_values
from rtmo_deploy.plain import parse_json
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.sides import mirror_of
from rtmo_deploy.zoo.skeletons import COCO_17, UNKNOWN_SIGMA, convention_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.zoo import Variant

_FACTS = ("epoch", "iter", "time", "seed", "experiment_name", "mmengine_version", "mmpose_version")
_LONGEST_TEXT = 1000
_MOST_KEYPOINTS = 1000
_DEEPEST = 32
_LARGEST = 200_000


def copied(value: Any) -> Any:
    """Copy plain data, tuples as lists."""
    budget = _LARGEST

    def copy(item: Any, depth: int) -> Any:
        nonlocal budget
        budget -= len(item) + 1 if isinstance(item, str) else 1
        if depth > _DEEPEST or budget < 0:
            raise ValueError("data nested too deep or too large")
        if item is None or type(item) in (bool, int) or (type(item) is float and math.isfinite(item)):
            return item
        if type(item) is str:
            # A new object each time: pickle writes a string it has seen before, by identity, differently.
            return item.encode("utf-8", "replace").decode("utf-8")
        if isinstance(item, list | tuple):
            return [copy(part, depth + 1) for part in item]
        if isinstance(item, dict) and all(type(key) in (str, int) for key in item):
            return {copy(key, depth + 1): copy(part, depth + 1) for key, part in item.items()}
        raise ValueError(f"a {type(item).__name__}{'' if type(item) is not float else ' that is not finite'}")

    return copy(value, 0)


def read_facts(meta: Mapping[Any, Any]) -> dict[str, Any]:
    """The facts worth keeping of a checkpoint's ``meta``, ready for JSON."""
    facts = {key: meta[key] for key in _FACTS if _is_fact(meta.get(key))}
    dataset = _dataset_facts(meta.get("dataset_meta"))
    if dataset:
        facts["dataset_meta"] = dataset
    ours = meta.get("rtmo_deploy")
    if isinstance(ours, dict):
        try:
            facts["rtmo_deploy"] = json.loads(json.dumps(copied(ours)))
        except ValueError as error:
            raise CheckpointError(
                f"Its record 'rtmo_deploy' is not plain data: there is {error} in it.",
                remedy="Write the checkpoint again with this project.",
            ) from None
    return facts


def decoded(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a .safetensors file, where each value is text: JSON if this project wrote it."""
    found: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            found[key] = parse_json(text, max_depth=_DEEPEST // 2)
        except UnreadableError:
            found[key] = text
    return found


def _is_fact(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is bool or (type(value) is int and abs(value) < 1 << 63)


def _dataset_facts(dataset: Any) -> dict[str, Any]:
    """Plain facts of a ``dataset_meta``: keypoint names, pairs, links, colours and sigmas, those that can be read."""
    if not isinstance(dataset, dict):
        return {}
    facts = {key: dataset[key] for key in ("dataset_name", "num_keypoints") if _is_fact(dataset.get(key))}
    names = _numbered(dataset.get("keypoint_id2name")) or _rows(dataset.get("keypoint_names"))
    info = [] if names else _numbered(dataset.get("keypoint_info"))
    if info and all(isinstance(one, dict) for one in info):  # in the form of MMPose's dataset files: as lists
        names = [one.get("name") for one in info]
        links = dataset.get("skeleton_info")
        links = [one for one in links.values() if isinstance(one, dict)] if isinstance(links, dict) else []
        dataset = {
            "flip_indices": [one.get("swap") or place for place, one in enumerate(info)],
            "keypoint_colors": [one.get("color") for one in info],
            "skeleton_links": [one.get("link") for one in links],
            "skeleton_link_colors": [one.get("color") for one in links],
            "sigmas": dataset.get("sigmas"),
        }
    if not names or not all(isinstance(name, str) and _is_fact(name) for name in names):
        return facts
    index = {name: place for place, name in enumerate(names)}
    edges = _pairs(dataset.get("skeleton_links"), index)
    found: dict[str, list[Any]] = {
        "flip_pairs": _swaps(dataset.get("flip_indices"), index) or _once(_pairs(dataset.get("flip_pairs"), index)),
        "skeleton_links": edges,
        "keypoint_colors": _colours(dataset.get("keypoint_colors"), len(names)),
        "sigmas": _sigmas(dataset.get("sigmas"), len(names)),
        "skeleton_link_colors": _colours(dataset.get("skeleton_link_colors"), len(edges)),
    }
    return facts | {"keypoint_names": names} | {key: value for key, value in found.items() if value}


def _rows(value: Any, count: int | None = None) -> list[Any]:
    """The items of a list, a tuple or a small array; none where it is something else, or has not ``count`` of them."""
    value = array_values(value)
    fits = isinstance(value, list | tuple) and len(value) <= _MOST_KEYPOINTS and count in (None, len(value))
    return list(value) if fits else []


def _numbered(entries: Any) -> list[Any]:
    """The values of a dict that is keyed 0, 1, 2 and so on, None for those that are missing."""
    known = isinstance(entries, dict) and len(entries) <= _MOST_KEYPOINTS
    return [entries.get(number) for number in range(len(entries))] if known else []


def _place(value: Any, index: Mapping[str, int]) -> int | None:
    """Index of a keypoint that is given by its name or its index."""
    if isinstance(value, str):
        return index.get(value)
    return value if type(value) is int and 0 <= value < len(index) else None


def _pairs(rows: Any, index: Mapping[str, int]) -> list[list[int]]:
    """Pairs of two different keypoints; an empty list if any row is something else."""
    pairs: list[list[int]] = []
    for row in _rows(rows):
        ends = [place for end in _rows(row, 2) if (place := _place(end, index)) is not None]
        if len(set(ends)) != 2:
            return []
        pairs.append(ends)
    return pairs


def _once(pairs: list[list[int]]) -> list[list[int]]:
    """Each pair once, where a file lists it in both directions; empty if a keypoint is in two pairs."""
    found = sorted({(min(pair), max(pair)) for pair in pairs})
    ends = [end for pair in found for end in pair]
    return [list(pair) for pair in found] if len(set(ends)) == len(ends) else []


def _swaps(order: Any, index: Mapping[str, int]) -> list[list[int]]:
    """Pairs out of the keypoint that takes each one's place in a mirrored image; empty if they do not match."""
    places = [_place(one, index) for one in _rows(order, len(index))]
    if any(one is None or places[one] != place for place, one in enumerate(places)):
        return []
    return [[place, one] for place, one in enumerate(places) if one is not None and place < one]


def _colours(rows: Any, count: int) -> list[list[int]]:
    """RGB of each of ``count``; an empty list if they are not all there."""
    colours = [_rows(row, 3) for row in _rows(rows, count)]
    sound = all(row and all(type(one) in (int, float) and 0 <= one <= 255 for one in row) for row in colours)
    return [[int(one) for one in row] for row in colours] if sound else []


def _sigmas(values: Any, count: int) -> list[float]:
    sigmas = _rows(values, count)
    sound = all(type(one) in (int, float) and math.isfinite(one) and one > 0 for one in sigmas)
    return [float(one) for one in sigmas] if sound else []


# -- what the keypoints mean


def skeleton_of(
    meta: Mapping[str, Any], record: Mapping[str, Any], variant: Variant | None, trained_with: Sequence[float]
) -> Skeleton:
    """What the keypoints mean: as stored by this project, as the dataset's metadata says, or as the file's hash says.

    The sigmas are those in the state dict, which the model was trained with. Without names, COCO's are concluded from
    COCO's sigmas.
    """
    count = len(trained_with)
    sigmas = tuple(round(value, 6) for value in trained_with)
    if not all(0 < value < 1 for value in sigmas) or set(sigmas) == {UNKNOWN_SIGMA}:
        sigmas = ()
    stored = record.get("skeleton")
    if isinstance(stored, dict):
        try:
            skeleton = Skeleton.from_dict(stored)
        except (KeyError, TypeError, ValueError, AttributeError):
            skeleton = Skeleton.generic(count)
        if len(skeleton) == count:
            return skeleton
    dataset = meta.get("dataset_meta")
    if isinstance(dataset, dict) and len(dataset.get("keypoint_names", ())) == count:
        return _from_dataset(dataset, sigmas)
    if variant is not None:
        return variant.skeleton
    if len(sigmas) == count == len(COCO_17) and np.allclose(COCO_17.sigmas, sigmas, atol=1e-4):
        return replace(COCO_17, source="guessed from its sigmas")
    return replace(Skeleton.generic(count), sigmas=sigmas, source="head.loss_oks.sigmas" if sigmas else "")


def _from_dataset(facts: Mapping[str, Any], sigmas: tuple[float, ...]) -> Skeleton:
    names = tuple(facts["keypoint_names"])
    known = convention_of(names)
    links, pairs = facts.get("skeleton_links", ()), facts.get("flip_pairs", ())
    try:
        return Skeleton(
            name=known.name if known else f"{facts.get('dataset_name', 'custom')}-{len(names)}",
            keypoints=names,
            edges=tuple((first, second) for first, second in links) or (known.edges if known else ()),
            flip_pairs=tuple((first, second) for first, second in pairs) or mirror_of(names).pairs,
            sigmas=sigmas or tuple(facts.get("sigmas", ())),
            keypoint_colours=_hex(facts.get("keypoint_colors", ())),
            edge_colours=_hex(facts.get("skeleton_link_colors", ())) if links else (),
            source="dataset_meta",
        )
    except (TypeError, ValueError):
        return replace(Skeleton.generic(len(names)), keypoints=names, sigmas=sigmas)


def _hex(rows: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple("#" + "".join(f"{part:02x}" for part in row) for row in rows)
