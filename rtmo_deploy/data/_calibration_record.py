"""The records of named calibration sets: which there are, and what one says. No picture is touched here.

The records are the JSON files of ``calibration/sets`` in the repository. They are installed with the package as
``rtmo_deploy/data/calibration_sets``, byte for byte the same; the former are what is edited, a test compares them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Literal

from rtmo_deploy.errors import InputDataError, UsageError

SCHEMA_VERSION: Final = 1
#: The one rule there is: ids in ascending order of the pictures with at least one person (no crowd) who has labelled
#: keypoints; of n such pictures the ones numbered ``floor(i * n / count)``.
RULE: Final = "evenly spaced by id, of those with people"

_COMMON: Final = {"schema_version", "name", "description", "source", "count"}
_OWN: Final = {"synthetic": {"seed", "options"}, "annotations": {"annotations", "rule"}}


@dataclass(frozen=True)
class SetRecord:
    """A named set of images, drawn from a seed and options, or chosen by a rule from a file that the user has."""

    name: str
    description: str
    source: Literal["synthetic", "annotations"]
    count: int
    seed: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    annotations: str = ""


def named_sets() -> tuple[str, ...]:
    """Names of all sets, sorted."""
    folder = files("rtmo_deploy.data") / "calibration_sets"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def read_record(name: str) -> SetRecord:
    """The record of a named set. UsageError where there is none, InputDataError where it is damaged."""
    if name not in named_sets():
        raise UsageError(
            f"There is no calibration set '{name}'.",
            remedy=f"There are: {', '.join(named_sets())}; or give a folder of pictures.",
        )
    text = (files("rtmo_deploy.data") / "calibration_sets" / f"{name}.json").read_text(encoding="utf-8")
    return parse_record(text, where=f"{name}.json")


def parse_record(text: str, *, where: object) -> SetRecord:
    """Read a record; InputDataError where it is none."""
    try:
        return _record(json.loads(text))
    except (ValueError, AttributeError) as error:
        raise InputDataError(
            f"This record of a calibration set is damaged: {error}.", remedy="Install rtmo-deploy again.", where=where
        ) from error


def _record(data: Any) -> SetRecord:
    """The record that a JSON document is; a ValueError where it is none."""
    if not isinstance(data, dict) or data.get("source") not in _OWN:
        raise ValueError(f"its source is none of {', '.join(_OWN)}")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"its schema version is {data.get('schema_version')!r}, not {SCHEMA_VERSION}")
    odd = set(data) ^ (_COMMON | _OWN[data["source"]])
    if odd:
        raise ValueError(f"unknown or missing: {', '.join(sorted(odd))}")
    if data.get("rule", RULE) != RULE:
        raise ValueError(f"its rule is none that is known: {data['rule']!r}")
    for key, least in (("count", 1), ("seed", 0)):
        if type(data.get(key, least)) is not int or data.get(key, least) < least:
            raise ValueError(f"{key} is {data[key]!r}")
    options = tuple(
        (str(key), tuple(value) if isinstance(value, list) else value)
        for key, value in sorted(data.get("options", {}).items())
    )
    return SetRecord(
        name=str(data["name"]),
        description=str(data["description"]),
        source=data["source"],
        count=data["count"],
        seed=data.get("seed", 0),
        options=options,
        annotations=str(data.get("annotations", "")),
    )
