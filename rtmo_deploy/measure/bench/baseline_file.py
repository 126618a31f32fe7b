"""Reading a baseline: an earlier result, refused where it is damaged or was asked for something else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench.result import RESULT_VERSION
from rtmo_deploy.plain import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rtmo_deploy.measure.bench.options import BenchOptions

#: Bytes of a baseline.
MAX_BYTES = 2**28
#: Options that must be the same for any number to be compared.
SAME_OPTIONS = ("device", "images", "picture_hw", "spinning")
#: What must be the same of a contender.
SAME_CONTENDER = ("kind", "architecture", "precision", "backend", "device", "compiled", "input_hw")


def case_of(entry: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The case of an entry, to look it up by."""
    return tuple(sorted(entry["case"].items()))


def key_of(entry: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Contender and case of an entry, to look it up by."""
    return entry["contender"]["label"], case_of(entry)


def load_baseline(path: Path) -> dict[str, Any]:
    """Read what ``rtmo-deploy bench --json`` wrote.

    Raises:
        UsageError: It is not there, or not such a file, or of a newer release.
    """
    try:
        document = read_json(path, max_bytes=MAX_BYTES)
    except OSError as error:  # UnreadableError too
        raise UsageError(
            f"The baseline cannot be read: {error.strerror or error}.",
            remedy="Write one with: rtmo-deploy bench MODEL --json",
            where=path,
        ) from error
    if not isinstance(document, dict) or document.get("command") != "bench":
        raise UsageError(
            "It is no result of 'rtmo-deploy bench'.",
            remedy="Write one with: rtmo-deploy bench MODEL --json",
            where=path,
        )
    version = document.get("result_version")
    if type(version) is not int or version > RESULT_VERSION:
        raise UsageError(
            f"It has result version {version!r}; this release knows up to {RESULT_VERSION}.",
            remedy="Upgrade rtmo-deploy, or measure the baseline again.",
            where=path,
        )
    try:
        _check(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"The baseline is damaged ({type(error).__name__}: {error}).", remedy="Measure it again.", where=path
        ) from error
    return document


def _check(document: Mapping[str, Any]) -> None:
    """Refuse, with a KeyError, TypeError or ValueError, what could not be compared."""
    str(document["machine"]["fingerprint"]), str(document["protocol"])
    for name in SAME_OPTIONS:
        document["options"][name]
    keys = set()
    for entry in document["entries"]:
        for name in (*SAME_CONTENDER, "label", "reference", "decode"):
            entry["contender"][name]
        rounds = entry["rounds_ms"]
        if not isinstance(rounds, list) or not rounds:
            raise ValueError("an entry has no rounds")
        if any(type(value) not in (int, float) or not math.isfinite(value) or value <= 0 for value in rounds):
            raise ValueError("a round's time is no positive number")
        key = key_of(entry)
        if key in keys:
            raise ValueError(f"{key[0]} occurs twice in one case")
        keys.add(key)


def require_comparable(baseline: Mapping[str, Any], options: BenchOptions, path: Path) -> None:
    """Check before anything is measured that the two ask for the same.

    Raises:
        UsageError: They do not; nothing could be compared.
    """
    asked = options.to_dict()
    if baseline["protocol"] != asked["protocol"]:
        raise UsageError(
            f"The baseline was measured with --protocol {baseline['protocol']}, this is {asked['protocol']}: their "
            "numbers do not have the same in them.",
            remedy="Use the same protocol.",
            where=path,
        )
    for name in SAME_OPTIONS:
        if baseline["options"][name] != asked[name]:
            raise UsageError(
                f"The baseline was measured with {name} = {baseline['options'][name]}, this is {asked[name]}.",
                remedy="Measure both with the same options.",
                where=path,
            )
