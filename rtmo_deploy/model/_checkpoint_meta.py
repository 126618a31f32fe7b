"""The facts a checkpoint carries beside its weights: plain data only, in and out."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from rtmo_deploy.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["NotPlainError", "config_of", "plain", "read_facts", "read_strings"]

_FACTS = ("epoch", "iter", "time", "seed", "experiment_name", "mmengine_version", "mmpose_version")
_LONGEST_TEXT = 1000
_MOST_KEYPOINTS = 1000
_DEEPEST = 32
_LARGEST = 200_000


class NotPlainError(ValueError):
    """A value is more than dict, list, str, int, float, bool and None; the message says what."""


def plain(value: Any) -> Any:
    """Copy plain data, tuples as lists.

    Raises:
        NotPlainError: It holds something else, a NaN, or is nested without end.
    """
    budget = _LARGEST

    def copy(item: Any, depth: int) -> Any:
        nonlocal budget
        budget -= len(item) + 1 if isinstance(item, str) else 1
        if depth > _DEEPEST or budget < 0:
            raise NotPlainError("data nested too deep or too large")
        if item is None or type(item) in (bool, int) or (type(item) is float and math.isfinite(item)):
            return item
        if type(item) is str:
            # A new object each time: pickle writes a string it has seen before, by identity, differently.
            return item.encode("utf-8", "replace").decode("utf-8")
        if isinstance(item, list | tuple):
            return [copy(part, depth + 1) for part in item]
        if isinstance(item, dict) and all(type(key) in (str, int) for key in item):
            return {copy(key, depth + 1): copy(part, depth + 1) for key, part in item.items()}
        raise NotPlainError(f"a {type(item).__name__}{'' if type(item) is not float else ' that is not finite'}")

    return copy(value, 0)


def read_facts(meta: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """The facts worth keeping of a checkpoint's ``meta``, ready for JSON.

    Raises:
        CheckpointError: This project's own record in it is not plain data.
    """
    facts = {key: meta[key] for key in _FACTS if _is_fact(meta.get(key))}
    dataset = _dataset_facts(meta.get("dataset_meta"))
    if dataset:
        facts["dataset_meta"] = dataset
    ours = meta.get("rtmo_deploy")
    if isinstance(ours, dict):
        try:
            facts["rtmo_deploy"] = json.loads(json.dumps(plain(ours)))
        except NotPlainError as error:
            raise CheckpointError(
                f"Its record 'rtmo_deploy' is not plain data: there is {error} in it.",
                remedy="Write the checkpoint again with this project.",
                where=path,
            ) from None
    return facts


def config_of(meta: Mapping[Any, Any]) -> Any:
    """The MMEngine config in a checkpoint's ``meta``: ``cfg``, or ``config`` of older files. None if there is none."""
    return meta.get("cfg", meta.get("config"))


def read_strings(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The metadata of a .safetensors file, where each value is text: JSON if this project wrote it."""
    decoded: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            decoded[key] = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            decoded[key] = text
    return decoded | read_facts(decoded, path)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _is_fact(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is bool or (type(value) is int and abs(value) < 1 << 63)


def _dataset_facts(dataset: Any) -> dict[str, Any]:
    if not isinstance(dataset, dict):
        return {}
    facts = {key: dataset[key] for key in ("dataset_name", "num_keypoints") if _is_fact(dataset.get(key))}
    names = dataset.get("keypoint_names")
    by_number = dataset.get("keypoint_id2name")
    if isinstance(by_number, dict) and len(by_number) <= _MOST_KEYPOINTS:
        names = [by_number.get(number) for number in range(len(by_number))]
    if isinstance(names, list | tuple) and 0 < len(names) <= _MOST_KEYPOINTS:
        names = list(names)
        if all(isinstance(name, str) and _is_fact(name) for name in names):
            facts["keypoint_names"] = names
    return facts
